"""What the sidecars say of themselves: GET /status of every injected pod, at a bounded rate.

Each pod is asked every 10 s, or less often where that would be more than 150 reads a second. A pod that does not answer
within 1 s keeps its last report, whose `observed_at` grows old: absent is not zero, and a dead pod delays nobody.
"""

from __future__ import annotations

import asyncio
import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import aiohttp
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from spillway_operator.controller.observed import PodView, PoolKey
from spillway_operator.controller.roster import Roster
from spillway_operator.controller.status_keys import StatusSigner
from spillway_operator.metrics import MEMBER_READS

READ_EVERY_SECONDS = 10.0
MAX_READS_PER_SECOND = 150.0
READ_TIMEOUT_SECONDS = 1.0
MAX_CONNECTIONS = 64
# A report is a few KiB; whoever answers with more is not our sidecar.
MAX_REPORT_BYTES = 256 * 1024
# A pod is a tenant's, and so is its answer. Sums over 10,000 pods of these fit the status's 64-bit integers.
MAX_TIER_BYTES = 2**60
MAX_COUNT = 2**48
MAX_ITEMS = 32


class _Report(BaseModel):
    # A newer sidecar may say more than we read.
    model_config = ConfigDict(frozen=True, extra="ignore")


class MemberCondition(_Report):
    """Something that a sidecar wants seen in the pool's condition of this `type`."""

    type: str = Field(max_length=100)
    # An older sidecar tells of faults only, and says so by the condition's type.
    status: str = Field(default="", max_length=100)
    reason: str = Field(max_length=100)
    message: str = Field(default="", max_length=2000)

    @property
    def is_fault(self) -> bool:
        """Whether something is wrong now. A volume that is there may have news as well, as that it was made anew."""
        return not (self.type == "StorageProvisioned" and self.status == "True")


class TierReport(_Report):
    """One tier of one pod, in bytes."""

    name: str = Field(max_length=32)
    capacity_bytes: int = Field(ge=0, le=MAX_TIER_BYTES)
    used_bytes: int = Field(ge=0, le=MAX_TIER_BYTES)
    chunks: int = Field(ge=0, le=MAX_COUNT)
    percent_of_device: int | None = Field(default=None, ge=0, le=MAX_COUNT)


class TokenReport(_Report):
    """Prompt tokens since the pod's start: those that were looked up, and of them those that were loaded, by tier."""

    looked_up: int = Field(ge=0, le=MAX_COUNT)
    dram: int = Field(default=0, ge=0, le=MAX_COUNT)
    nvme: int = Field(default=0, ge=0, le=MAX_COUNT)
    other: int = Field(default=0, ge=0, le=MAX_COUNT)


class MemberReport(_Report):
    """One sidecar's answer. `engines_attached_ever` tells a pod whose engine never came from one whose engine left."""

    tiers: tuple[TierReport, ...] = Field(default=(), max_length=MAX_ITEMS)
    tokens: TokenReport | None = None
    conditions: tuple[MemberCondition, ...] = Field(default=(), max_length=MAX_ITEMS)
    engines_attached: int = Field(default=0, ge=0, le=MAX_COUNT)
    engines_attached_ever: int = Field(default=0, ge=0, le=MAX_COUNT)


@dataclass(frozen=True)
class Observation:
    """A report and when it was read."""

    report: MemberReport
    observed_at: datetime


