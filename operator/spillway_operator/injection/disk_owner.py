"""Who gives the NVMe volume to the sidecar's user: decided so that nothing else in the pod changes hands.

A fresh claim's root folder belongs to root. A pod's fsGroup changes that, and with it group and mode of every other volume that
knows owners (a key of mode 0400 in a Secret becomes 0440, and its reader may refuse it). So it is set only where there is nothing that
it would change; elsewhere a container that may change owners does it, as for hostPath, where the namespace admits one.

Source: k8s.io/kubernetes pkg/volume/volume_linux.go, SetVolumeOwnership (1.34): group to fsGroup, mode | 0440, folders setgid.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Any

from spillway_operator.api import NvmeTier, names
from spillway_operator.injection.facts import Pod

# Their files are the kubelet's, with modes that are stated in the pod. Nobody reads more by a group if everybody may read.
_WRITTEN_BY_KUBELET = ("configMap", "secret", "downwardAPI", "projected")
_DEFAULT_MODE = 0o644
_READ_BY_ALL = 0o444
# They have no owner that fsGroup changes, or none but the pod.
_UNCHANGED = ("emptyDir", "hostPath", "image")


class DiskOwner(StrEnum):
    """What gives the volume to the sidecar's user."""

    NOBODY = "nobody"
    """It is writable as it is, or the pod's own fsGroup makes it so; or nothing may be done, and the sidecar says so."""
    FS_GROUP = "fs-group"
    """The pod's fsGroup, which it has none of and which changes nothing else."""
    CONTAINER = "container"
    """The init container `spillway-disk`, root with the right to change owners."""


def decide_disk_owner(pod: Pod, nvme: NvmeTier | None, level: str) -> DiskOwner:
    """For a pod as it came, in a namespace of the Pod Security `level`."""
    if nvme is None or nvme.volume.type == "EmptyDir":
        return DiskOwner.NOBODY
    if nvme.volume.type == "HostPath":
        return DiskOwner.CONTAINER
    if (pod["spec"].get("securityContext") or {}).get("fsGroup") is not None:
        return DiskOwner.NOBODY
    if not any(_would_change(volume) for volume in pod["spec"].get("volumes") or []):
        return DiskOwner.FS_GROUP
    return DiskOwner.NOBODY if level == "restricted" else DiskOwner.CONTAINER


def namespace_level(labels: Mapping[str, str]) -> str:
    """The Pod Security level that a namespace enforces by its label."""
    return labels.get(names.POD_SECURITY_ENFORCE_LABEL, "privileged")


def _would_change(volume: Mapping[str, Any]) -> bool:
    """Whether fsGroup changes who may read the volume's files."""
    if _asks_for_token(volume):
        return True
    for kind in _WRITTEN_BY_KUBELET:
        if kind in volume:
            return any(mode & _READ_BY_ALL != _READ_BY_ALL for mode in _modes(volume[kind] or {}))
    return not any(kind in volume for kind in _UNCHANGED)


def _asks_for_token(volume: Mapping[str, Any]) -> bool:
    """A token of the user's own asking: with fsGroup the kubelet takes it from everybody outside of the group, such as a process that
    gave its groups up. What every pod gets of the API server itself is left out: it would rule fsGroup out for all."""
    if str(volume.get("name", "")).startswith("kube-api-access-"):
        return False
    sources = (volume.get("projected") or {}).get("sources") or []
    return any("serviceAccountToken" in source for source in sources)


def _modes(source: Mapping[str, Any]) -> Iterator[int]:
    default = source.get("defaultMode")
    yield _DEFAULT_MODE if default is None else default
    parts = [source, *(part for projected in source.get("sources") or [] for part in projected.values() if part)]
    for part in parts:
        for item in part.get("items") or []:
            if item.get("mode") is not None:
                yield item["mode"]
