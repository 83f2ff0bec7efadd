"""The sidecar process, started for real on a folder."""
