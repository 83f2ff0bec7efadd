"""Tests, and the programs that they stand on: `tests.cluster` gives a Kubernetes."""
