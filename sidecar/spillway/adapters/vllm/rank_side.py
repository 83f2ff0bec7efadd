"""A rank's half of the connector: its link, its copy worker, and what it tells the scheduler's half about itself."""

from __future__ import annotations

from vllm.v1.kv_offload.base import CanonicalKVCaches

from spillway.adapters.vllm.fingerprint import RankFacts, observe_rank
from spillway.adapters.vllm.ranks import JobReports, SpillwayRank
from spillway.adapters.vllm.resident import resident_proof
from spillway.adapters.vllm.setup import Setup
from spillway.adapters.vllm.spec import SpillwaySpec
from spillway.adapters.vllm.worker import SpillwayWorker, slice_bytes
from spillway.client import RankLink


class RankSide:
    """Made before the KV cache is; the worker comes with `register_kv_caches`."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._rank_number = setup.config.parallel.rank
        self._link: RankLink | None = None
        self._facts: RankFacts | None = None
        self.reports = JobReports(self._rank_number, self._ack)
        spec = SpillwaySpec(setup.config, make_worker=self._make_worker)
        self.rank = SpillwayRank(spec, setup.vllm_config, setup.kv_cache_config, self.reports)

    def _make_worker(self, kv_caches: CanonicalKVCaches) -> SpillwayWorker:
        setup, rank = self._setup, self._rank_number
        per_chunk = setup.config.cache.blocks_per_chunk
        sizes = slice_bytes(kv_caches, per_chunk)
        self._facts = observe_rank(
            setup.vllm_config,
            setup.kv_cache_config,
            rank=rank,
            device=kv_caches.tensors[0].tensor.device.type,
            blocks_per_chunk=per_chunk,
            slice_bytes=sizes,
        )
        shared = setup.config.replicated_layout
        declared = [0] * len(sizes) if shared and rank else sizes
        self._link = RankLink(setup.settings.root, setup.incarnation, setup.config.parallel.world_size, rank, declared)
        proof = resident_proof(setup.vllm_config)
        worker = SpillwayWorker(self._link, kv_caches, per_chunk, source_rank=0 if shared else rank, proof=proof)
        self._link.poll()
        if self._link.problem is not None:
            self._facts.problem = self._link.problem
        return worker

    def _ack(self, ticket: int) -> None:
        if self._link is not None:
            self._link.ack(ticket)

    def facts(self) -> RankFacts | None:
        return self._facts

    def give_up(self, reason: str) -> None:
        """Begin no copy any more, and tell the scheduler. Waits for nothing: `settle` reports what is over."""
        self.reports.turn_inert(reason)
        self.rank.cancel()

    def settle(self) -> None:
        """After `give_up`, at every step: fail every job, those that the scheduler still sends too, and keep no slot for them.

        Only the one under way is left open until it is over (`copy_thread`); how it ended does not matter any more, as
        nothing fences its blocks.
        """
        self.reports.fail_all_but(self.rank.running())
