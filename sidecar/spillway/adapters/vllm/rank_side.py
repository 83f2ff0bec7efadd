"""A rank's half of the connector: its link, its copy worker, and what it tells the scheduler's half about itself."""

from __future__ import annotations

from typing import Any

from vllm.v1.kv_offload.base import CanonicalKVCaches
from vllm.v1.kv_offload.config import OffloadingConfig

from spillway.adapters.vllm.fingerprint import RankFacts, observe_rank
from spillway.adapters.vllm.ranks import JobReports, SpillwayRank
from spillway.adapters.vllm.spec import SpillwaySpec
from spillway.adapters.vllm.worker import SpillwayWorker, slice_bytes
from spillway.client import ClientSettings, RankLink


class RankSide:
    """Made before the KV cache is; the worker comes with `register_kv_caches`."""

    def __init__(
        self,
        settings: ClientSettings,
        config: OffloadingConfig,
        incarnation: bytes,
        vllm_config: Any,
        kv_cache_config: Any,
    ) -> None:
        self._settings = settings
        self._config = config
        self._incarnation = incarnation
        self._vllm_config = vllm_config
        self._kv_cache_config = kv_cache_config
        self._facts: RankFacts | None = None
        self.reports = JobReports()
        spec = SpillwaySpec(config, make_worker=self._make_worker)
        self.rank = SpillwayRank(spec, vllm_config, kv_cache_config, self.reports)

    def _make_worker(self, kv_caches: CanonicalKVCaches) -> SpillwayWorker:
        rank, per_chunk = self._config.parallel.rank, self._config.cache.blocks_per_chunk
        sizes = slice_bytes(kv_caches, per_chunk)
        self._facts = observe_rank(
            self._vllm_config,
            self._kv_cache_config,
            rank=rank,
            device=kv_caches.tensors[0].tensor.device.type,
            blocks_per_chunk=per_chunk,
            slice_bytes=sizes,
        )
        shared = self._config.replicated_layout
        declared = [0] * len(sizes) if shared and rank else sizes
        link = RankLink(self._settings.root, self._incarnation, self._config.parallel.world_size, rank, declared)
        worker = SpillwayWorker(link, kv_caches, per_chunk, source_rank=0 if shared else rank)
        link.poll()
        if link.problem is not None:
            self._facts.problem = link.problem
        return worker

    def facts(self) -> RankFacts | None:
        return self._facts

    def give_up(self) -> None:
        """Let running copies end, then report everything that is open as failed."""
        jobs = self.reports.open_jobs()
        self.rank.drain(jobs)
        self.reports.fail(jobs)
