"""A rank's copy worker: blocks of the KV tensors <-> slots of the arena, on a thread of its own.

Within a rank's slice of a chunk all blocks of one tensor lie together, tensor after tensor, so that consecutive blocks are one copy.
Blocks are opaque: on CPUs their inside depends on the instruction set. A job that cannot be done is reported as
failed, never raised; none is reported while bytes of it may move (`copy_thread`).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Final

from vllm.v1.kv_offload.base import CanonicalKVCaches, GPULoadStoreSpec, LoadStoreSpec, OffloadingWorker, TransferResult

from spillway.adapters.vllm.arena import HEADER_BYTES, Arena
from spillway.adapters.vllm.copier import HostCopy, make_copier
from spillway.adapters.vllm.copy_thread import Begun, CopyThread
from spillway.adapters.vllm.resident import ResidentProof
from spillway.adapters.vllm.runs import GroupPlaces, Runs, TensorPlace, join
from spillway.adapters.vllm.slots import SlotSpec
from spillway.client.link import RankLink

# How long a copy under way may go on when the engine shuts down.
SHUTDOWN_SECONDS: Final = 10.0

log = logging.getLogger("vllm.spillway")


@dataclass(frozen=True)
class _Job:
    blocks: GPULoadStoreSpec
    spec: LoadStoreSpec
    store: bool
    fence: Any


def slice_bytes(kv_caches: CanonicalKVCaches, blocks_per_chunk: int) -> list[int]:
    """Bytes of one chunk of each group on this rank."""
    return [blocks_per_chunk * sum(ref.page_size_bytes for ref in refs) for refs in kv_caches.group_data_refs]


def places_of(kv_caches: CanonicalKVCaches, group: int, blocks_per_chunk: int) -> GroupPlaces:
    """Where one group's tensors lie."""
    refs = [(kv_caches.tensors[ref.tensor_idx].tensor, ref.page_size_bytes) for ref in kv_caches.group_data_refs[group]]
    # Canonical tensors are bytes, so a stride is in bytes too.
    places = [TensorPlace(tensor.data_ptr(), tensor.stride(0), page_bytes) for tensor, page_bytes in refs]
    return GroupPlaces(places, blocks_per_chunk)


