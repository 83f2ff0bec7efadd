"""Requests at a steady rate, each on a connection of its own, none retried: what a client without mercy sees."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

import httpx


@dataclass
class Load:
    """Send a completion every `interval_seconds` until stopped. `failures` holds what went wrong, with the time since start."""

    url: str
    prompts: list[list[int]]
    interval_seconds: float = 0.15
    answered: int = 0
    failures: list[str] = field(default_factory=list)

    def __enter__(self) -> Load:
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._started = time.monotonic()
        self._senders: list[threading.Thread] = []
        self._pacer = threading.Thread(target=self._pace, daemon=True)
        self._pacer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._pacer.join(timeout=30)
        for sender in self._senders:
            sender.join(timeout=120)
        self.seconds = time.monotonic() - self._started

    def _pace(self) -> None:
        """Open loop: the next request does not wait for the answer of the last."""
        number = 0
        while not self._stop.is_set():
            due = self._started + number * self.interval_seconds
            if self._stop.wait(max(0.0, due - time.monotonic())):
                return
            sender = threading.Thread(target=self._send, args=(self.prompts[number % len(self.prompts)],), daemon=True)
            sender.start()
            self._senders.append(sender)
            number += 1

    def _send(self, prompt: list[int]) -> None:
        body = {"model": "model", "prompt": prompt, "max_tokens": 2, "temperature": 0}
        try:
            response = httpx.post(f"{self.url}/v1/completions", json=body, timeout=60, trust_env=False)
            problem = None if response.status_code == 200 else f"HTTP {response.status_code}: {response.text[:200]}"
        except httpx.HTTPError as error:
            problem = f"{type(error).__name__}: {error}"
        with self._lock:
            if problem is None:
                self.answered += 1
            else:
                self.failures.append(f"+{time.monotonic() - self._started:.2f} s {problem}")