class MemberReader:
    """Reads the sidecars of all pools and remembers each pod's last report. Event loop only."""

    def __init__(self, signer: StatusSigner, pods: Roster[PodView], on_change: Callable[[PoolKey], None]) -> None:
        """`pods` by uid: who is to be read now. Nobody else takes its changes."""
        self._signer = signer
        self._pods = pods
        self._on_change = on_change
        self._last: dict[str, Observation] = {}
        self._due_at: dict[str, float] = {}
        # (when, uid), the first to come first. An entry that differs from `_due_at` is of a pod that went.
        self._order: list[tuple[float, str]] = []
        self._reading: dict[str, asyncio.Task[None]] = {}

    def observation(self, pod_uid: str) -> Observation | None:
        """The last report of a pod, if there ever was one."""
        return self._last.get(pod_uid)

    async def run(self) -> None:
        """Read until cancelled."""
        timeout = aiohttp.ClientTimeout(total=READ_TIMEOUT_SECONDS)
        connector = aiohttp.TCPConnector(limit=MAX_CONNECTIONS)
        async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
            try:
                while True:
                    self._start_due_reads(session)
                    await asyncio.sleep(0.5)
            finally:
                for task in self._reading.values():
                    task.cancel()

    def _start_due_reads(self, session: aiohttp.ClientSession) -> None:
        for uid in self._take_due(asyncio.get_running_loop().time()):
            pod = self._pods.get(uid)
            if pod is not None and uid not in self._reading:
                task = asyncio.create_task(self._read(session, pod))
                self._reading[uid] = task
                task.add_done_callback(lambda _done, uid=uid: self._reading.pop(uid, None))  # type: ignore[misc]

    def _take_due(self, now: float) -> list[str]:
        """The uids of the pods whose turn it is, each of which is due again a period later."""
        new = []
        for uid in self._pods.take_changed():
            if uid not in self._pods:
                self._due_at.pop(uid, None)
                self._last.pop(uid, None)
            elif uid not in self._due_at:
                new.append(uid)
        # After a start all are new: asked at once, most would wait for a connection until their time is over.
        for index, uid in enumerate(new):
            self._schedule(uid, now + index // int(MAX_READS_PER_SECOND))
        period_seconds = max(READ_EVERY_SECONDS, len(self._pods) / MAX_READS_PER_SECOND)
        due = []
        while self._order and self._order[0][0] <= now:
            due_at, uid = heapq.heappop(self._order)
            if self._due_at.get(uid) == due_at:
                due.append(uid)
                self._schedule(uid, now + period_seconds * random.uniform(0.9, 1.1))
        return due

    def _schedule(self, uid: str, due_at: float) -> None:
        self._due_at[uid] = due_at
        heapq.heappush(self._order, (due_at, uid))

    async def _read(self, session: aiohttp.ClientSession, pod: PodView) -> None:
        report = await read_member(session, pod, self._signer)
        # A pod that left meanwhile would be kept for ever.
        if report is not None and pod.uid in self._pods:
            self.take(pod, Observation(report, datetime.now(UTC)))

    def take(self, pod: PodView, observation: Observation) -> None:
        """Keep what a pod's sidecar was seen to say."""
        known, report = self._last.get(pod.uid), observation.report
        self._last[pod.uid] = observation
        if known is None or known.report != report:
            self._on_change(pod.key)


async def _read_bounded(stream: aiohttp.StreamReader) -> bytes:
    body = bytearray()
    async for part in stream.iter_any():
        body += part
        if len(body) > MAX_REPORT_BYTES:
            raise aiohttp.ClientPayloadError(f"/status is longer than {MAX_REPORT_BYTES} bytes")
    return bytes(body)


async def read_member(session: aiohttp.ClientSession, pod: PodView, signer: StatusSigner) -> MemberReport | None:
    """Ask one sidecar; None where it gives no usable answer (counted by why)."""
    host = f"[{pod.ip}]" if ":" in pod.ip else pod.ip
    headers = {"Authorization": f"Bearer {signer.sign(pod.uid)}"}
    try:
        async with session.get(
            f"http://{host}:{pod.http_port}/status", headers=headers, allow_redirects=False
        ) as answer:
            if answer.status != 200:
                MEMBER_READS.labels(outcome="refused").inc()
                return None
            body = await _read_bounded(answer.content)
    except (aiohttp.ClientError, TimeoutError, OSError):
        MEMBER_READS.labels(outcome="unreachable").inc()
        return None
    try:
        report = MemberReport.model_validate_json(body)
    except ValidationError:
        MEMBER_READS.labels(outcome="unreadable").inc()
        return None
    MEMBER_READS.labels(outcome="ok").inc()
    return report
