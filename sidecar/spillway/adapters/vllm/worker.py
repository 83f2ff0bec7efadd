"""A rank's copy worker: blocks of the KV tensors <-> slots of the arena, on a thread of its own.

Within a rank's slice of a chunk all blocks of one tensor lie together, tensor after tensor, so that consecutive blocks are one copy.
Blocks are opaque: on CPUs their inside depends on the instruction set. A job that cannot be done is reported as
failed, never raised and never left without an answer.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from dataclasses import dataclass, field
from typing import Any, Final

from vllm.v1.kv_offload.base import CanonicalKVCaches, GPULoadStoreSpec, LoadStoreSpec, OffloadingWorker, TransferResult

from spillway.adapters.vllm.arena import HEADER_BYTES, Arena
from spillway.adapters.vllm.copier import Run, make_copier
from spillway.adapters.vllm.slots import SlotSpec
from spillway.client.link import GroupGeometry, RankLink

# A job that has not even begun after this is taken back and reported as failed.
QUEUED_SECONDS: Final = 60.0
_LIVENESS_SECONDS: Final = 1.0

log = logging.getLogger("vllm.spillway")


@dataclass
class _Job:
    job_id: int
    blocks: GPULoadStoreSpec
    spec: LoadStoreSpec
    store: bool
    submitted: float
    fence: Any = None
    begun: bool = False
    cancelled: bool = False
    done: threading.Event = field(default_factory=threading.Event)


def slice_bytes(kv_caches: CanonicalKVCaches, blocks_per_chunk: int) -> list[int]:
    """Bytes of one chunk of each group on this rank."""
    return [blocks_per_chunk * sum(ref.page_size_bytes for ref in refs) for refs in kv_caches.group_data_refs]


class SpillwayWorker(OffloadingWorker):
    """`source_rank`: whose slice this rank loads; another rank's where both hold the same bytes."""

    def __init__(self, link: RankLink, kv_caches: CanonicalKVCaches, blocks_per_chunk: int, source_rank: int) -> None:
        self._link = link
        self._kv_caches = kv_caches
        self._blocks_per_chunk = blocks_per_chunk
        self._source_rank = source_rank
        self._copier = make_copier(kv_caches.tensors[0].tensor)
        self._arena: Arena | None = None
        self._lock = threading.Lock()
        self._jobs: dict[int, _Job] = {}
        self._finished: list[TransferResult] = []
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._loop, name="spillway-copy", daemon=True)
        self._thread.start()

    def submit_store(self, job_id: int, src_spec: GPULoadStoreSpec, dst_spec: LoadStoreSpec) -> bool:
        return self._submit(_Job(job_id, src_spec, dst_spec, store=True, submitted=time.monotonic()))

    def submit_load(self, job_id: int, src_spec: LoadStoreSpec, dst_spec: GPULoadStoreSpec) -> bool:
        return self._submit(_Job(job_id, dst_spec, src_spec, store=False, submitted=time.monotonic()))

    def _submit(self, job: _Job) -> bool:
        job.fence = self._copier.fence()
        with self._lock:
            self._jobs[job.job_id] = job
        self._queue.put(job)
        return True

    def get_finished(self) -> list[TransferResult]:
        self._link.poll()
        self._take_back()
        with self._lock:
            finished, self._finished = self._finished, []
        return finished

    def wait(self, job_ids: set[int]) -> None:
        for job_id in job_ids:
            job = self._jobs.get(job_id)
            while job is not None and not job.done.wait(_LIVENESS_SECONDS):
                self._take_back()

    def shutdown(self) -> None:
        self._queue.put(None)
        self._thread.join(timeout=QUEUED_SECONDS)
        self._link.close()

    def _take_back(self) -> None:
        """Fail what nobody works on: jobs queued too long, or all of them when the thread is gone."""
        alive, now = self._thread.is_alive(), time.monotonic()
        with self._lock:
            stuck = [
                job
                for job in self._jobs.values()
                if not alive or (not job.begun and now - job.submitted > QUEUED_SECONDS)
            ]
            for job in stuck:
                job.cancelled = True
        for job in stuck:
            self._report(job, None)

    def _loop(self) -> None:
        while (job := self._queue.get()) is not None:
            with self._lock:
                if job.cancelled:
                    continue
                job.begun = True
            started = time.monotonic()
            try:
                copied = self._copy(job)
            except Exception as error:  # noqa: BLE001  the engine's edge: the job fails, the engine recomputes
                log.warning("a copy failed: %s: %s", type(error).__name__, error)
                copied = None
            self._report(job, copied, time.monotonic() - started)

    def _report(self, job: _Job, copied_bytes: int | None, seconds: float = 0.0) -> None:
        for ticket in job.spec.tickets if isinstance(job.spec, SlotSpec) else ():
            self._link.ack(ticket)
        with self._lock:
            if self._jobs.pop(job.job_id, None) is None:
                return
            failed = copied_bytes is None
            self._finished.append(
                TransferResult(job.job_id, not failed, None if failed else copied_bytes, None if failed else seconds)
            )
        job.done.set()

    def _copy(self, job: _Job) -> int:
        """Copy a whole job; its payload bytes. Raises ValueError or OSError."""
        spec, geometry = job.spec, self._link.geometry
        if not isinstance(spec, SlotSpec) or spec.lost:
            raise ValueError("the chunks were evicted before they could be pinned")
        if geometry is None and not self._link.poll():
            raise ValueError("the sidecar has not said yet where this rank's slices lie")
        arena = self._mapped()
        runs: list[Run] = []
        first = 0
        for group, (size, index) in enumerate(zip(job.blocks.group_sizes, job.blocks.block_indices, strict=True)):
            blocks = job.blocks.block_ids[first : first + size].tolist()
            first += size
            runs.extend(
                self._group_runs(
                    group, blocks, index % self._blocks_per_chunk, spec.slots[group], arena, store=job.store
                )
            )
        if runs:
            self._copier.copy(runs, job.fence)
        return sum(run.length_bytes for run in runs)

    def _mapped(self) -> Arena:
        attachment = self._link.map()
        if attachment is None:
            raise ValueError("the arena is not there yet")
        if self._arena is None:
            self._arena = Arena(attachment.arena_path(), attachment.arena_bytes())
        self._copier.grow(self._arena, attachment.faulted_bytes())
        return self._arena

    def _group_runs(
        self, group: int, blocks: list[int], skipped: int, slots: tuple[int, ...], arena: Arena, *, store: bool
    ) -> list[Run]:
        """The copies of one group. skipped: blocks of the first chunk that are not part of the job."""
        geometry = self._link.geometry
        assert geometry is not None
        per_chunk = self._blocks_per_chunk
        chunks = -(-(len(blocks) + skipped) // per_chunk)
        if chunks != len(slots):
            raise ValueError(f"group {group}: {len(blocks)} blocks after {skipped} do not fill {len(slots)} slots")
        if store and (skipped or len(blocks) != per_chunk * len(slots)):
            raise ValueError(f"group {group}: only whole chunks are stored")
        runs: list[Run] = []
        for at, slot in enumerate(slots):
            low, high = max(0, at * per_chunk - skipped), (at + 1) * per_chunk - skipped
            runs.extend(
                self._chunk_runs(
                    group, blocks[low:high], skipped if at == 0 else 0, slot, geometry[group], arena, store
                )
            )
        return runs

    def _chunk_runs(
        self, group: int, blocks: list[int], skipped: int, slot: int, place: GroupGeometry, arena: Arena, store: bool
    ) -> list[Run]:
        offset, slice_length = place.ranks[self._source_rank]
        base = arena.slot_address(slot, place.stride_bytes) + offset
        runs: list[Run] = []
        used = 0
        for ref in self._kv_caches.group_data_refs[group]:
            tensor, page = self._kv_caches.tensors[ref.tensor_idx].tensor, ref.page_size_bytes
            start, step = tensor.data_ptr(), tensor.stride(0)
            for position, block in enumerate(blocks, skipped):
                device, host = start + block * step, base + used + position * page
                runs.append(Run(device, host, page) if store else Run(host, device, page))
            used += self._blocks_per_chunk * page
        if used != slice_length or offset < HEADER_BYTES:
            raise ValueError(f"group {group}: the sidecar gave {slice_length} bytes at {offset}, {used} are needed")
        return runs
