"""The scheduler's half of the connector: the session, the identity, and an account of the jobs that are under way.

vLLM forgets its jobs at `reset_cache` while the ranks still copy; the account here does not, so leases come back when the copies are
over and not before.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, fields
from typing import Any

from vllm.distributed.kv_transfer.kv_connector.v1.offloading.common import OffloadingConnectorMetadata
from vllm.distributed.kv_transfer.kv_connector.v1.offloading.scheduler import OffloadingConnectorScheduler

from spillway.adapters.vllm.compat import cache_hit_source, tokens_by_source
from spillway.adapters.vllm.fingerprint import RankFacts, describe, seal
from spillway.adapters.vllm.manager import SpillwayManager
from spillway.adapters.vllm.scheduler import SpillwayScheduler
from spillway.adapters.vllm.setup import Setup
from spillway.adapters.vllm.slots import SlotSpec, SpillwayMetadata
from spillway.adapters.vllm.spec import SpillwaySpec
from spillway.adapters.vllm.weights import digest_loaded
from spillway.client import Gate, Group, IdentityUnknown, Link, LoadTokens, Session, Verdict
from spillway.client.refusal import note_refusal

CacheHitSource = cache_hit_source()
log = logging.getLogger("vllm.spillway")


class _OncePerMinute(logging.Filter):
    """Lets vLLM's warning about a step without a free slot through once a minute; the sidecar counts them all."""

    def __init__(self) -> None:
        super().__init__()
        self._next = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        if "cannot store chunks" not in str(record.msg):
            return True
        now = time.monotonic()
        due = now >= self._next
        if due:
            self._next = now + 60
        return due


@dataclass
class _SentJob:
    request_id: str
    ranks_left: int
    started: float
    keys: set[Any]
    places: list[tuple[int, int]]
    store: bool
    payload_bytes: int
    failed: bool = False


