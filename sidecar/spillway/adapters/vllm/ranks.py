"""The worker's side of vLLM's offloading connector, with failures that vLLM's own does not know.

vLLM's class asserts that every transfer succeeded. Here a failed load names its request, which is recomputed, and a failed store
names its job, which is not published.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorTransferResults
from vllm.distributed.kv_transfer.kv_connector.v1.offloading.common import OffloadingConnectorMetadata
from vllm.distributed.kv_transfer.kv_connector.v1.offloading.worker import OffloadingConnectorWorker
from vllm.v1.kv_offload.base import GPULoadStoreSpec

from spillway.adapters.vllm.compat import ends_in_its_step
from spillway.adapters.vllm.slots import SlotSpec, SpillwayMetadata, SpillwayWorkerMetadata


class _Owed(NamedTuple):
    """An open job. request_id: who waits for it; tickets: what keeps its slots from being recycled.

    blocks: of a load that its step computes on. Nobody waits for it, but when it fails the step computed on nothing.
    """

    request_id: str | None = None
    load: bool = False
    tickets: tuple[int, ...] = ()
    blocks: tuple[int, ...] = ()


class JobReports:
    """What a rank owes: every job it was given is completed exactly once, well or badly, and its tickets acknowledged with that.

    That is the only place where a ticket is acknowledged, so a job must not be completed while bytes of it may move.
    """

    def __init__(self, rank: int, ack: Callable[[int], None]) -> None:
        self._rank = rank
        self._ack = ack
        self._open: dict[int, _Owed] = {}
        self._newest: OffloadingConnectorMetadata | None = None
        self._results = KVConnectorTransferResults()
        self._meta = SpillwayWorkerMetadata()
        self._unloaded: set[int] = set()
        self._inert: str | None = None

    def expect(self, metadata: OffloadingConnectorMetadata) -> None:
        """Take note of a step's jobs; the first hook that sees the metadata counts, because vLLM takes jobs out of it later."""
        if metadata is self._newest:
            return
        self._newest = metadata
        for job_id, job in metadata.load_jobs.items():
            tickets = job.src_spec.tickets if isinstance(job.src_spec, SlotSpec) else ()
            if ends_in_its_step(job):
                assert isinstance(job.dst_spec, GPULoadStoreSpec)
                blocks = tuple(job.dst_spec.block_ids.tolist())
                self._open[job_id] = _Owed(load=True, tickets=tickets, blocks=blocks)
            else:
                self._open[job_id] = _Owed(job.req_id, True, tickets)
        self._open.update(dict.fromkeys(metadata.store_jobs, _Owed()))
        if isinstance(metadata, SpillwayMetadata) and metadata.abandoned:
            self._results.finished_recving |= metadata.abandoned
            self._results.failed_recving |= metadata.abandoned

    def complete(self, job_id: int, *, success: bool, size_bytes: int = 0, seconds: float = 0.0) -> None:
        owed = self._open.pop(job_id, None)
        if owed is None:
            return
        self._meta.mark_completed(job_id)
        if not success:
            self._meta.failed_jobs.add(job_id)
        elif size_bytes:
            stats = self._meta.transfer_stats
            (stats.load if owed.load else stats.store).record(size_bytes, seconds)
        if not success:
            self._unloaded.update(owed.blocks)
        if owed.request_id is not None:
            self._results.finished_recving.add(owed.request_id)
            if not success:
                self._results.failed_recving.add(owed.request_id)
        for ticket in owed.tickets:
            self._ack(ticket)

    def turn_inert(self, reason: str) -> None:
        """Tell the scheduler from now on, so that it gives this rank nothing any more."""
        self._inert = reason

    def note_changed(self) -> None:
        """Tell the scheduler with this step that the weights in memory are others."""
        self._meta.changed = True

    def fail_all_but(self, running: Iterable[int]) -> None:
        """Complete badly what is open, but for jobs of which bytes may be moving."""
        for job_id in self._open.keys() - set(running):
            self.complete(job_id, success=False)

    def take_results(self) -> KVConnectorTransferResults:
        results, self._results = self._results, KVConnectorTransferResults()
        return results

    def take_unloaded(self) -> set[int]:
        """The blocks on which the step computed although they were not loaded."""
        unloaded, self._unloaded = self._unloaded, set()
        return unloaded

    def take_meta(self) -> SpillwayWorkerMetadata | None:
        if self._inert is not None:
            self._meta.inert[self._rank] = self._inert
        elif not self._meta.completed_jobs and not self._meta.changed:
            return None
        meta, self._meta = self._meta, SpillwayWorkerMetadata()
        return meta


class SpillwayRank(OffloadingConnectorWorker):
    """vLLM's order of submissions and waits, our account of how they ended."""

    def __init__(self, spec: Any, vllm_config: Any, kv_cache_config: Any, reports: JobReports) -> None:
        super().__init__(spec, vllm_config, kv_cache_config)
        self._reports = reports

    def collect(self) -> None:
        """Move what the copy worker finished, and what this rank need not copy, into the reports."""
        for job_id in list(self._connector_worker_meta.completed_jobs):
            self._reports.complete(job_id, success=True)
        self._connector_worker_meta.completed_jobs.clear()
        if self.worker is None:
            return
        if self.worker.take_changed():
            self._reports.note_changed()
        for result in self.worker.get_finished():
            self._load_jobs.pop(result.job_id, None)
            self._reports.complete(
                result.job_id,
                success=result.success,
                size_bytes=result.transfer_size or 0,
                seconds=result.transfer_time or 0.0,
            )

    def cancel(self) -> None:
        """Begin no copy any more."""
        self._unsubmitted_store_jobs.clear()
        if self.worker is not None:
            self.worker.cancel()

    def running(self) -> set[int]:
        """The jobs of which bytes may be moving."""
        return self.worker.running() if self.worker is not None else set()
