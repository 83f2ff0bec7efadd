"""status of KVCachePool v1alpha1: what the operator reports. Absent is not zero."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, PlainSerializer

from spillway_operator.api.model import ApiModel, map_list
from spillway_operator.api.quantity import BytesQuantity

ConditionType = Literal["Ready", "Progressing", "Degraded", "ConfigValid", "StorageProvisioned", "InjectionReady"]
ConditionStatus = Literal["True", "False", "Unknown"]
TierName = Literal["dram", "nvme"]
MAX_MEMBERS = 20

Timestamp = Annotated[datetime, PlainSerializer(lambda moment: moment.strftime("%Y-%m-%dT%H:%M:%SZ"), return_type=str)]

Share = Annotated[str, Field(pattern=r"^(0(\.[0-9]+)?|1(\.0+)?)$", max_length=8)]


class Condition(ApiModel):
    """One aspect of the pool's state."""

    type: ConditionType = Field(description="Which aspect.")
    status: ConditionStatus = Field(description="Whether it holds.")
    reason: str = Field(max_length=64, pattern=r"^[A-Za-z]([A-Za-z0-9]*)$", description="Stable reason in one word.")
    message: str = Field(default="", max_length=2048, description="What a person should know and do.")
    observed_generation: int | None = Field(default=None, description="Generation of the spec that this was said of.")
    last_transition_time: Timestamp = Field(description="When status last changed.")


class PodCounts(ApiModel):
    """Pods that carry the pool's label."""

    labelled: int = Field(default=0, ge=0, description="Pods with the label.")
    injected: int = Field(default=0, ge=0, description="Pods with a sidecar.")
    ready: int = Field(default=0, ge=0, description="Injected pods that are ready.")
    outdated: int = Field(default=0, ge=0, description="Injected pods of another revision than new pods would get.")
    skipped: int = Field(default=0, ge=0, description="Labelled pods that were started without a sidecar.")


class TierStatus(ApiModel):
    """One tier, summed over the pool's sidecars, rounded; written at most once per 5 minutes."""

    name: TierName = Field(description="The tier.")
    capacity: BytesQuantity | None = Field(default=None, description="Bytes that the sidecars offer.")
    used: BytesQuantity | None = Field(default=None, description="Bytes in use.")
    chunks: int | None = Field(default=None, ge=0, description="Chunks that can be hit.")
    observed_at: Timestamp | None = Field(default=None, description="When the sidecars were last read.")


class HitStatus(ApiModel):
    """What came from the cache of the prompt tokens that engines looked up, counted as it was loaded: "0.00" to "1.00".

    Summed over the pool's sidecars since their pods' start, written as the tiers are.
    """

    ratio: Share = Field(description="Share that was loaded from any tier.")
    dram: Share | None = Field(default=None, description="Share that was loaded from DRAM.")
    nvme: Share | None = Field(default=None, description="Share that was loaded from NVMe.")
    other: Share | None = Field(
        default=None,
        description="Share that came with a load without a chunk of its own, as what lies before an attention window.",
    )


class Member(ApiModel):
    """One pod of the pool."""

    pod: str = Field(max_length=253, description="Name of the pod.")
    node: str | None = Field(default=None, max_length=253, description="Node that it runs on.")
    revision: str | None = Field(default=None, max_length=63, description="Revision of its sidecar.")
    ready: bool = Field(default=False, description="Whether the pod is ready.")
    reason: str | None = Field(default=None, max_length=128, description="Why it stands in this list.")


class DiskStatus(ApiModel):
    """Where data of the pool lies on disks of nodes."""

    nodes: tuple[str, ...] = Field(default=(), description="Nodes that hold a folder of this pool, by name.",
                                   json_schema_extra={"x-kubernetes-list-type": "set"})  # fmt: skip


class InjectionStatus(ApiModel):
    """The injection breaker, read by the webhook. Absent: closed, and never opened for the pool as it is."""

    state: Literal["Closed", "Open", "Probing"] = Field(
        description="Closed: new pods are injected. Open: they start without a sidecar. Probing: one is injected on trial."
    )
    reason: str = Field(default="", max_length=64, description="Why it opened last.")
    message: str = Field(
        default="", max_length=1024, description="The pod that could not start, and what it waited for."
    )
    since: Timestamp = Field(description="When it came into this state.")
    revision: str = Field(default="", max_length=63, description="Revision of the sidecars that this was learnt from.")


class PoolStatus(ApiModel):
    """What the operator last saw."""

    observed_generation: int | None = Field(
        default=None, description="Generation of the spec that was reconciled last."
    )
    conditions: tuple[Condition, ...] = Field(
        default=(), description="The pool's state by aspect.", json_schema_extra=map_list("type")
    )
    pods: PodCounts | None = Field(default=None, description="Pods that carry the pool's label.")
    tiers: tuple[TierStatus, ...] = Field(default=(), description="The tiers.", json_schema_extra=map_list("name"))
    hit: HitStatus | None = Field(default=None, description="What the cache served. Absent: nothing was looked up yet.")
    members: tuple[Member, ...] = Field(
        default=(), max_length=MAX_MEMBERS, description="The worst pods, 20 at most.", json_schema_extra=map_list("pod")
    )
    disk: DiskStatus | None = Field(default=None, description="Data on disks of nodes.")
    injection: InjectionStatus | None = Field(default=None, description="The injection breaker.")
    sidecar_revision: str | None = Field(default=None, max_length=63, description="Revision that a new pod gets.")

    def condition(self, kind: ConditionType) -> Condition | None:
        """The condition of that type, if it has been written."""
        return next((condition for condition in self.conditions if condition.type == kind), None)
