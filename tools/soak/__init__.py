"""Random engines against one real daemon, with what must hold checked each second. `python -m tools.soak --help`."""
