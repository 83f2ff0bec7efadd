"""Random engines against one real daemon, with what must hold checked each second.

    python -m tools.soak [--seconds 600] [--seed N] [--engines 4]

Engines of two models attach, converse, burst and stand still inside a step, while they are killed, stopped and their control files
truncated. Prints the seed, a line every ten seconds, and each broken invariant; exit status 1 when there was any. The seed repeats
what is asked of whom, not the interleaving. Needs 1 GiB in /dev/shm.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final

from .daemon import Daemon
from .engine import MODELS
from .invariants import broken, evictable

START_SECONDS: Final = 60.0
CHECK_EVERY: Final = 1.0
SAY_EVERY: Final = 10.0
# An ended engine's leases and tickets come back 2 s later, and 5 s after it stood still in a step.
SETTLE_SECONDS: Final = 20.0
END_SECONDS: Final = 45.0


@dataclass
class Member:
    """An engine's process and what is done to it."""

    process: subprocess.Popen[str]
    model: int
    incarnation: str = ""
    stopped_until: float = 0.0
    doomed_at: float = 0.0


@dataclass
class Soak:
    """The run: the daemon, its engines, and what was found."""

    root: Path
    seed: int
    members: list[Member] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    born: int = 0
    excused: int = 0
    acts: dict[str, int] = field(default_factory=dict)
    highest_heap: int = 0
    most_descriptors: int = 0

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.began = time.monotonic()
        self.selector = selectors.DefaultSelector()
        self.daemon = Daemon(self.root)
        self.samples = self.first_samples()

    def first_samples(self) -> dict[str, float]:
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            samples = self.daemon.metrics()
            if samples and "spillway_taken_slots" in samples:
                return samples
            time.sleep(0.1)
        raise TimeoutError(f"waited {START_SECONDS} s for the daemon to serve")

    def run(self, seconds: float, engines: int) -> None:
        for _ in range(engines):
            self.spawn()
        end, check_at, say_at, act_at = time.monotonic() + seconds, 0.0, 0.0, 0.0
        while (now := time.monotonic()) < end and self.daemon.process.poll() is None:
            for key, _events in self.selector.select(0.05):
                self.hear(key.data)
            self.tend()
            if now >= act_at:
                act_at = now + self.random.uniform(0.2, 2.0)
                self.act()
            if now >= check_at:
                check_at = now + CHECK_EVERY
                self.check()
            if now >= say_at:
                say_at = now + SAY_EVERY
                self.report()
        self.finish()

    def spawn(self) -> None:
        self.born += 1
        model, seed = self.random.randrange(len(MODELS)), self.random.randrange(1 << 30)
        if self.born <= len(MODELS):
            model = self.born - 1
        command = [
            sys.executable,
            "-m",
            f"{__package__}.engine",
            str(self.root),
            str(model),
            str(seed),
            str(self.daemon.pid),
        ]
        member = Member(subprocess.Popen(command, stdout=subprocess.PIPE, text=True), model)
        self.members.append(member)
        assert member.process.stdout is not None
        os.set_blocking(member.process.stdout.fileno(), False)
        self.selector.register(member.process.stdout, selectors.EVENT_READ, member)

    def hear(self, member: Member) -> None:
        stream: IO[str] | None = member.process.stdout
        assert stream is not None
        for line in stream.readlines():
            try:
                said = json.loads(line)
            except ValueError:
                continue
            self.heard(member, said)

    def heard(self, member: Member, said: dict[str, object]) -> None:
        match said["event"]:
            case "attached":
                member.incarnation = str(said["incarnation"])
            case "damaged":
                self.note(f"an engine loaded what it did not ask for: {said}")
            case "starved":
                samples = self.daemon.metrics() or self.samples
                if not (evictable(samples) and evictable(self.samples)):
                    self.excused += 1
                else:
                    slots = {name: value for name, value in samples.items() if "slots" in name or "leases" in name}
                    self.note(f"an engine starved for a second: {said}, {slots}")

    def tend(self) -> None:
        """Bury the dead, wake the stopped, end the doomed."""
        now = time.monotonic()
        for member in list(self.members):
            if member.stopped_until and now >= member.stopped_until:
                member.stopped_until = 0.0
                member.process.send_signal(signal.SIGCONT)
            if member.doomed_at and now >= member.doomed_at:
                member.process.kill()
            if member.process.poll() is not None:
                self.bury(member)
                self.spawn()

    def bury(self, member: Member) -> None:
        assert member.process.stdout is not None
        self.hear(member)
        self.selector.unregister(member.process.stdout)
        member.process.stdout.close()
        member.process.wait()
        self.members.remove(member)

    def act(self) -> None:
        member = self.random.choice(self.members)
        act = self.random.choice(["kill", "stop", "stop", "truncate", "nothing", "nothing"])
        self.acts[act] = self.acts.get(act, 0) + 1
        match act:
            case "kill":
                member.process.kill()
            case "stop" if not member.stopped_until:
                member.process.send_signal(signal.SIGSTOP)
                member.stopped_until = time.monotonic() + self.random.choice([0.2, 1.0, 3.0, 8.0])
            case "truncate" if member.incarnation:
                file = self.root / "run" / f"ctl-{member.incarnation}"
                try:
                    os.truncate(file, self.random.choice([0, 1, 4096, 8192]))
                except OSError:
                    return
                # It may live on, cold; what it maps is gone.
                member.doomed_at = time.monotonic() + self.random.uniform(0, 3)

    def check(self) -> None:
        samples = self.daemon.metrics()
        if samples is None:
            if self.daemon.process.poll() is None:
                self.note("the daemon does not answer")
            return
        heap, descriptors = self.daemon.heap(), self.daemon.descriptors()
        self.highest_heap, self.most_descriptors = max(self.highest_heap, heap), max(self.most_descriptors, descriptors)
        for sentence in broken(samples, heap, self.daemon.config.heap_bytes, descriptors):
            self.note(sentence)
        self.samples = samples

    def note(self, sentence: str) -> None:
        self.broken.append(sentence)
        sys.stdout.write(f"BROKEN at {time.monotonic() - self.began:.1f} s, seed {self.seed}: {sentence}\n")
        sys.stdout.flush()

    def report(self) -> None:
        figures = {
            "chunks": self.samples['spillway_tier_chunks{tier="dram"}'],
            "nvme": self.samples['spillway_tier_chunks{tier="nvme"}'],
            "evicted": self.samples.get('spillway_evicted_chunks_total{tier="dram"}', 0),
            "MiB stored": self.samples['spillway_hop_bytes_total{hop="engine_to_arena"}'] / (1 << 20),
            "expelled": self.samples.get("spillway_steps_expelled_total", 0),
        }
        told = ", ".join(f"{name} {value:.0f}" for name, value in figures.items())
        sys.stdout.write(
            f"{time.monotonic() - self.began:.0f} s: {told}; engines born {self.born}, {self.acts}; heap at most "
            f"{self.highest_heap >> 20} of {self.daemon.config.heap_bytes >> 20} MiB, descriptors {self.most_descriptors}; "
            f"starved with nothing to evict {self.excused}; broken {len(self.broken)}\n"
        )
        sys.stdout.flush()

    def finish(self) -> None:
        """Every engine ends: all that they held comes back, and the daemon ends when asked to."""
        for member in list(self.members):
            member.process.kill()
            self.bury(member)
        if (code := self.daemon.process.poll()) is not None:
            self.note(f"the daemon ended by itself: {code}")
            return
        self.settle()
        self.check()
        self.report()
        self.daemon.process.terminate()
        try:
            code = self.daemon.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.note(f"the daemon did not end in {END_SECONDS} s")
            self.daemon.process.kill()
            return
        if code:
            self.note(f"the daemon ended with {code}")

    def end(self) -> None:
        """Leave no process behind."""
        for member in self.members:
            member.process.kill()
            member.process.wait()
        self.daemon.process.kill()
        self.daemon.process.wait()

    def settle(self) -> None:
        end, left = time.monotonic() + SETTLE_SECONDS, ["nothing seen yet"]
        names = ["spillway_leases", "spillway_pinned_slots", "spillway_recycling_slots", "spillway_engines"]
        while left and time.monotonic() < end:
            time.sleep(0.2)
            samples = self.daemon.metrics() or {}
            left = [f"{name} is {samples.get(name)}" for name in names if samples.get(name) != 0]
        if left:
            self.note(f"after the last engine's end: {', '.join(left)}")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=None, help="random when left out")
    parser.add_argument("--engines", type=int, default=4, help="engines at a time")
    args = parser.parse_args()
    seed = args.seed if args.seed is not None else random.SystemRandom().randrange(1 << 30)
    sys.stdout.write(f"soak: seed {seed}, {args.seconds:.0f} s, {args.engines} engines\n")
    with tempfile.TemporaryDirectory(prefix="spillway-soak-", dir="/dev/shm") as folder:
        for name in ("arena", "index", "run", "nvme"):
            (Path(folder) / name).mkdir()
        soak = Soak(Path(folder), seed)
        try:
            soak.run(args.seconds, args.engines)
        finally:
            soak.end()
    sys.stdout.write(f"soak: {len(soak.broken)} broken, seed {seed}\n")
    return 1 if soak.broken else 0


if __name__ == "__main__":
    sys.exit(main())
