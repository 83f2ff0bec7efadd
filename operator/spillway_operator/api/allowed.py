"""What the administrator allows pools to ask for, and the check of a pool against it.

The webhook makes this check itself instead of waiting for the condition ConfigValid: a pool that was created a moment
ago must not reach a host folder or a foreign image before the operator has looked at it.
"""

from __future__ import annotations

from dataclasses import dataclass

from spillway_operator.api.pool import KVCachePool
from spillway_operator.api.reasons import Reason


@dataclass(frozen=True)
class Allowed:
    """Set by the chart: the default image, and what pools may name beside it."""

    sidecar_image: str
    repositories: tuple[str, ...] = ()
    host_paths: tuple[str, ...] = ()


@dataclass(frozen=True)
class Fault:
    """Why a pool cannot be used: the reason and message of ConfigValid=False."""

    reason: Reason
    message: str


def sidecar_image(pool: KVCachePool, allowed: Allowed) -> str:
    """The image that a new pod of the pool gets."""
    return pool.spec.sidecar.image or allowed.sidecar_image


def image_repository(image: str) -> str:
    """The image's name without tag and digest."""
    name = image.partition("@")[0]
    folder, _, last = name.rpartition("/")
    last = last.partition(":")[0]
    return f"{folder}/{last}" if folder else last


def find_fault(pool: KVCachePool, allowed: Allowed) -> Fault | None:
    """The first thing that the pool asks for and the administrator does not allow, or None."""
    return _image_fault(pool, allowed) or find_host_path_fault(pool, allowed)


def _image_fault(pool: KVCachePool, allowed: Allowed) -> Fault | None:
    image = pool.spec.sidecar.image
    if image is None or image == allowed.sidecar_image:
        return None
    if image_repository(image) in allowed.repositories:
        return None
    return Fault(
        Reason.IMAGE_NOT_ALLOWED,
        f"spec.sidecar.image {image!r} is in none of the allowed repositories ({_listed(allowed.repositories)}): "
        "name an allowed image, or ask the administrator to add the repository to the chart's allowedRepositories",
    )


def find_host_path_fault(pool: KVCachePool, allowed: Allowed) -> Fault | None:
    """Why no pod may mount the folder that the pool names, whatever else is wrong with the pool; None if one may."""
    host_path = pool.spec.tiers.nvme.volume.host_path if pool.spec.tiers.nvme else None
    if host_path is None:
        return None
    if host_path.path in allowed.host_paths:
        return None
    return Fault(
        Reason.HOST_PATH_NOT_ALLOWED,
        f"spec.tiers.nvme.volume.hostPath.path {host_path.path!r} is none of the allowed paths "
        f"({_listed(allowed.host_paths)}): name one of them letter by letter, use another volume type, or ask the "
        "administrator to add the path to the chart's hostPath.allowedPaths",
    )


def _listed(names: tuple[str, ...]) -> str:
    return ", ".join(names) or "none are"
