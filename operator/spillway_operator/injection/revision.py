"""Render a pool into its sidecars' configuration, and give that rendering a short name: the revision."""

from __future__ import annotations

import hashlib
import json

from spillway.config import DramConfig, NvmeConfig, PoolIdentity, SidecarConfig, heap_bytes, index_bytes

from spillway_operator.api import KVCachePool, NvmeTier

REVISION_LENGTH = 12
# What running pods take over live, or what rotates by itself, makes no pod outdated.
_NOT_PART: dict[str, bool | set[str]] = {
    "revision": True,
    "log_level": True,
    "status_public_keys": True,
    "nvme": {"deadline_seconds"},
}


def build_sidecar_config(pool: KVCachePool, image: str, status_public_keys: tuple[str, ...] = ()) -> SidecarConfig:
    """The whole configuration of a sidecar of `pool` that runs `image`, its revision included."""
    nvme = pool.spec.tiers.nvme
    dram_bytes = pool.spec.tiers.dram.capacity_bytes
    entries = index_bytes(dram_bytes, 0 if nvme is None else nvme.capacity_bytes)
    config = SidecarConfig(
        pool=PoolIdentity(namespace=pool.metadata.namespace, name=pool.metadata.name, uid=pool.metadata.uid),
        revision="",
        cache_epoch=pool.spec.cache_epoch,
        dram=DramConfig(capacity_bytes=dram_bytes),
        nvme=None if nvme is None else _build_nvme(nvme),
        index_bytes=entries,
        heap_bytes=heap_bytes(entries),
        log_level=pool.spec.sidecar.log_level,
        status_public_keys=status_public_keys,
    )
    return config.model_copy(update={"revision": _revision(pool, image, config)})


def pool_revision(pool: KVCachePool, image: str) -> str:
    """The revision that a new pod of `pool` gets: 12 hex digits, the label spillway.dev/revision.

    It names everything that only a new pod can take over: image, configuration, CPU, security context and volume.
    """
    return build_sidecar_config(pool, image).revision


def _revision(pool: KVCachePool, image: str, config: SidecarConfig) -> str:
    nvme, sidecar = pool.spec.tiers.nvme, pool.spec.sidecar
    parts = {
        "image": image,
        "config": config.model_dump(mode="json", exclude=_NOT_PART),
        "engine": pool.spec.engine.model_dump(mode="json"),
        "resources": sidecar.resources.model_dump(mode="json"),
        "security": sidecar.security_context.model_dump(mode="json"),
        "volume": None if nvme is None else nvme.volume.model_dump(mode="json"),
    }
    canonical = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:REVISION_LENGTH]


def _build_nvme(tier: NvmeTier) -> NvmeConfig:
    host_path = tier.volume.host_path
    return NvmeConfig(
        capacity_bytes=tier.capacity_bytes,
        reserve_percent=tier.reserve_percent,
        volume_type=tier.volume.type,
        slots=1 if host_path is None else host_path.max_pods_per_node,
        direct=tier.io.direct,
        deadline_seconds=tier.io.deadline_seconds,
    )
