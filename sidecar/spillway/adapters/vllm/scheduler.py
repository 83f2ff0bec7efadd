"""vLLM's offloading scheduler, with chunks that find no slot offered again: the next step, and after their request has ended."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from vllm.distributed.kv_transfer.kv_connector.v1.offloading.scheduler import OffloadingConnectorScheduler

from spillway.adapters.vllm.lingering import Lingering
from spillway.client import Session


class SpillwayScheduler(OffloadingConnectorScheduler):
    """Takes a scheduled request that it was not told of for nothing, where vLLM's takes every one for one that it knows."""

    def __init__(self, spec: Any, vllm_config: Any, kv_cache_config: Any, session: Session) -> None:
        super().__init__(spec, vllm_config, kv_cache_config)
        self._session = session
        self._offer_began: dict[str, list[int]] = {}
        self._given: set[int] = set()  # blocks that this step's requests were given
        self.lingering = Lingering(self._blocks_left)

    def on_new_request(self, request: Any) -> None:
        if self.lingering.drop(request.request_id):
            self.manager.on_request_finished(self._req_status[request.request_id].req_context)
        super().on_new_request(request)

    def build_connector_meta(self, scheduler_output: Any) -> Any:
        self.lingering.begin_step(scheduler_output.finished_req_ids or ())
        self._given = set(_new_blocks(scheduler_output))
        shown = copy.copy(scheduler_output)
        shown.finished_req_ids = self.lingering.ending
        try:
            return super().build_connector_meta(shown)
        finally:
            self.lingering.ending.clear()

    def _update_req_states(self, scheduler_output: Any) -> None:
        super()._update_req_states(_only_known(scheduler_output, self._req_status))

    def _build_store_jobs(self, scheduler_output: Any) -> Any:
        allocated = self._given | self._current_batch_allocated_block_ids
        self.lingering.give_way(allocated)
        shown = copy.copy(scheduler_output)
        # vLLM forgets those that gave way after this.
        shown.finished_req_ids = self.lingering.offered()
        jobs = super()._build_store_jobs(shown)
        self._offer_again(self._session.stores.take_cuts())
        self.lingering.end_step(self._session.stores.take_unmet(), allocated)
        return jobs

    def has_pending_push_work(self) -> bool:
        return bool(self.lingering.waiting) or super().has_pending_push_work()

    def reset_cache(self) -> None:
        self.lingering.forget()
        super().reset_cache()

    def note_offer(self, request_id: str) -> None:
        """An offer is cut: from where it began."""
        states = self._req_status[request_id].group_states
        self._offer_began[request_id] = [state.next_stored_chunk_idx for state in states]

    def _offer_again(self, cuts: dict[str, int]) -> None:
        """vLLM takes what was not accepted for stored elsewhere and never offers it again, unless its place is moved back."""
        for request_id, token in cuts.items():
            status = self._req_status.get(request_id)
            if status is None:
                continue
            began = self._offer_began.get(request_id, [0] * len(status.group_states))
            for config, state, before in zip(self.config.kv_group_configs, status.group_states, began, strict=True):
                # Not before where this step's offer began: vLLM has not looked whether blocks before it were given away since.
                first_left = max(-(-token // config.tokens_per_chunk) - 1, before)
                state.next_stored_chunk_idx = min(state.next_stored_chunk_idx, first_left)
        self._offer_began.clear()

    def _blocks_left(self, request_id: str) -> Iterator[int]:
        status = self._req_status.get(request_id)
        per_chunk = self.config.blocks_per_chunk
        for state in status.group_states if status is not None else ():
            chunks = min(len(state.offload_keys), len(state.block_ids) // per_chunk)
            yield from state.block_ids[state.next_stored_chunk_idx * per_chunk : chunks * per_chunk]


def _new_blocks(output: Any) -> Iterator[int]:
    """The blocks that this step's requests were given, also those of requests that vLLM's half does not know."""
    groups = [request.block_ids for request in output.scheduled_new_reqs]
    groups += [blocks for blocks in output.scheduled_cached_reqs.new_block_ids if blocks is not None]
    for blocks in groups:
        for group in blocks:
            # 0 is the null block: it holds nothing, and belongs to nobody.
            yield from (block for block in group if block)


def _only_known(output: Any, known: Mapping[str, Any]) -> Any:
    """A step's output without the requests that could not even be introduced."""
    cached = output.scheduled_cached_reqs
    if all(new.req_id in known for new in output.scheduled_new_reqs) and all(name in known for name in cached.req_ids):
        return output
    kept = [at for at, name in enumerate(cached.req_ids) if name in known]
    seen = copy.copy(output)
    seen.scheduled_new_reqs = [new for new in output.scheduled_new_reqs if new.req_id in known]
    seen.scheduled_cached_reqs = copy.copy(cached)
    seen.scheduled_cached_reqs.req_ids = [cached.req_ids[at] for at in kept]
    seen.scheduled_cached_reqs.new_block_ids = [cached.new_block_ids[at] for at in kept]
    return seen
