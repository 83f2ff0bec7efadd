"""Spillway's data plane: configuration, the sidecar daemon and its policies, the engine-side client and adapters.

This file is imported inside foreign engines: it imports nothing and never will.
"""
