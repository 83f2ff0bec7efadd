"""Spillway's connector for vLLM: vLLM's offloading connector, with the session, the identity and failing open put in.

Every hook that vLLM calls is guarded. What fails in a hook about one request makes that request plain: it loads and stores
nothing any more, and the others go on. What fails for a whole step, or for eight requests in a row, makes this side of the
connector inert until the engine restarts: one log line, a counter, what is under way is reported as failed so that the engine
recomputes it, and nothing is looked up or stored after. A rank says so with each step's report, and the scheduler's side
goes inert with it: a hit that one rank does not load is none.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Any, Final, TypeVar

from vllm.distributed.kv_transfer.kv_connector.v1 import KVConnectorBase_V1, KVConnectorRole
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorTransferResults
from vllm.distributed.kv_transfer.kv_connector.v1.metrics import KVConnectorPromMetrics
from vllm.distributed.kv_transfer.kv_connector.v1.offloading_connector import OffloadingConnector

from spillway.adapters.vllm import weight_changes
from spillway.adapters.vllm.fingerprint import RankFacts
from spillway.adapters.vllm.inert import stand_aside
from spillway.adapters.vllm.rank_side import RankSide
from spillway.adapters.vllm.scheduler_side import SchedulerSide
from spillway.adapters.vllm.setup import make_setup
from spillway.adapters.vllm.slots import SpillwayMetadata, SpillwayWorkerMetadata
from spillway.client.refusal import note_refusal

# As many different requests failing, with none that ended well between them, is no longer about their data.
PLAIN_IN_A_ROW: Final = 8

log = logging.getLogger("vllm.spillway")
Answer = TypeVar("Answer")


class _NoMetrics(KVConnectorPromMetrics):
    """For an engine whose connector metrics cannot be made: Spillway's own are the sidecar's anyway."""

    def observe(self, transfer_stats_data: dict[str, Any], engine_idx: int = 0) -> None:
        pass


class SpillwayConnector(OffloadingConnector):
    """One object per role; `_scheduler_side` or `_rank_side` is set, unless it could not even be made."""

    def __init__(self, vllm_config: Any, role: KVConnectorRole, kv_cache_config: Any) -> None:
        KVConnectorBase_V1.__init__(self, vllm_config, role, kv_cache_config)
        self._canonical_layout = False
        self.connector_scheduler: Any = None
        self.connector_worker: Any = None
        self._scheduler_side: SchedulerSide | None = None
        self._rank_side: RankSide | None = None
        self._abandoned: set[str] = set()
        self._plain: set[str] = set()
        self._plain_in_a_row = 0
        self._said: set[str] = set()
        self._problem: str | None = None
        self._guard(None, self._set_up, role)

    def _set_up(self, role: KVConnectorRole) -> None:
        setup = make_setup(self._vllm_config, self._kv_cache_config)
        if role == KVConnectorRole.SCHEDULER:
            weight_changes.listen(self, self._weights_may_have_changed)
            self._scheduler_side = SchedulerSide(setup)
            self.connector_scheduler = self._scheduler_side.scheduler
        else:
            self._rank_side = RankSide(setup)
            self.connector_worker = self._rank_side.rank

    def _guard(self, default: Answer, hook: Callable[..., Answer], *args: Any, **kwargs: Any) -> Answer:
        """Call a hook; `default` once something has failed."""
        if self._problem is not None:
            return default
        try:
            return hook(*args, **kwargs)
        except Exception as error:  # noqa: BLE001  the engine's edge: Spillway goes away, the engine stays
            self._go_inert(f"{type(error).__name__}: {error}", error)
            return default

    def _always(self, hook: Callable[..., None], *args: Any) -> None:
        """Call what an inert side owes too: the end of what is under way."""
        try:
            hook(*args)
        except Exception as error:  # noqa: BLE001  as above
            self._go_inert(f"{type(error).__name__}: {error}", error)

    def _for_request(self, request_id: str, default: Answer, hook: Callable[..., Answer], *args: Any) -> Answer:
        """Call a hook that is about one request; `default` once that request is plain, or something has failed for all."""
        if self._problem is not None or request_id in self._plain:
            return default
        try:
            return hook(*args)
        except Exception as error:  # noqa: BLE001  the engine's edge: the request goes on as without Spillway
            self._turn_plain(request_id, error)
            return default

    def _turn_plain(self, request_id: str, error: Exception) -> None:
        assert self._scheduler_side is not None
        problem = f"{type(error).__name__}: {error}"
        self._plain.add(request_id)
        self._plain_in_a_row += 1
        if self._plain_in_a_row >= PLAIN_IN_A_ROW:
            self._go_inert(f"{PLAIN_IN_A_ROW} requests in a row failed, the last with {problem}", error)
            return
        # Once for each kind: whoever can send one such request can send a million.
        if type(error).__name__ not in self._said:
            self._said.add(type(error).__name__)
            log.warning("Spillway leaves request %s alone: %s", request_id, problem)
        self._guard(None, self._scheduler_side.turn_plain, request_id)

    def _weights_may_have_changed(self, cause: str) -> None:
        """Heard before it happens. This incarnation shares nothing with the past, nor with other engines, from here on."""
        if self._scheduler_side is not None:
            self._guard(None, self._scheduler_side.weights_may_have_changed, cause)

    def _go_inert(self, problem: str, error: Exception | None = None) -> None:
        if self._problem is not None:
            log.warning("Spillway could not give up cleanly: %s", problem)
            return
        self._problem = problem
        where = "" if self._rank_side is None else f" on rank {self._vllm_config.parallel_config.rank}"
        log.warning(
            "Spillway stays off%s until the engine restarts: %s",
            where,
            problem,
            exc_info=error if log.isEnabledFor(logging.DEBUG) else None,
        )
        note_refusal(f"{problem}{where}; until the engine restarts")
        if self._scheduler_side is None and self._rank_side is None:
            self._always(stand_aside, self._vllm_config)
        self._always(self._give_up, problem)

    def _give_up(self, problem: str) -> None:
        if self._scheduler_side is not None:
            self._abandoned |= self._scheduler_side.give_up()
        if self._rank_side is not None:
            self._rank_side.give_up(problem)

    # The scheduler's hooks

    def bind_kv_cache_manager(self, kv_cache_manager: Any) -> None:
        self._guard(None, weight_changes.listen_to_resets, kv_cache_manager, self._weights_may_have_changed)

    def on_new_request(self, request: Any) -> None:
        self._for_request(request.request_id, None, self._on_new_request, request)

    def _on_new_request(self, request: Any) -> None:
        assert self._scheduler_side is not None
        super().on_new_request(request)
        self._scheduler_side.new_request(request)

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int | None, bool]:
        nothing: tuple[int | None, bool] = (0, False)
        return self._for_request(request.request_id, nothing, self._match, request, num_computed_tokens)

    def _match(self, request: Any, num_computed_tokens: int) -> tuple[int | None, bool]:
        assert self._scheduler_side is not None
        early = self._scheduler_side.resolve(request, num_computed_tokens)
        if early is not None:
            return early
        answer: tuple[int | None, bool] = super().get_num_new_matched_tokens(request, num_computed_tokens)
        self._scheduler_side.remember(request, num_computed_tokens, answer)
        return answer

    def get_external_cache_hit_sources(self, request: Any, num_external_tokens: int) -> dict[Any, int]:
        hook = super().get_external_cache_hit_sources
        return self._for_request(request.request_id, {}, hook, request, num_external_tokens)

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        self._for_request(request.request_id, None, self._after_alloc, request, blocks, num_external_tokens)
        if num_external_tokens and not self._will_load(request.request_id):
            # The engine waits for these tokens now, so the ranks say that they do not come.
            self._abandoned.add(request.request_id)

    def _will_load(self, request_id: str) -> bool:
        side = self._scheduler_side
        return self._problem is None and side is not None and side.has_unsent_load(request_id)

    def _after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        assert self._scheduler_side is not None
        super().update_state_after_alloc(request, blocks, num_external_tokens)
        self._scheduler_side.scheduled(request, num_external_tokens)

    def build_connector_meta(self, scheduler_output: Any) -> SpillwayMetadata:
        meta = self._guard(None, self._build_meta, scheduler_output) or SpillwayMetadata({}, {}, None)
        # Last, because going inert abandons too.
        meta.abandoned, self._abandoned = self._abandoned, set()
        return meta

    def _build_meta(self, scheduler_output: Any) -> SpillwayMetadata:
        assert self._scheduler_side is not None
        self._scheduler_side.sending()
        return self._scheduler_side.sent(super().build_connector_meta(scheduler_output), scheduler_output)

    def has_pending_push_work(self) -> bool:
        return bool(self._abandoned) or self._guard(False, super().has_pending_push_work)

    def update_connector_output(self, connector_output: Any) -> None:
        if self._problem is None:
            self._guard(None, self._update_output, connector_output)
        elif self._scheduler_side is not None:
            self._always(self._scheduler_side.settle, connector_output)

    def _update_output(self, connector_output: Any) -> None:
        assert self._scheduler_side is not None
        if getattr(connector_output.kv_connector_worker_meta, "changed", False):
            self._weights_may_have_changed("writing to memory")
        self._scheduler_side.before_completion(connector_output)
        super().update_connector_output(connector_output)
        inert: dict[int, str] = getattr(connector_output.kv_connector_worker_meta, "inert", {})
        if inert:
            self._go_inert("; ".join(f"rank {rank}: {problem}" for rank, problem in sorted(inert.items())))

    def request_finished(self, request: Any, block_ids: list[int]) -> tuple[bool, dict[str, Any] | None]:
        return self._finished(request)

    def request_finished_all_groups(
        self, request: Any, block_ids: tuple[list[int], ...]
    ) -> tuple[bool, dict[str, Any] | None]:
        return self._finished(request)

    def _finished(self, request: Any) -> tuple[bool, dict[str, Any] | None]:
        """vLLM's half hears of a plain request's end too where it knows it: the state it keeps goes with the next step."""
        request_id, nothing = request.request_id, (False, None)
        side = self._scheduler_side
        if side is not None:
            side.finished(request_id)
        if side is None or not side.knows(request_id):
            self._plain.discard(request_id)
            return nothing
        was_plain = request_id in self._plain
        self._plain.discard(request_id)
        answer = self._for_request(request_id, nothing, side.scheduler.request_finished, request)
        if not was_plain and request_id not in self._plain:
            self._plain_in_a_row = 0
        self._plain.discard(request_id)
        return answer

    def take_events(self) -> Iterable[Any]:
        return self._guard((), lambda: list(super(SpillwayConnector, self).take_events()))

    def reset_cache(self) -> bool | None:
        return self._guard(True, super().reset_cache)

    def set_xfer_handshake_metadata_pp_aware(self, metadata: dict[tuple[int, int], Any]) -> None:
        self._guard(None, self._learn_ranks, list(metadata.values()))

    def _learn_ranks(self, facts: list[Any]) -> None:
        assert self._scheduler_side is not None
        self._scheduler_side.learn_ranks([fact for fact in facts if isinstance(fact, RankFacts)])

    # The ranks' hooks

    def register_kv_caches(self, kv_caches: dict[str, Any]) -> None:
        self._guard(None, super().register_kv_caches, kv_caches)

    def get_handshake_metadata(self) -> RankFacts | None:
        facts = self._guard(None, lambda: self._rank_side.facts() if self._rank_side is not None else None)
        rank = self._vllm_config.parallel_config.rank
        return facts or RankFacts(rank, {}, "", 0, (), self._problem or "it has no KV cache")

    def handle_preemptions(self, kv_connector_metadata: Any) -> None:
        if self._rank_side is not None:
            self._always(self._rank_side.reports.expect, kv_connector_metadata)
        self._guard(None, super().handle_preemptions, kv_connector_metadata)

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        if self._rank_side is not None:
            self._always(self._rank_side.reports.expect, self._connector_metadata)
        self._guard(None, super().start_load_kv, forward_context, **kwargs)

    def wait_for_save(self) -> None:
        self._guard(None, super().wait_for_save)

    def get_transfer_results(self, finished_req_ids: set[str]) -> KVConnectorTransferResults:
        side = self._rank_side
        if side is None:
            return KVConnectorTransferResults()
        self._guard(None, side.rank.collect)
        if self._problem is not None:
            self._always(side.settle)
        return side.reports.take_results()

    def get_block_ids_with_load_errors(self) -> set[int]:
        side = self._rank_side
        if side is None:
            return set()
        self._guard(None, side.rank.collect)
        if self._problem is not None:
            self._always(side.settle)
        return side.reports.take_unloaded()

    def get_finished(self, finished_req_ids: set[str]) -> tuple[set[str], set[str]]:
        results = self.get_transfer_results(finished_req_ids)
        return results.finished_sending, results.finished_recving

    def build_connector_worker_meta(self) -> SpillwayWorkerMetadata | None:
        return None if self._rank_side is None else self._rank_side.reports.take_meta()

    # Both

    @classmethod
    def get_required_kvcache_layout(cls, vllm_config: Any) -> str | None:
        """The engine's own: blocks are opaque to us (`requirements` refuses one that spreads them over memory)."""
        return None

    def get_kv_connector_stats(self) -> Any:
        return self._guard(None, super().get_kv_connector_stats)

    def shutdown(self) -> None:
        """An inert side still has its thread, its locks and its slots, and an engine's process may outlive the engine."""
        self._always(super().shutdown)

    @classmethod
    def build_prom_metrics(
        cls, vllm_config: Any, metric_types: Any, labelnames: list[str], per_engine_labelvalues: Any
    ) -> KVConnectorPromMetrics:
        try:
            return super().build_prom_metrics(vllm_config, metric_types, labelnames, per_engine_labelvalues)
        except Exception as error:  # noqa: BLE001  the engine's edge: metrics are worth no start
            log.warning("vLLM's connector metrics stay off: %s: %s", type(error).__name__, error)
            return _NoMetrics(vllm_config, metric_types, labelnames, per_engine_labelvalues)