class SchedulerSide:
    """`scheduler` is vLLM's; everything else decides what it gets to see."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        config = setup.config
        self._ranks = config.parallel.world_size
        groups = tuple(group.group_id for group in config.groups)
        self.link = Link(setup.settings.root, setup.incarnation, self._ranks, len(groups))
        self.gate = Gate(setup.vllm_config.scheduler_config.max_num_batched_tokens)
        events = setup.vllm_config.kv_events_config
        announces = events is not None and events.enable_kv_cache_events
        self.session = Session(self.link, self.gate, setup.settings.io_deadline_seconds, announces=announces)
        self._manager = SpillwayManager(self.session, groups)
        self.scheduler = SpillwayScheduler(
            SpillwaySpec(config, manager=self._manager), setup.vllm_config, setup.kv_cache_config, self.session
        )
        self._manager.on_cut = self.scheduler.note_offer
        logging.getLogger(OffloadingConnectorScheduler.__module__).addFilter(_OncePerMinute())
        self._jobs: dict[int, _SentJob] = {}
        self._ended: list[tuple[int, _SentJob]] = []  # out of `_jobs`, and the session has not heard of it yet
        self._before: set[str] = set()
        self._causes: set[str] = set()
        self._answers: dict[str, tuple[Any, tuple[int | None, bool]]] = {}
        self._loads_begun_and_ended = 0
        self._unsent_loads: set[str] = set()
        # The model is loaded before its scheduler is made.
        self._loaded_at_seconds = time.time()
        self._description: dict[str, Any] | None = None
        self._cold_reason: str | None = None
        self._sealed = False
        self.link.attachment()

    # Identity

    def learn_ranks(self, facts: list[RankFacts]) -> None:
        """All ranks have spoken: describe the engine, off the engine's loop, because every byte of its weights is read for it."""
        problems = [f"rank {fact.rank}: {fact.problem}" for fact in facts if fact.problem is not None]
        per_chunk = self._setup.config.cache.blocks_per_chunk
        problems += [
            f"rank {fact.rank}: {fact.blocks_per_chunk} blocks per chunk, the scheduler has {per_chunk}"
            for fact in facts
            if fact.problem is None and fact.blocks_per_chunk != per_chunk
        ]
        if len(facts) != self._ranks:
            problems.append(f"{len(facts)} of {self._ranks} ranks have spoken")
        if problems:
            self._stay_cold("; ".join(problems))
            return
        threading.Thread(target=self._describe, args=(facts,), name="spillway-identity", daemon=True).start()

    def _describe(self, facts: list[RankFacts]) -> None:
        settings, vllm_config = self._setup.settings, self._setup.vllm_config
        try:
            description = describe(
                vllm_config,
                self._setup.kv_cache_config,
                facts,
                blocks_per_chunk=self._setup.config.cache.blocks_per_chunk,
                cache_epoch=settings.cache_epoch,
            )
            # Last, because from here on this thread leaves the cores to the engine.
            weights = digest_loaded(vllm_config, root=settings.root, loaded_at_seconds=self._loaded_at_seconds)
            self._description = {**description, "weights": weights}
        except IdentityUnknown as error:
            self._stay_cold(str(error))
        except Exception as error:  # noqa: BLE001  the engine's edge: no identity, no cache
            self._stay_cold(f"{type(error).__name__}: {error}")

    def _stay_cold(self, reason: str) -> None:
        self._cold_reason = reason
        log.warning("Spillway caches nothing for this engine: %s", reason)
        note_refusal(f"it caches nothing: {reason}")

    def _seal(self) -> None:
        """The first request is here, so vLLM has set NONE_HASH."""
        if self.link.problem is not None and self._cold_reason is None:
            self._stay_cold(self.link.problem)
        if self._sealed or self._description is None or self._cold_reason is not None:
            return
        try:
            self.session.set_fingerprint(seal(self._description))
            self._sealed = True
        except IdentityUnknown as error:
            self._stay_cold(str(error))

    def weights_may_have_changed(self, cause: str) -> None:
        """From here on this incarnation has an identity of its own, whatever its files are."""
        if cause not in self._causes:
            # Once each: whoever steers an engine by RPC may call one at every step.
            self._causes.add(cause)
            log.info("Spillway keeps this engine's chunks apart from now on: %s may have changed its weights", cause)
        self.session.reset()
        self.scheduler.lingering.forget()

    # Requests

    def knows(self, request_id: str) -> bool:
        """Whether vLLM's half keeps state for the request."""
        return request_id in self.scheduler._req_status

    def has_unsent_load(self, request_id: str) -> bool:
        """Whether a load of the request goes to the ranks with this step."""
        return any(job.req_id == request_id for job in self.scheduler._current_batch_load_jobs.values())

    def turn_plain(self, request_id: str) -> None:
        """The request goes on without us."""
        self._manager.exclude(request_id)
        self.session.turn_plain(request_id, keep_claims=self.has_unsent_load(request_id))

    def new_request(self, request: Any) -> None:
        """A LoRA adapter's content is in no block hash, so its requests are left alone."""
        self._seal()
        if request.lora_request is not None:
            self._manager.exclude(request.request_id)

    def resolve(self, request: Any, computed_tokens: int) -> tuple[int | None, bool] | None:
        """Look the request up in one call. An answer for vLLM, or None: vLLM's own walk over the result gives it."""
        self._seal()
        if self._manager.is_excluded(request.request_id):
            return 0, False
        status = self.scheduler._req_status[request.request_id]
        if status.transfer_jobs or request.skip_reading_prefix_cache:
            return None
        repeated = self._repeat(request, computed_tokens, status)
        if repeated is not None:
            return repeated
        status.update_offload_keys()
        groups = [
            # A prefix ends with a chunk, so vLLM's wider window for an end inside one is not needed.
            Group(state.offload_keys, config.tokens_per_chunk, config.sliding_window_size_in_chunks)
            for config, state in zip(self.scheduler.config.kv_group_configs, status.group_states, strict=True)
        ]
        verdict = self.session.loads.resolve(request.request_id, groups, computed_tokens, request.num_tokens)
        return (None, False) if verdict is Verdict.WAIT else None

    def remember(self, request: Any, computed_tokens: int, answer: tuple[int | None, bool]) -> None:
        """vLLM's walk gave this answer; while nothing changes it need not walk again."""
        situation = self.session.loads.situation(request.request_id, answered=True)
        if situation is not None:
            place = (situation, computed_tokens, request.num_tokens, self._loads_begun_and_ended)
            self._answers[request.request_id] = (place, answer)

    def _repeat(self, request: Any, computed_tokens: int, status: Any) -> tuple[int | None, bool] | None:
        """vLLM asks again for every waiting request at every step, the more of them the longer a load takes."""
        kept = self._answers.get(request.request_id)
        situation = self.session.loads.situation(request.request_id) if kept is not None else None
        if kept is None or situation is None:
            return None
        if kept[0] != (situation, computed_tokens, request.num_tokens, self._loads_begun_and_ended):
            return None
        # All that vLLM's walk would do beside answering.
        for state in status.group_states:
            state.block_ids.clear()
        return (None, False) if self.session.loads.repeat(request.request_id) is Verdict.WAIT else kept[1]

    def scheduled(self, request: Any, external_tokens: int) -> None:
        """vLLM gave the request its blocks, and waits for so many tokens of it to be loaded."""
        if not external_tokens:
            self.session.loads.scheduled(request.request_id)
            return
        sources = tokens_by_source(self.scheduler, request, external_tokens, self._manager.get_load_source)
        dram, nvme = sources.get(CacheHitSource.HOST, 0), sources.get(CacheHitSource.DISK, 0)
        self.session.loads.scheduled(request.request_id, LoadTokens(dram, nvme, external_tokens - dram - nvme))
        # vLLM lets requests wait for chunks that another one loads, so its answers depend on which loads are under way.
        self._loads_begun_and_ended += 1

    def finished(self, request_id: str) -> None:
        """The request asks nothing any more."""
        self._answers.pop(request_id, None)

    # Jobs

    def sending(self) -> None:
        """A step's jobs are about to be put together; until `sent` returns, the ranks know nothing of its loads."""
        self._unsent_loads = {job.req_id for job in self.scheduler._current_batch_load_jobs.values()}

    def sent(self, meta: OffloadingConnectorMetadata, scheduler_output: Any) -> SpillwayMetadata:
        """Take account of the jobs that go to the ranks with this step."""
        now = time.monotonic()
        jobs: dict[int, _SentJob] = {}
        for transfers, store in ((meta.load_jobs, False), (meta.store_jobs, True)):
            for job_id, transfer in transfers.items():
                places = self._places(transfer.dst_spec if store else transfer.src_spec)
                known = self.scheduler._jobs[job_id]
                jobs[job_id] = _SentJob(
                    known.req_id, self._ranks, now, known.keys, places, store, self._payload_bytes(places)
                )
        self._observe_step(scheduler_output)
        # From here on nothing fails: what counts as sent reaches the ranks.
        self._jobs.update(jobs)
        self._unsent_loads = set()
        self.session.sent()
        return SpillwayMetadata(**{one.name: getattr(meta, one.name) for one in fields(meta)})

    def _places(self, spec: Any) -> list[tuple[int, int]]:
        """The (group, slot) of a job's chunks."""
        assert isinstance(spec, SlotSpec)
        return [(group, slot) for group, slots in enumerate(spec.slots) for slot in slots]

    def _payload_bytes(self, places: list[tuple[int, int]]) -> int:
        geometry = self.link.geometry
        return sum(geometry[group].payload_bytes for group, _slot in places) if geometry is not None else 0

    def _observe_step(self, scheduler_output: Any) -> None:
        """Feed the gate: a request that gets more than one token is prefilling."""
        scheduled: dict[str, int] = scheduler_output.num_scheduled_tokens
        cached = scheduler_output.scheduled_cached_reqs
        computed = {request.req_id: request.num_computed_tokens for request in scheduler_output.scheduled_new_reqs}
        computed.update(zip(cached.req_ids, cached.num_computed_tokens, strict=True))
        prefills = {request_id: tokens for request_id, tokens in scheduled.items() if tokens > 1}
        contexts = [computed.get(request_id, 0) + tokens for request_id, tokens in prefills.items()]
        self.gate.step_scheduled(
            prefill_tokens=sum(prefills.values()),
            total_tokens=scheduler_output.total_num_scheduled_tokens,
            context_tokens=sum(contexts) // len(contexts) if contexts else 0,
            continues=not self._before.isdisjoint(scheduled),
        )
        self._before = set(scheduled)

    def before_completion(self, output: Any) -> None:
        """What the ranks report, before vLLM acts on it: first the slots, so that none is lost where anything after raises."""
        self._take_ended(output)
        failed = set(output.failed_recving or ())
        while self._ended:
            job_id, job = self._ended.pop(0)
            if not job.store:
                self._loads_begun_and_ended += 1
                if not job.failed:
                    self.session.loads.loaded(job.request_id)
                    self.gate.load.add(job.payload_bytes, time.monotonic() - job.started)
                elif self.knows(job.request_id):
                    # Of a load that ends within its step vLLM hears by its blocks alone.
                    failed.add(job.request_id)
            elif job_id not in self.scheduler._jobs:
                self.session.stores.abandon(job.places)
            else:
                # vLLM will call each of them stored, too late to change it: it knows no failed store, and may raise before.
                self.session.stored(job.keys, failed=job.failed)
        for request_id in failed:
            self.session.loads.failed(request_id)

    def _take_ended(self, output: Any) -> None:
        """Move the jobs that the last rank has reported now."""
        meta = output.kv_connector_worker_meta
        failed_jobs: set[int] = getattr(meta, "failed_jobs", set())
        for job_id, count in meta.completed_jobs.items() if meta is not None else ():
            job = self._jobs.get(job_id)
            if job is None:
                continue
            job.ranks_left -= count
            job.failed |= job_id in failed_jobs
            if job.ranks_left <= 0:
                del self._jobs[job_id]
                self._ended.append((job_id, job))

    def give_up(self) -> set[str]:
        """After a failure: let go of everything that no rank has heard of, and name the requests whose load is among it."""
        self.session.give_up()
        self.scheduler.lingering.forget()
        self._abandon_ended()
        return self._unsent_loads | {job.req_id for job in self.scheduler._current_batch_load_jobs.values()}

    def settle(self, output: Any) -> None:
        """After `give_up`: slots of stores come back as the ranks end them. vLLM fences their blocks no more, so none is published."""
        self._take_ended(output)
        self._abandon_ended()

    def _abandon_ended(self) -> None:
        ended, self._ended = self._ended, []
        self.session.stores.abandon([place for _job_id, job in ended if job.store for place in job.places])
