"""A session whose clock stands still, on a real plane with a disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from spillway import _core
from spillway.client import Gate, Group, Link, RankLink, Session, StoreOffer, Verdict

from tests.unit.clock import Clock
from tests.unit.core.pod import FINGERPRINT, Pod, key_of, root_on

CHUNK_TOKENS = 256
SLICE_BYTES = 100_000


class Side:
    """One engine without an engine: a session, one rank, and keys that are numbered."""

    def __init__(self, pod: Pod) -> None:
        self.pod, self.clock = pod, Clock()
        incarnation = os.urandom(16)
        self.link = Link(str(pod.root), incarnation, 1, 1)
        self.rank = RankLink(str(pod.root), incarnation, 1, 0, [SLICE_BYTES])
        self.gate = Gate(full_step_tokens=512, clock=self.clock)
        self.session = Session(self.link, self.gate, io_deadline_seconds=0.25, clock=self.clock)

    def attach(self) -> None:
        self.rank.poll()
        self.pod.until("the session's attachment", self.link.attachment)
        self.session.set_fingerprint(FINGERPRINT)

    def attachment(self) -> _core.Attachment:
        found = self.link.attachment()
        assert found is not None
        return found

    def resolve(self, request: str, numbers: range) -> Verdict:
        group = Group([key_of(number) for number in numbers], CHUNK_TOKENS, None)
        return self.session.loads.resolve(request, [group], 0, len(numbers) * CHUNK_TOKENS)

    def hits(self, request: str, numbers: range) -> list[bool]:
        return [self.session.loads.is_hit(request, key_of(number)) for number in numbers]

    def offers(self, numbers: range) -> list[StoreOffer]:
        return [StoreOffer(key_of(number), 0, (number + 1) * CHUNK_TOKENS) for number in numbers]

    def store(self, request: str, numbers: range) -> None:
        """Offer until everything is accepted, publish (the slots keep whatever they hold), wait for the index."""
        accepted: list[StoreOffer] = []

        def done() -> bool:
            taken = self.session.stores.offer(request, self.offers(numbers))
            accepted.extend(offer for offer, _slot in taken or [])
            return len(accepted) == len(numbers)

        self.pod.until("leases", done)
        self.session.stored([offer.key for offer in accepted], failed=False)
        self.pod.until("insertion", lambda: self.states(numbers) == bytes([_core.HIT]) * len(numbers))

    def states(self, numbers: range) -> bytes:
        answers = self.attachment().lookup(b"".join(key_of(number) for number in numbers))
        self.attachment().end_step()
        return answers

    def demote(self, numbers: range) -> None:
        """Leave these chunks on NVMe alone."""
        keys = [self.pod.key16(number) for number in numbers]
        self.pod.until(
            "writing", lambda: self.pod.plane.write(keys) and self.pod.plane.tiers(keys) == bytes([3]) * len(keys)
        )
        assert all(self.pod.plane.evict_dram(keys))
        self.pod.until("recycling", lambda: self.pod.plane.stats().recycling_slots == 0)

    def counter(self, name: str) -> int:
        (engine,) = self.pod.plane.stats().engines
        return engine.counters[name]


@pytest.fixture
def pod(tmp_path: Path) -> Iterator[Pod]:
    with root_on(tmp_path) as root:
        pod = Pod(root, nvme=_core.NvmeOptions(capacity_bytes=128 << 20, io_threads=2, deadline_ms=5000))
        pod.until("the scan", lambda: pod.plane.stats().nvme.scan_done)
        yield pod
        pod.plane.close()


@pytest.fixture
def side(pod: Pod) -> Iterator[Side]:
    side = Side(pod)
    side.attach()
    yield side
    side.session.close()
    side.rank.close()
