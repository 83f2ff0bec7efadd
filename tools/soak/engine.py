"""One random engine: looks up, loads and verifies, promotes, stores, bursts, stands still inside a step. Says on stdout what is wrong.

    python -m tools.soak.engine ROOT MODEL SEED DAEMON_PID

It runs until it is killed. Each line is JSON: {"event": "attached" | "starved" | "damaged" | "refused", ...}.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import random
import struct
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from spillway import _core

# Slices of two models, so that two slot classes share the arena.
MODELS: Final = (900_000, 200_000)
CONVERSATIONS, LONGEST = 40, 24
ATTACH_SECONDS: Final = 30.0
# Longer than this between two looks, the engine itself was stopped or had no processor: that is no starvation.
GAP_SECONDS: Final = 0.25
STARVED_SECONDS: Final = 1.0
GIVE_UP_SECONDS: Final = 8.0
# A step that took longer may have been declared void (the core waits 5 s for it), and what it pinned was not.
SURE_STEP_SECONDS: Final = 3.0
STAMP_BYTES: Final = 32


def say(event: str, **fields: object) -> None:
    sys.stdout.write(json.dumps({"event": event, **fields}) + "\n")
    sys.stdout.flush()


def waited_for_processor(pid: int) -> float:
    """Seconds that a process's first thread was ready to run and did not; 0 where the kernel does not say."""
    try:
        return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


def key_of(model: int, number: int) -> bytes:
    return hashlib.sha256(b"%d %d" % (model, number)).digest() + struct.pack(">I", 0)


@dataclass
class Hunger:
    """For how long an engine has asked for leases and got none, while both it and the daemon could run."""

    daemon: int
    since: float = 0.0
    looked: float = 0.0
    delay: float = 0.0

    def begin(self) -> None:
        self.since = self.looked = time.monotonic()
        self.delay = waited_for_processor(self.daemon)

    def seconds(self) -> float:
        now = time.monotonic()
        if now - self.looked > GAP_SECONDS:
            self.begin()
        self.looked = now
        return now - self.since - (waited_for_processor(self.daemon) - self.delay)


