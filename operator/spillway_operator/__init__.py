"""Spillway's control plane: the operator that reconciles KVCachePools and the webhook that injects the sidecar.

Imports go one way: handlers, then controller and webhook, then injection, then resources, then api. Nothing is
re-exported here, so that importing one room does not load another.
"""
