"""Never slower than recompute: what loading is expected to take against computing the same tokens again.

Everything is measured in this engine. Prefill speed is kept per bucket of context length, because attention grows with it, and
learned from steps that are full and mostly prefill, as the time from one step's scheduling to the next.
Until three samples of both sides are there nothing is declined. One in sixteen declined loads is let through, so that a
gate that was right once learns when it is not any more.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

MINIMUM_SAMPLES: Final = 3
WEIGHT_OF_NEWEST: Final = 0.3
FULL_STEP_RATIO: Final = 0.9
PREFILL_RATIO: Final = 0.5
PROBE_EVERY: Final = 16
SMALLEST_BUCKET_TOKENS: Final = 1024


@dataclass
class Rate:
    """Units per second, as an exponentially weighted mean."""

    samples: int = 0
    per_second: float = 0.0

    def add(self, units: float, seconds: float) -> None:
        if units <= 0 or seconds <= 0:
            return
        rate = units / seconds
        self.per_second = rate if not self.samples else self.per_second + WEIGHT_OF_NEWEST * (rate - self.per_second)
        self.samples += 1

    def seconds_for(self, units: float) -> float | None:
        return units / self.per_second if self.samples >= MINIMUM_SAMPLES else None


def bucket_of(context_tokens: int) -> int:
    """Buckets double: up to 1024 tokens, 2048, 4096..."""
    return max(0, (max(context_tokens, 1) - 1).bit_length() - SMALLEST_BUCKET_TOKENS.bit_length() + 1)


@dataclass
class _Step:
    started: float
    prefill_tokens: int
    context_tokens: int
    counts: bool


@dataclass
class Gate:
    """`full_step_tokens`: the engine's budget of tokens per step. Bytes are payload."""

    full_step_tokens: int
    clock: Callable[[], float] = time.monotonic
    load: Rate = field(default_factory=Rate)
    promotion: Rate = field(default_factory=Rate)
    _prefill: dict[int, Rate] = field(default_factory=dict)
    _step: _Step | None = None
    _declined: int = 0

    def step_scheduled(self, *, prefill_tokens: int, total_tokens: int, context_tokens: int, continues: bool) -> None:
        """The engine scheduled a step; from one to the next is how long the first one took.

        context_tokens: mean context of its prefills. continues: it goes on with requests of the step before, so that no idle time lies
        between the two.
        """
        now, before = self.clock(), self._step
        if before is not None and before.counts and continues:
            rate = self._prefill.setdefault(bucket_of(before.context_tokens), Rate())
            rate.add(before.prefill_tokens, now - before.started)
        full = total_tokens >= FULL_STEP_RATIO * self.full_step_tokens
        counts = full and prefill_tokens >= PREFILL_RATIO * total_tokens
        self._step = _Step(now, prefill_tokens, context_tokens, counts)

    def recompute_seconds(self, tokens: int, context_tokens: int) -> float | None:
        """Time to prefill `tokens`; None while too little was seen. The nearest bucket that was measured counts."""
        known = [bucket for bucket, rate in self._prefill.items() if rate.samples >= MINIMUM_SAMPLES]
        if not known:
            return None
        wanted = bucket_of(context_tokens)
        nearest = min(known, key=lambda bucket: (abs(bucket - wanted), bucket))
        return self._prefill[nearest].seconds_for(tokens)

    def worth_it(self, *, tokens: int, context_tokens: int, load_bytes: int, promote_bytes: int) -> bool:
        """Whether promoting and loading is expected to be no slower than computing `tokens` again."""
        recompute = self.recompute_seconds(tokens, context_tokens)
        load = self.load.seconds_for(load_bytes)
        if recompute is None or load is None:
            return True
        wait = self.promotion.seconds_for(promote_bytes) or 0.0 if promote_bytes else 0.0
        if wait + load <= recompute:
            return True
        self._declined += 1
        return self._declined % PROBE_EVERY == 0