class SpillwayWorker(OffloadingWorker):
    """`source_rank`: whose slice this rank loads; another rank's where both hold the same bytes. `proof`: of the rank's weights."""

    def __init__(
        self,
        link: RankLink,
        kv_caches: CanonicalKVCaches,
        blocks_per_chunk: int,
        source_rank: int,
        proof: ResidentProof | None = None,
    ) -> None:
        self._proof = proof
        self._changed = False
        self._link = link
        self._blocks_per_chunk = blocks_per_chunk
        self._source_rank = source_rank
        self._places = [
            places_of(kv_caches, group, blocks_per_chunk) for group in range(len(kv_caches.group_data_refs))
        ]
        self._copier = make_copier(kv_caches.tensors[0].tensor)
        self._arena: Arena | None = None
        self._copies = CopyThread()

    def submit_store(self, job_id: int, src_spec: GPULoadStoreSpec, dst_spec: LoadStoreSpec) -> bool:
        return self._submit(job_id, _Job(src_spec, dst_spec, True, self._copier.fence()))

    def submit_load(
        self, job_id: int, src_spec: LoadStoreSpec, dst_spec: GPULoadStoreSpec, expedited: bool = False
    ) -> bool:
        """expedited: the engine's step waits for it (`wait`), so it begins before every other job."""
        return self._submit(job_id, _Job(dst_spec, src_spec, False, self._copier.fence()), first=expedited)

    def _submit(self, job_id: int, job: _Job, *, first: bool = False) -> bool:
        # A request waits for a load; a store waits for nobody.
        self._copies.submit(job_id, lambda: self._begin(job), urgent=not job.store, first=first)
        return True

    def get_finished(self) -> list[TransferResult]:
        """The jobs that are over. Raises StuckCopy."""
        self._link.poll()
        return [
            TransferResult(over.job_id, False)
            if over.size_bytes is None
            else TransferResult(over.job_id, True, over.size_bytes, over.seconds)
            for over in self._copies.take_over()
        ]

    def take_changed(self) -> bool:
        """Whether the rank's weights were found to be others since the last call."""
        changed, self._changed = self._changed, False
        return changed

    def wait(self, job_ids: set[int]) -> None:
        """vLLM is about to reuse blocks that these jobs copy, and goes on when they are over. Raises StuckCopy."""
        self._copies.wait(job_ids)

    def cancel(self) -> None:
        """Begin no copy any more."""
        self._copies.cancel()

    def running(self) -> set[int]:
        """The jobs of which bytes may be moving."""
        return self._copies.running()

    def shutdown(self) -> None:
        """The link is what keeps this engine's slots from being recycled, so it outlives every copy."""
        if self._copies.stop(SHUTDOWN_SECONDS):
            self._copier.close()
            self._link.close()
        else:
            log.warning("a copy has not ended; the arena's slots stay taken until this process does")

    def _begin(self, job: _Job) -> Begun:
        """Begin the copy of a whole job. Raises ValueError or OSError before a byte can move."""
        if self._proof is not None and not self._proof.holds():
            self._changed = True
            raise ValueError("the weights in memory are not those that it was computed with")
        spec, geometry = job.spec, self._link.geometry
        if not isinstance(spec, SlotSpec) or spec.lost:
            raise ValueError("the chunks were evicted before they could be pinned")
        if geometry is None and not self._link.poll():
            raise ValueError("the sidecar has not said yet where this rank's slices lie")
        arena = self._mapped()
        parts: list[Runs] = []
        first = 0
        for group, (size, index) in enumerate(zip(job.blocks.group_sizes, job.blocks.block_indices, strict=True)):
            blocks = job.blocks.block_ids[first : first + size]
            first += size
            skipped = index % self._blocks_per_chunk
            parts.append(self._group_runs(group, blocks, skipped, spec.slots[group], arena, store=job.store))
        runs = join(parts)
        source, target = (runs.device, runs.host) if job.store else (runs.host, runs.device)
        if not len(source):
            return Begun(HostCopy(), 0)
        copy = self._copier.begin(source, target, runs.length_bytes, job.fence, store=job.store)
        return Begun(copy, runs.size_bytes)

    def _mapped(self) -> Arena:
        attachment = self._link.map()
        if attachment is None:
            raise ValueError("the arena is not there yet")
        if self._arena is None:
            self._arena = Arena(attachment.arena_path(), attachment.arena_bytes())
        self._copier.grow(self._arena, attachment.faulted_bytes())
        return self._arena

    def _group_runs(
        self, group: int, blocks: Any, skipped: int, slots: tuple[int, ...], arena: Arena, *, store: bool
    ) -> Runs:
        """The copies of one group. skipped: blocks of the first chunk that are not part of the job."""
        geometry = self._link.geometry
        assert geometry is not None
        per_chunk = self._blocks_per_chunk
        chunks = -(-(len(blocks) + skipped) // per_chunk)
        if chunks != len(slots):
            raise ValueError(f"group {group}: {len(blocks)} blocks after {skipped} do not fill {len(slots)} slots")
        if store and (skipped or len(blocks) != per_chunk * len(slots)):
            raise ValueError(f"group {group}: only whole chunks are stored")
        place = geometry[group]
        offset, slice_length = place.ranks[self._source_rank]
        places = self._places[group]
        if places.slice_bytes != slice_length or offset < HEADER_BYTES:
            raise ValueError(
                f"group {group}: the sidecar gave {slice_length} bytes at {offset}, {places.slice_bytes} are needed"
            )
        return places.describe(blocks, skipped, arena.slot_addresses(slots, place.stride_bytes) + offset)
