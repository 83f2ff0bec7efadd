"""What the scheduler tells the ranks: which slots a job copies, under which tickets, and what went wrong before it began."""

from __future__ import annotations

from dataclasses import dataclass, field

from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorWorkerMetadata
from vllm.distributed.kv_transfer.kv_connector.v1.offloading.common import (
    OffloadingConnectorMetadata,
    OffloadingWorkerMetadata,
)
from vllm.v1.kv_offload.base import LoadStoreSpec


@dataclass
class SlotSpec(LoadStoreSpec):
    """`slots`: per group in order, its chunks' slots in order. `tickets`: to acknowledge when the copies are over.

    `lost`: the chunks could not be pinned any more; the ranks report the load as failed without touching a slot."""

    slots: tuple[tuple[int, ...], ...]
    tickets: tuple[int, ...] = ()
    lost: bool = False


@dataclass
class SpillwayMetadata(OffloadingConnectorMetadata):
    """`abandoned`: requests whose load cannot even be described; every rank reports them as failed."""

    abandoned: set[str] = field(default_factory=set)


@dataclass
class SpillwayWorkerMetadata(OffloadingWorkerMetadata):
    """`failed_jobs`: completed jobs whose copies did not succeed on some rank.

    `changed`: some rank's weights in memory are not what they were.
    `inert`: the ranks that copy nothing any more, each with its reason. They say so at every step, until the engine ends."""

    failed_jobs: set[int] = field(default_factory=set)
    inert: dict[int, str] = field(default_factory=dict)
    changed: bool = False

    def aggregate(self, other: KVConnectorWorkerMetadata) -> SpillwayWorkerMetadata:
        merged = super().aggregate(other)
        failed: set[int] = getattr(other, "failed_jobs", set())
        inert: dict[int, str] = getattr(other, "inert", {})
        return SpillwayWorkerMetadata(
            merged.completed_jobs,
            merged.transfer_stats,
            self.failed_jobs | failed,
            {**self.inert, **inert},
            self.changed or getattr(other, "changed", False),
        )
