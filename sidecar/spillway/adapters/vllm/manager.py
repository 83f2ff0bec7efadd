"""The OffloadingManager that vLLM's offloading scheduler asks: thin translation to `spillway.client.Session`.

Everything was looked up before, in one call (`SpillwayConnector.get_num_new_matched_tokens`); the per-key lookup here only
reads that result. Requests with a LoRA adapter are left alone: vLLM's block hash names the adapter but not its content.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any, Final

from vllm.v1.kv_offload.base import (
    LoadStoreSpec,
    Locality,
    LookupResult,
    Medium,
    OffloadingEvent,
    OffloadingManager,
    OffloadKey,
    PrepareStoreOutput,
    ReqContext,
    RequestOffloadingContext,
    ScheduleEndContext,
    get_offload_group_idx,
)

from spillway import _core
from spillway.adapters.vllm.compat import cache_hit_source
from spillway.adapters.vllm.slots import SlotSpec
from spillway.client import Session, StoreOffer
from spillway.client.ledger import unpack_slots

CacheHitSource: Final = cache_hit_source()
_MEDIUM: Final = {_core.HIT: Medium.CPU, _core.NVME: Medium.STORAGE}


class SpillwayManager(OffloadingManager):
    """`groups`: vLLM's ids of the offloaded KV groups, in the order in which the control file numbers them."""

    def __init__(self, session: Session, groups: tuple[int, ...]) -> None:
        self._session = session
        self._position = {group_id: position for position, group_id in enumerate(groups)}
        self._excluded: set[str] = set()
        # Called while vLLM still knows where the offer began.
        self.on_cut: Callable[[str], None] = lambda _request_id: None

    def exclude(self, request_id: str) -> None:
        """Neither load nor store for this request."""
        self._excluded.add(request_id)

    def is_excluded(self, request_id: str) -> bool:
        return request_id in self._excluded

    def lookup(self, key: OffloadKey, req_context: ReqContext) -> LookupResult:
        return LookupResult.HIT if self._session.loads.is_hit(req_context.req_id, key) else LookupResult.MISS

    def get_load_source(self, key: OffloadKey, req_context: ReqContext) -> Any:
        return CacheHitSource.DISK if self._session.loads.was_promoted(req_context.req_id, key) else CacheHitSource.HOST

    def prepare_load(self, keys: Collection[OffloadKey], req_context: ReqContext) -> LoadStoreSpec:
        ordered = list(keys)
        groups = [self._position[get_offload_group_idx(key)] for key in ordered]
        claim = self._session.loads.claim(req_context.req_id, ordered)
        if claim is None:
            return SlotSpec(self._by_group(groups, [0] * len(groups)), lost=True)
        tickets, slots = claim
        return SlotSpec(self._by_group(groups, unpack_slots(slots)), tickets=tickets)

    def prepare_store(self, keys: Collection[OffloadKey], req_context: ReqContext) -> PrepareStoreOutput | None:
        accepted = [] if req_context.req_id in self._excluded else self._accept(keys, req_context)
        if accepted is None:
            return None
        if self._session.stores.was_cut(req_context.req_id):
            self.on_cut(req_context.req_id)
        groups = [offer.group for offer, _slot in accepted]
        slots = self._by_group(groups, [slot for _offer, slot in accepted])
        return PrepareStoreOutput([OffloadKey(offer.key) for offer, _slot in accepted], SlotSpec(slots), [])

    def _accept(self, keys: Collection[OffloadKey], req_context: ReqContext) -> list[tuple[StoreOffer, int]] | None:
        offers: list[StoreOffer] = []
        for key in keys:
            end_token = req_context.get_offload_key_position(key)
            if end_token is not None:
                offers.append(StoreOffer(key, self._position[get_offload_group_idx(key)], end_token))
        return self._session.stores.offer(req_context.req_id, offers)

    def _by_group(self, groups: list[int], slots: Iterable[int]) -> tuple[tuple[int, ...], ...]:
        found: list[list[int]] = [[] for _ in self._position]
        for group, slot in zip(groups, slots, strict=True):
            found[group].append(slot)
        return tuple(tuple(one) for one in found)

    def complete_store(self, keys: Collection[OffloadKey], req_context: ReqContext, success: bool = True) -> None:
        self._session.stored(keys, failed=not success)

    def on_new_request(self, req_context: ReqContext) -> RequestOffloadingContext:
        return RequestOffloadingContext()

    def on_request_finished(self, req_context: ReqContext) -> None:
        self._excluded.discard(req_context.req_id)
        positions = req_context._offload_key_positions
        self._session.finished(req_context.req_id, sorted(positions, key=positions.__getitem__, reverse=True))

    def take_events(self) -> Iterable[OffloadingEvent]:
        """What routers should know: where a chunk is now, after where it was."""
        for change in self._session.take_changes():
            key = OffloadKey(change.key)
            for answer, removed in ((change.before, True), (change.now, False)):
                if answer in _MEDIUM:
                    yield OffloadingEvent([key], _MEDIUM[answer], removed, Locality.LOCAL, removal_expected=True)

    def on_schedule_end(self, context: ScheduleEndContext) -> None:
        self._session.step_ended()

    def reset_cache(self) -> None:
        self._session.reset()

    def shutdown(self) -> None:
        self._session.close()
