"""The ConfigMap `<pool>-spillway`: what running sidecars of a pool may change without a restart."""

from __future__ import annotations

from typing import Any

from spillway.config import LIVE_OVERRIDES_FILE, LiveOverrides

from spillway_operator.api import KVCachePool
from spillway_operator.api.names import API_VERSION, KIND, POOL_LABEL, config_map_name


def build_live_overrides(pool: KVCachePool) -> LiveOverrides:
    """The fields of the pool that take effect in running pods."""
    nvme = pool.spec.tiers.nvme
    return LiveOverrides(
        log_level=pool.spec.sidecar.log_level,
        nvme_deadline_seconds=None if nvme is None else nvme.io.deadline_seconds,
    )


def build_config_map(pool: KVCachePool) -> dict[str, Any]:
    """Render the ConfigMap, owned by the pool, in the pool's namespace. Pods mount it optionally."""
    metadata = pool.metadata
    owner = {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": metadata.name,
        "uid": metadata.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": config_map_name(metadata.name),
            "namespace": metadata.namespace,
            # Pods are found by this label, so is this ConfigMap: one watch each, filtered by the API server.
            "labels": {POOL_LABEL: metadata.name, "app.kubernetes.io/part-of": "spillway"},
            "ownerReferences": [owner],
        },
        "data": {LIVE_OVERRIDES_FILE: build_live_overrides(pool).render()},
    }
