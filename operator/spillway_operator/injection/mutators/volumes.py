"""The volumes: arena, index and run in memory, an empty one in the token's place, the client's folder, live overrides, NVMe by type."""

from __future__ import annotations

from typing import Any

from spillway.config import MIB

from spillway_operator.api import Metadata, NvmeTier, names
from spillway_operator.api.quantity import format_bytes
from spillway_operator.injection.facts import Pod
from spillway_operator.injection.plan import Plan

# Lock file, file system, and what engines in the middle of a lookup touch of an index that was just replaced.
INDEX_SLACK_BYTES = 16 * MIB
# 64 control files of at most 2 MiB: an arbitrary bound that keeps a misbehaving engine from filling the pod's memory.
RUN_BYTES = 128 * MIB


# Nothing is ever written to it.
NO_TOKEN_BYTES = 4096


def no_token() -> dict[str, Any]:
    """The mount that keeps the pod's ServiceAccount token out of a container of ours, which asks no API server anything."""
    return {"name": names.NO_TOKEN_VOLUME, "mountPath": names.TOKEN_PATH, "readOnly": True}


def mutate(pod: Pod, plan: Plan) -> None:
    """Append the volumes after the user's."""
    config = plan.config
    added = [
        _memory(names.ARENA_VOLUME, config.dram.capacity_bytes),
        _memory(names.INDEX_VOLUME, config.index_bytes + INDEX_SLACK_BYTES),
        _memory(names.RUN_VOLUME, RUN_BYTES),
        _memory(names.NO_TOKEN_VOLUME, NO_TOKEN_BYTES),
        {"name": names.CLIENT_VOLUME, "emptyDir": {}},
        {
            "name": names.CONFIG_VOLUME,
            "configMap": {"name": names.config_map_name(plan.pool.metadata.name), "optional": True},
        },
    ]
    if plan.nvme is not None:
        added.append({"name": names.NVME_VOLUME, **_nvme_source(plan.nvme, plan.pool.metadata)})
    pod["spec"].setdefault("volumes", []).extend(added)


def _memory(name: str, size_bytes: int) -> dict[str, Any]:
    return {"name": name, "emptyDir": {"medium": "Memory", "sizeLimit": format_bytes(size_bytes)}}


def _nvme_source(nvme: NvmeTier, metadata: Metadata) -> dict[str, Any]:
    volume = nvme.volume
    if volume.host_path is not None:
        # This pool's folder and nothing above it. The kubelet makes it, as root, and spillway-disk gives it to the sidecar's
        # user; where the disk is not mounted it does not, so that such a node costs the tier and not the pod: docs/adr/0001.
        folder = names.pool_folder(volume.host_path.path, metadata.namespace, metadata.uid)
        return {"hostPath": {"path": folder, "type": "DirectoryOrCreate"}}
    if volume.empty_dir is not None:
        return {"emptyDir": {"sizeLimit": volume.empty_dir.size_limit}}
    return {"ephemeral": {"volumeClaimTemplate": {"spec": _claim(nvme)}}}


def _claim(nvme: NvmeTier) -> dict[str, Any]:
    ephemeral = nvme.volume.ephemeral
    claim: dict[str, Any] = {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": format_bytes(nvme.volume_bytes)}},
    }
    if ephemeral is not None and ephemeral.storage_class_name is not None:
        claim["storageClassName"] = ephemeral.storage_class_name
    return claim
