"""Copy runs of bytes between KV tensors and the arena: by the CPU, or by a GPU's copy engine on a stream of its own."""

from __future__ import annotations

import ctypes
import logging
import time
from typing import Any, Final, NamedTuple, Protocol

import torch

from spillway.adapters.vllm.arena import Arena

# One registration per GiB keeps the driver's page tables in steps; the size is arbitrary.
REGISTER_BYTES: Final = 1 << 30
# A copy on a GPU that takes longer than this is reported as failed.
DEVICE_SECONDS: Final = 60.0
_POLL_SECONDS: Final = 0.0002

log = logging.getLogger("vllm.spillway")


class Run(NamedTuple):
    """`length_bytes` from address `source` to address `target`."""

    source: int
    target: int
    length_bytes: int


class Copier(Protocol):
    def grow(self, arena: Arena, faulted_bytes: int) -> None:
        """The arena is backed by memory up to here."""

    def fence(self) -> Any:
        """What the engine has queued until now; called on the engine's thread when a job is submitted."""

    def copy(self, runs: list[Run], after: Any) -> None:
        """Copy once `after` (a fence) is over; return when every byte is. Raises OSError when that cannot be said."""


def merge(runs: list[Run]) -> list[Run]:
    """Join runs that go on where the one before ended, on both sides: consecutive blocks become one copy."""
    merged: list[Run] = []
    for run in runs:
        last = merged[-1] if merged else None
        if last and last.source + last.length_bytes == run.source and last.target + last.length_bytes == run.target:
            merged[-1] = Run(last.source, last.target, last.length_bytes + run.length_bytes)
        else:
            merged.append(run)
    return merged


class HostCopier:
    """KV tensors in host memory."""

    def grow(self, arena: Arena, faulted_bytes: int) -> None:
        pass

    def fence(self) -> None:
        return None

    def copy(self, runs: list[Run], after: Any) -> None:
        for run in merge(runs):
            ctypes.memmove(run.target, run.source, run.length_bytes)


class CudaCopier:
    """KV tensors in a GPU's memory. Pageable until the arena's memory is registered, asynchronous beside the engine's stream.

    Every copy waits for what the engine's stream had queued when it was submitted: the kernels that fill the blocks of a store, and
    those that may still use, or zero, the blocks of a load.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._registered_bytes = 0
        self._refused = False

    def grow(self, arena: Arena, faulted_bytes: int) -> None:
        """Register what the sidecar has faulted in, and no byte more: registering faults, and would charge the engine."""
        end = min(faulted_bytes, arena.size_bytes)
        while not self._refused and end - self._registered_bytes >= min(REGISTER_BYTES, arena.size_bytes):
            length = min(REGISTER_BYTES, end - self._registered_bytes)
            code = torch.cuda.cudart().cudaHostRegister(arena.address + self._registered_bytes, length, 0)
            if int(code) != 0:
                log.warning("the driver refused to register the arena (code %s); copies stay pageable and slower", code)
                self._refused = True
                return
            self._registered_bytes += length

    def fence(self) -> Any:
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(self._device))
        return event

    def copy(self, runs: list[Run], after: Any) -> None:
        from vllm import _custom_ops as ops

        merged = merge(runs)
        columns = [torch.tensor(column, dtype=torch.int64) for column in zip(*merged, strict=True)]
        with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
            self._stream.wait_event(after)
            ops.swap_blocks_batch(columns[0], columns[1], columns[2])
            done = torch.cuda.Event()
            done.record(self._stream)
        deadline = time.monotonic() + DEVICE_SECONDS
        while not done.query():
            if time.monotonic() > deadline:
                raise OSError(f"a copy of {len(merged)} runs did not end in {DEVICE_SECONDS} s")
            time.sleep(_POLL_SECONDS)


def make_copier(tensor: Any) -> Copier:
    """The copier for where the KV tensors lie. Raises ValueError for a device that nobody has built one for."""
    if tensor.device.type == "cpu":
        return HostCopier()
    if tensor.device.type == "cuda":
        return CudaCopier(tensor.device)
    raise ValueError(f"KV tensors on {tensor.device.type} cannot be copied; cpu and cuda can")
