"""docs/metrics.md, rendered from the catalogue."""

from __future__ import annotations

from tools.metric_catalogue import FOREIGN, Entry, catalogue

_HEAD = """\
# Metrics

Generated from the code by `make generate`; `make lint` fails where this page is older. Names are stable: renaming one breaks
somebody's dashboard. Cardinality is bounded: every label has the values listed here and no other, and none names a pod, a key or a
tenant. Namespace, pod and pool of a sidecar's figures are labels that Prometheus adds (`metrics.podMonitor.enabled` of the chart does).

Rules and boards of the chart query what stands here, and of others only these: {foreign}.
"""

_SECTIONS = {
    "sidecar": """\
## Sidecar (`:9464/metrics` of every injected pod)

Counters count since the daemon's start, those that engines keep (lookups, tokens, moved chunks, failures) since the pod's: the client in
the engine has no endpoint of its own and writes them where the sidecar reads them.""",
    "operator": "## Operator (`:8080/metrics`)\n\nA standby serves the same names; only the leader's figures move.",
    "webhook": "## Webhook (`:8080/metrics`)",
}


def render() -> str:
    """The whole page."""
    entries = catalogue()
    foreign = ", ".join(f"`{name}` {whose}" for name, whose in sorted(FOREIGN.items()))
    parts = [_HEAD.format(foreign=foreign)]
    for process, title in _SECTIONS.items():
        rows = [_row(entry) for entry in entries if entry.process == process]
        table = ["| metric | type | labels and their values | unit | meaning |", "|---|---|---|---|---|", *rows]
        parts.append("\n".join([title, "", *table]) + "\n")
    return "\n".join(parts)


def _row(entry: Entry) -> str:
    labels = "; ".join(f"`{label}`: {', '.join(values)}" for label, values in entry.labels.items()) or "-"
    return f"| `{entry.name}` | {entry.kind} | {labels} | {entry.unit} | {entry.meaning} |"