class Engine:
    """One incarnation with one rank, both in this process."""

    def __init__(self, root: Path, model: int, seed: int, daemon: int) -> None:
        self.root, self.model, self.random, self.daemon = root, model, random.Random(seed), daemon
        self.fresh = 1_000_000 + seed % 1_000_000 * 1000
        incarnation = os.urandom(16)
        self.rank = _core.Attachment(str(root), incarnation, 1, 1, 0)
        self.rank.declare_slices([MODELS[model]])
        self.scheduler = _core.Attachment(str(root), incarnation, 1, 1, -1)
        self.until(lambda: self.scheduler.geometry() is not None, "geometry")
        self.until(self.scheduler.try_map, "the index")
        self.until(lambda: self.scheduler.set_fingerprint(hashlib.sha256(b"%d" % model).digest()), "the fingerprint")
        self.arena = mmap.mmap(os.open(root / "arena/arena", os.O_RDWR), 0)
        say("attached", incarnation=incarnation.hex(), model=model)

    def until(self, done: object, what: str) -> None:
        end = time.monotonic() + ATTACH_SECONDS
        assert callable(done)
        while not done():
            if self.scheduler.state()[0] == _core.STATE_REFUSED:
                say("refused", reason=self.scheduler.state()[1])
                sys.exit(0)
            if time.monotonic() > end:
                raise TimeoutError(f"waited {ATTACH_SECONDS} s for {what}")
            time.sleep(0.005)

    def run(self) -> None:
        acts = [self.converse] * 12 + [self.burst, self.stall, self.use, self.rest, self.rest]
        while self.scheduler.state()[0] != _core.STATE_REFUSED:
            self.random.choice(acts)()
        say("refused", reason=self.scheduler.state()[1])

    def converse(self) -> None:
        """A request of some conversation: load its head, promote what is below, store the rest."""
        at = int(self.random.paretovariate(1.1)) % CONVERSATIONS * LONGEST
        keys = [key_of(self.model, at + step) for step in range(self.random.randint(1, LONGEST))]
        answers = self.load(keys)
        below = [key for key, answer in zip(keys, answers, strict=True) if answer == _core.NVME]
        if below:
            self.scheduler.promote(b"".join(below), 0, self.random.choice([50, 500, 5000]))
            time.sleep(self.random.uniform(0, 0.05))
            answers = self.load(keys)
        self.store([key for key, answer in zip(keys, answers, strict=True) if answer == _core.MISS])

    def burst(self) -> None:
        count = self.random.randint(30, 200)
        self.store([key_of(self.model, self.fresh + step) for step in range(count)])
        self.fresh += count

    def stall(self) -> None:
        """Inside a step, sometimes for longer than the core waits."""
        self.scheduler.begin_step()
        time.sleep(self.random.choice([0.1, 0.5, 2.0, 7.0]))
        self.scheduler.end_step()

    def use(self) -> None:
        keys = [key_of(self.model, self.random.randrange(CONVERSATIONS * LONGEST)) for _ in range(8)]
        self.scheduler.use(b"".join(keys))

    def rest(self) -> None:
        time.sleep(self.random.uniform(0, 0.1))

    def load(self, keys: list[bytes]) -> bytes:
        """Look up, pin the leading hits, copy, verify, acknowledge; the answers."""
        began = time.monotonic()
        answers = self.scheduler.lookup(b"".join(keys))
        hits = next((at for at, answer in enumerate(answers) if answer != _core.HIT), len(answers))
        ticket = self.scheduler.take_ticket(b"".join(keys[:hits])) if hits else None
        self.scheduler.end_step()
        sure = time.monotonic() - began < SURE_STEP_SECONDS
        if ticket is not None:
            name, packed = ticket
            for key, slot in zip(keys[:hits], struct.unpack(f"{hits}i", packed), strict=True):
                if self.stamp(slot) != self.stamp_of(key) and sure:
                    say("damaged", key=key.hex(), slot=slot)
            self.rank.ack(name)
        return answers

    def store(self, keys: list[bytes]) -> None:
        """Lease, fill, publish, a few at a time; say so when no lease comes though both sides could run."""
        hunger = Hunger(self.daemon)
        hunger.begin()
        said = False
        while keys:
            packed = self.scheduler.lease(0, min(len(keys), 16))
            if not packed:
                seconds = hunger.seconds()
                if seconds > STARVED_SECONDS and not said:
                    said = True
                    say("starved", model=self.model, lacking=len(keys))
                if seconds > GIVE_UP_SECONDS or self.scheduler.state()[0] == _core.STATE_REFUSED:
                    return
                time.sleep(0.005)
                continue
            slots = struct.unpack(f"{len(packed) // 4}i", packed)
            now, keys = keys[: len(slots)], keys[len(slots) :]
            for key, slot in zip(now, slots, strict=True):
                self.fill(slot, key)
            self.publish(now, packed)
            hunger.begin()
            said = False

    def publish(self, keys: list[bytes], slots: bytes) -> None:
        done = 0
        while done < len(keys) and self.scheduler.state()[0] != _core.STATE_REFUSED:
            done += self.scheduler.publish(b"".join(keys[done:]), 0, slots[4 * done :])
            if done < len(keys):
                time.sleep(0.005)

    def payload(self, slot: int) -> tuple[int, int]:
        start = slot * _core.PAGE_BYTES + _core.HEADER_BYTES
        return start, start + MODELS[self.model] - STAMP_BYTES

    def fill(self, slot: int, key: bytes) -> None:
        for at in self.payload(slot):
            self.arena[at : at + STAMP_BYTES] = key[:STAMP_BYTES]

    def stamp(self, slot: int) -> bytes:
        return b"".join(self.arena[at : at + STAMP_BYTES] for at in self.payload(slot))

    @staticmethod
    def stamp_of(key: bytes) -> bytes:
        return key[:STAMP_BYTES] * 2


def main(root: str, model: str, seed: str, daemon: str) -> None:
    Engine(Path(root), int(model), int(seed), int(daemon)).run()


if __name__ == "__main__":
    main(*sys.argv[1:])
