"""The worker's side of vLLM's offloading connector, with failures that vLLM's own does not know.

vLLM's class asserts that every transfer succeeded. Here a failed load names its request, which is recomputed, and a failed store
names its job, which is not published.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorTransferResults
from vllm.distributed.kv_transfer.kv_connector.v1.offloading.common import OffloadingConnectorMetadata
from vllm.distributed.kv_transfer.kv_connector.v1.offloading.worker import OffloadingConnectorWorker

from spillway.adapters.vllm.slots import SpillwayMetadata, SpillwayWorkerMetadata


class JobReports:
    """What a rank owes the scheduler: every job it was given is completed exactly once, well or badly."""

    def __init__(self) -> None:
        self._open: dict[int, str | None] = {}  # job -> the request that waits for it (loads)
        self._newest: OffloadingConnectorMetadata | None = None
        self._results = KVConnectorTransferResults()
        self._meta = SpillwayWorkerMetadata()

    def expect(self, metadata: OffloadingConnectorMetadata) -> None:
        """Take note of a step's jobs; the first hook that sees the metadata counts, because vLLM takes jobs out of it later."""
        if metadata is self._newest:
            return
        self._newest = metadata
        self._open.update({job_id: job.req_id for job_id, job in metadata.load_jobs.items()})
        self._open.update(dict.fromkeys(metadata.store_jobs))
        if isinstance(metadata, SpillwayMetadata) and metadata.abandoned:
            self._results.finished_recving |= metadata.abandoned
            self._results.failed_recving |= metadata.abandoned

    def open_jobs(self) -> set[int]:
        return set(self._open)

    def complete(self, job_id: int, *, success: bool, size_bytes: int = 0, seconds: float = 0.0) -> None:
        if job_id not in self._open:
            return
        request_id = self._open.pop(job_id)
        self._meta.mark_completed(job_id)
        if not success:
            self._meta.failed_jobs.add(job_id)
        elif size_bytes:
            stats = self._meta.transfer_stats
            (stats.store if request_id is None else stats.load).record(size_bytes, seconds)
        if request_id is not None:
            self._results.finished_recving.add(request_id)
            if not success:
                self._results.failed_recving.add(request_id)

    def fail(self, job_ids: Iterable[int]) -> None:
        for job_id in job_ids:
            self.complete(job_id, success=False)

    def take_results(self) -> KVConnectorTransferResults:
        results, self._results = self._results, KVConnectorTransferResults()
        return results

    def take_meta(self) -> SpillwayWorkerMetadata | None:
        if not self._meta.completed_jobs:
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
        for result in self.worker.get_finished():
            self._load_jobs.pop(result.job_id, None)
            self._reports.complete(
                result.job_id,
                success=result.success,
                size_bytes=result.transfer_size or 0,
                seconds=result.transfer_time or 0.0,
            )

    def drain(self, job_ids: set[int]) -> None:
        """Wait until no copy of these jobs runs any more."""
        self._unsubmitted_store_jobs.clear()
        if self.worker is not None:
            self.worker.wait(job_ids)
