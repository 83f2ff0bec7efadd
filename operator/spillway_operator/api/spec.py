"""spec of KVCachePool v1alpha1: exactly the fields that do something today. Every quantity is per pod.

The rules that compare fields run in the API server (`rules(...)`, CEL): a pool that breaks one is never stored. The
models check each value by itself, so that a wrong one cannot travel further. No member of the volume union has a default
that would create it: a stored default belongs to nobody and would later make the union uneditable.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from spillway.config import DirectMode, LogLevel, VolumeType

from spillway_operator.api.model import ApiModel, rules
from spillway_operator.api.names import FIRST_DERIVED_USER, SIDECAR_UID
from spillway_operator.api.quantity import (
    BytesQuantity,
    CpuQuantity,
    Duration,
    parse_bytes,
    parse_duration_seconds,
    parse_millicores,
)

DNS_LABEL_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
DNS_NAME_PATTERN = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"


class EngineSpec(ApiModel):
    """Which container of a pod is the inference engine."""

    container: str | None = Field(
        default=None,
        max_length=63,
        pattern=DNS_LABEL_PATTERN,
        description="Name of the engine's container. Needed only where several containers of a pod look like engines.",
    )


class SidecarRequests(ApiModel):
    """What the sidecar asks of the node beside its memory, which follows from the tiers."""

    cpu: CpuQuantity = Field(default="500m", description="CPU that the sidecar requests.")


class SidecarLimits(ApiModel):
    """What the sidecar may use at most beside its memory, which follows from the tiers."""

    cpu: CpuQuantity | None = Field(
        default=None,
        description="CPU that the sidecar may use. Absent: as much as it requests in a Guaranteed pod, else 2 or its "
        "request if that is more.",
    )


class SidecarResources(ApiModel):
    """CPU of the sidecar. Its memory is derived from the tiers."""

    model_config = rules(
        (
            "!has(self.limits.cpu) || "
            "quantity(string(self.limits.cpu)).compareTo(quantity(string(self.requests.cpu))) >= 0",
            "limits.cpu must not be less than requests.cpu: raise the limit or lower the request",
        )
    )

    requests: SidecarRequests = Field(default=SidecarRequests(), description="CPU requested.")
    limits: SidecarLimits = Field(default=SidecarLimits(), description="CPU limit.")


class SeLinuxOptions(ApiModel):
    """SELinux label of the sidecar; only what Pod Security admits everywhere."""

    type: Literal["container_t", "container_init_t", "container_kvm_t", "container_engine_t"] | None = Field(
        default=None, description="SELinux type."
    )
    level: str | None = Field(default=None, max_length=64, description='SELinux level, as "s0:c123,c456".')


class SidecarSecurity(ApiModel):
    """The part of the security context that a pool may choose; the rest always meets Pod Security level restricted."""

    # Else a pool that was made early could take the user of one that was made since.
    model_config = rules(
        (
            "!has(self.runAsUser) || (has(oldSelf.runAsUser) && self.runAsUser == oldSelf.runAsUser)",
            "securityContext.runAsUser must not be set or changed later, or a pool could take another's user: remove it, "
            "or make a new pool and change the label of the pods to it",
        )
    )

    run_as_user: int | None = Field(
        default=None,
        ge=1,
        le=FIRST_DERIVED_USER - 1,
        description="User id of the sidecar; never root, and of no other pool in the cluster. Absent: one of the pool's own.",
    )
    run_as_group: int = Field(default=SIDECAR_UID, ge=0, le=2**31 - 1, description="Group id of the sidecar.")
    se_linux_options: SeLinuxOptions | None = Field(default=None, description="SELinux label of the sidecar.")


class SidecarSpec(ApiModel):
    """The sidecar container."""

    image: str | None = Field(
        default=None,
        min_length=1,
        max_length=512,
        description="Image of the sidecar, from a repository that the administrator allowed. Absent: the operator's own "
        "version.",
    )
    resources: SidecarResources = Field(default=SidecarResources(), description="CPU of the sidecar.")
    security_context: SidecarSecurity = Field(default=SidecarSecurity(), description="Who the sidecar runs as.")
    log_level: LogLevel = Field(
        default="Info", description="Least level that the sidecar logs; takes effect in running pods."
    )


class DramTier(ApiModel):
    """The DRAM tier: an arena in memory of the pod."""

    model_config = rules(
        (
            "quantity(string(self.capacity)).compareTo(quantity('64Mi')) >= 0",
            "dram.capacity must be at least 64Mi: raise it, for example to 8Gi",
        )
    )

    capacity: BytesQuantity = Field(description="Size of the arena, counted in the pod's memory; at least 64Mi.")

    @property
    def capacity_bytes(self) -> int:
        """The capacity in bytes."""
        return parse_bytes(self.capacity)


class EphemeralVolume(ApiModel):
    """A claim of the pod's own, made and deleted with it (generic ephemeral volume, ReadWriteOnce)."""

    storage_class_name: str | None = Field(
        default=None,
        max_length=253,
        pattern=DNS_NAME_PATTERN,
        description="StorageClass of the claim. Absent: the cluster's default.",
    )


class EmptyDirVolume(ApiModel):
    """A folder on the node's own disk that dies with the pod."""

    size_limit: BytesQuantity = Field(
        description="Size at which the kubelet evicts the pod; at least capacity and reserve together."
    )

    @property
    def size_limit_bytes(self) -> int:
        """The limit in bytes."""
        return parse_bytes(self.size_limit)


