"""The API of Spillway: KVCachePool's models, defaults and rules, its names and reasons, and the CRD made from them.

The single source of truth: CRD, chart and reference are generated from here (`python -m spillway_operator.api.crd`).
Pure: nothing here talks to anything.
"""

from spillway_operator.api.allowed import (
    Allowed,
    Fault,
    find_fault,
    find_host_path_fault,
    image_repository,
    sidecar_image,
)
from spillway_operator.api.pool import KVCachePool, Metadata, parse_pool
from spillway_operator.api.reasons import Reason, SkipReason
from spillway_operator.api.spec import (
    EmptyDirVolume,
    EngineSpec,
    EphemeralVolume,
    HostPathVolume,
    NvmeTier,
    NvmeVolume,
    PoolSpec,
    SidecarSpec,
    Tiers,
)
from spillway_operator.api.status import (
    Condition,
    DiskStatus,
    HitStatus,
    InjectionStatus,
    Member,
    PodCounts,
    PoolStatus,
    TierStatus,
)
from spillway_operator.api.users import UserClaim, claim_user, find_user_fault, pool_user

__all__ = [
    "Allowed",
    "Condition",
    "DiskStatus",
    "EmptyDirVolume",
    "EngineSpec",
    "EphemeralVolume",
    "Fault",
    "HitStatus",
    "HostPathVolume",
    "InjectionStatus",
    "KVCachePool",
    "Member",
    "Metadata",
    "NvmeTier",
    "NvmeVolume",
    "PodCounts",
    "PoolSpec",
    "PoolStatus",
    "Reason",
    "SidecarSpec",
    "SkipReason",
    "TierStatus",
    "Tiers",
    "UserClaim",
    "claim_user",
    "find_fault",
    "find_host_path_fault",
    "find_user_fault",
    "image_repository",
    "parse_pool",
    "pool_user",
    "sidecar_image",
]
