"""One request's wait: which chunks on NVMe, or still being inserted, it waits for, and until when.

Begun once, at the first answer that is not final, and sticky: what is not in it is a miss for this request. Nobody wakes a waiting
request, so every engine step asks again; while the index's progress word stands still that costs one comparison.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from spillway import _core
from spillway.client.records import Group

PENDING = 3  # beside _core.MISS, HIT and NVME: published or being copied, not inserted yet


@dataclass(frozen=True)
class Wanted:
    """One chunk that a load of this request would need."""

    key: bytes
    group: int
    start_token: int
    state: int
    window: bool


def select(groups: list[Group], states: list[bytes], computed_tokens: int, total_tokens: int) -> list[Wanted]:
    """Choose the chunks of the longest prefix past computed_tokens of which every chunk that attention needs is somewhere.

    states: per group one byte per key from the chunk that holds computed_tokens on. Full-attention groups bound the prefix by their
    leading run, windowed ones by the last window that is complete; the engine's own lookup stays the judge.
    """
    starts = [computed_tokens // group.chunk_tokens for group in groups]
    boundary = total_tokens
    for group, state, start in zip(groups, states, starts, strict=True):
        if group.window_chunks is None:
            run = state.find(_core.MISS)
            boundary = min(boundary, (start + (len(state) if run < 0 else run)) * group.chunk_tokens)
    windows: dict[int, tuple[int, int]] = {}
    for index, (group, state, start) in enumerate(zip(groups, states, starts, strict=True)):
        if group.window_chunks is None:
            continue
        end = min(-(-boundary // group.chunk_tokens) - start, len(state))
        first, last = _last_window(state[: max(end, 0)], group.window_chunks)
        if last == 0:
            return []
        windows[index] = (first, last)
        boundary = min(boundary, (start + last) * group.chunk_tokens)
    wanted: list[Wanted] = []
    for index, (group, state, start) in enumerate(zip(groups, states, starts, strict=True)):
        first, last = windows.get(index, (0, -(-boundary // group.chunk_tokens) - start))
        for offset in range(first, min(last, len(state))):
            chunk = start + offset
            wanted.append(
                Wanted(
                    group.keys[chunk], index, chunk * group.chunk_tokens, state[offset], group.window_chunks is not None
                )
            )
    return wanted


def _last_window(state: bytes, window_chunks: int) -> tuple[int, int]:
    """(first, end) of the last run of window_chunks chunks that are somewhere; a shorter run counts at the very start."""
    run = 0
    for offset in range(len(state) - 1, -1, -1):
        run = run + 1 if state[offset] != _core.MISS else 0
        if run == window_chunks:
            return offset, offset + run
    return 0, run


@dataclass
class Wait:
    """`deadline` bounds the whole wait, `stall_deadline` the wait for the next sign of progress (monotonic seconds)."""

    wanted: list[Wanted]
    started: float
    deadline: float
    stall_deadline: float
    pending_deadline: float
    reserved_bytes: int
    promoted_bytes: int
    word: int
    missing: set[bytes] = field(default_factory=set)
    ticket: int | None = None

    def __post_init__(self) -> None:
        self.missing = {entry.key for entry in self.wanted if entry.state != _core.HIT}

    def promoted(self) -> set[bytes]:
        return {entry.key for entry in self.wanted if entry.state == _core.NVME}

    def unchanged(self, word: int, now: float) -> bool:
        return word == self.word and now < min(self.deadline, self.stall_deadline, self.pending_deadline)

    def cut(self, gone: set[bytes]) -> None:
        """Chunks that will not come end the prefix before them; a lost window is waited for no more."""
        bounds = [entry.start_token for entry in self.wanted if entry.key in gone and not entry.window]
        lost = {entry.group for entry in self.wanted if entry.key in gone and entry.window}
        bound = min(bounds, default=None)
        self.wanted = [
            entry for entry in self.wanted if entry.group not in lost and (bound is None or entry.start_token < bound)
        ]
        self.missing &= {entry.key for entry in self.wanted}
