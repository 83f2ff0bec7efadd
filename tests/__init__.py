"""Tests of Spillway; `dev.cluster` gives those that need one a Kubernetes."""
