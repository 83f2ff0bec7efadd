"""The operator's controller: observe, diff, apply, report.

All that talks to the API server on the operator's side lives here, behind one client (client.py). Decisions are pure
functions over facts (facts.py, conditions.py, tiers.py, status.py). kopf is not imported here: handlers.py and the entry
point hold it. Nothing is re-exported: name the module you mean.
"""