class HostPathVolume(ApiModel):
    """A folder on the node's disk that outlives the pod; a new pod of the same pool on that node adopts it."""

    model_config = rules(
        ("self.path.startsWith('/')", "hostPath.path must be absolute: begin it with /"),
        (
            "!self.path.startsWith('/') || (self.path.matches('^(/[^/]+)+$') && "
            "!self.path.split('/').exists(part, part == '.' || part == '..'))",
            "hostPath.path must be written plainly, because it is compared letter by letter: without '.', '..', '//' and "
            "without '/' at its end",
        ),
    )

    path: str = Field(
        min_length=2,
        max_length=256,
        description="A path that the administrator allowed, letter by letter; see docs/adr/0001.",
    )
    max_pods_per_node: int = Field(
        default=1, ge=1, le=16, description="Pods of this pool that may store on one node at the same time."
    )


class NvmeVolume(ApiModel):
    """Where the NVMe tier lies: a union whose member matches `type`."""

    model_config = rules(
        (
            "!has(self.ephemeral) || self.type == 'Ephemeral'",
            "volume.ephemeral is set but type is not Ephemeral: remove it or change type",
        ),
        (
            "has(self.emptyDir) == (self.type == 'EmptyDir')",
            "volume.emptyDir must be set exactly when type is EmptyDir: add it or change type",
        ),
        (
            "has(self.hostPath) == (self.type == 'HostPath')",
            "volume.hostPath must be set exactly when type is HostPath: add it or change type",
        ),
    )

    type: VolumeType = Field(
        default="Ephemeral", description="Which kind of volume; the member of that name configures it."
    )
    ephemeral: EphemeralVolume | None = Field(default=None, description="For type Ephemeral.")
    empty_dir: EmptyDirVolume | None = Field(default=None, description="For type EmptyDir.")
    host_path: HostPathVolume | None = Field(default=None, description="For type HostPath.")


class NvmeIo(ApiModel):
    """How the sidecar reads and writes."""

    direct: DirectMode = Field(
        default="Auto",
        description="O_DIRECT. Auto: buffered where the file system cannot, with a condition; Required: no tier then; "
        "Off: buffered.",
    )
    deadline: Duration = Field(
        default="250ms",
        description="How long one read or write may take before the tier is suspected. Sidecars of running pods take a "
        "change within about a minute; an engine, which waits that long for a chunk, takes it when its pod is created.",
    )

    @property
    def deadline_seconds(self) -> float:
        """The deadline in seconds."""
        return parse_duration_seconds(self.deadline)


class NvmeTier(ApiModel):
    """The NVMe tier: one preallocated store in a volume of the pod."""

    model_config = rules(
        (
            "!has(self.volume.emptyDir) || quantity(string(self.volume.emptyDir.sizeLimit)).asApproximateFloat() >= "
            "quantity(string(self.capacity)).asApproximateFloat() * (1.0 + double(self.reservePercent) / 100.0)",
            "emptyDir.sizeLimit must be at least capacity * (1 + reservePercent / 100), or the kubelet evicts the pod: "
            "raise it or lower the capacity",
        )
    )

    capacity: BytesQuantity = Field(description="Bytes of the store, all of them allocated when it is made.")
    reserve_percent: int = Field(
        default=5,
        ge=0,
        le=100,
        description="Share of the capacity that the volume holds beyond it, for the file system.",
    )
    volume: NvmeVolume = Field(default=NvmeVolume(), description="Where the store lies.")
    io: NvmeIo = Field(default=NvmeIo(), description="How the sidecar reads and writes.")

    @property
    def capacity_bytes(self) -> int:
        """The capacity in bytes."""
        return parse_bytes(self.capacity)

    @property
    def volume_bytes(self) -> int:
        """What the volume must hold: capacity and reserve, rounded up."""
        return -(-self.capacity_bytes * (100 + self.reserve_percent) // 100)


class Tiers(ApiModel):
    """The tiers of each pod's cache."""

    model_config = rules(
        (
            "!has(self.nvme) || "
            "quantity(string(self.nvme.capacity)).compareTo(quantity(string(self.dram.capacity))) >= 0",
            "nvme.capacity must not be less than dram.capacity, or the lower tier holds less than the upper: "
            "raise it or remove nvme",
        ),
        # Nothing but the spec says where the data lies that a deletion of the pool removes. Other types leave none.
        (
            "!has(oldSelf.nvme) || !has(oldSelf.nvme.volume.hostPath) || (has(self.nvme) && "
            "has(self.nvme.volume.hostPath) && self.nvme.volume.hostPath.path == oldSelf.nvme.volume.hostPath.path)",
            "nvme.volume.type HostPath and nvme.volume.hostPath.path must not change once set, or the data under the old "
            "path would stay on the nodes for ever: make a new pool and change the label of the pods to it",
        ),
    )

    dram: DramTier = Field(description="The DRAM tier.")
    nvme: NvmeTier | None = Field(default=None, description="The NVMe tier. Absent: DRAM only.")


class PoolSpec(ApiModel):
    """What the pods of a pool get. A pod joins by the label spillway.dev/pool on its template."""

    model_config = rules(
        (
            "self.cacheEpoch >= oldSelf.cacheEpoch",
            "cacheEpoch must not decrease, or chunks that were forgotten would be valid again: raise it instead",
        )
    )

    engine: EngineSpec = Field(default=EngineSpec(), description="Which container is the engine.")
    sidecar: SidecarSpec = Field(default=SidecarSpec(), description="The sidecar container.")
    tiers: Tiers = Field(description="The tiers of each pod's cache.")
    cache_epoch: int = Field(
        default=0,
        ge=0,
        le=2**53,
        description="Raise it to forget everything stored so far, for example for new weights under an old name.",
    )


def cpu_millicores(spec: SidecarSpec) -> tuple[int, int | None]:
    """The sidecar's CPU request and explicit limit in thousandths; None: no explicit limit."""
    limit = spec.resources.limits.cpu
    return parse_millicores(spec.resources.requests.cpu), None if limit is None else parse_millicores(limit)
