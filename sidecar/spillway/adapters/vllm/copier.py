"""Copy runs of bytes between KV tensors and the arena: by the CPU, or by a GPU's copy engine on a stream of its own.

torch is imported where a GPU is used, so that the account of a device's copies can be tested without either.
"""

from __future__ import annotations

import ctypes
import functools
import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import cycle, pairwise
from typing import Any, Final, Protocol

import numpy as np

from spillway.adapters.vllm.arena import Arena
from spillway.adapters.vllm.runs import Addresses

# One registration per GiB keeps the driver's page tables in steps; the size is arbitrary.
REGISTER_BYTES: Final = 1 << 30
# Copies of one job that the device has under way beside each other: bench/device_copy.py.
STREAMS: Final = 4
# What of a store is queued at a time: a third of a millisecond of a PCIe 5 link, longer than between two looks of the copy thread.
PIECE_BYTES: Final = 8 << 20
PIECES_IN_FLIGHT: Final = 3
# At least so many runs, of fewer bytes each on average, are a kernel's to copy.
KERNEL_RUNS: Final = 16
KERNEL_RUN_BYTES: Final = 48 << 10
KERNEL_CHUNK_BYTES: Final = 8192
# The driver keeps the pages of a registered address whatever is mapped there later, and would copy to and from those. So a mapping
# outlives its registration, also that of a copier which nobody closed.
_registered: Final[list[Arena]] = []

log = logging.getLogger("vllm.spillway")


class Copy(Protocol):
    """A copy that was begun. `problem`: why the bytes it moved are not to be used, known for good once it is over."""

    problem: str | None

    def is_over(self) -> bool:
        """Whether no byte of it moves any more. Never blocks and never raises; False for as long as that cannot be said."""


class Copier(Protocol):
    def grow(self, arena: Arena, faulted_bytes: int) -> None:
        """The arena is backed by memory up to here."""

    def fence(self) -> Any:
        """What the engine has queued until now; called on the engine's thread when a job is submitted."""

    def begin(self, source: Addresses, target: Addresses, length_bytes: Addresses, after: Any, *, store: bool) -> Copy:
        """Copy each run once `after` (a fence) is over. What it raises, it raises before a byte can move."""

    def close(self) -> None:
        """No copy is under way and none will be begun: let go of the arena."""


class HostCopy:
    """The CPU has copied."""

    problem: str | None = None

    def is_over(self) -> bool:
        return True


class HostCopier:
    """KV tensors in host memory."""

    def grow(self, arena: Arena, faulted_bytes: int) -> None:
        pass

    def fence(self) -> None:
        return None

    def begin(
        self, source: Addresses, target: Addresses, length_bytes: Addresses, after: Any, *, store: bool
    ) -> HostCopy:
        for run in zip(target.tolist(), source.tolist(), length_bytes.tolist(), strict=True):
            ctypes.memmove(*run)
        return HostCopy()

    def close(self) -> None:
        pass


class DeviceCopy:
    """Over when the device says so of each of `events`, which lie behind the copy on its streams, and in no other case.

    A driver that raises has not said it: it is asked again, and the copy counts as failed whatever it says later. Without an event for
    every stream (None) nobody can say it any more, so the copy is never over.
    """

    def __init__(self, events: Sequence[Any] | None, problem: str | None = None) -> None:
        self._events = list(events) if events is not None else None
        self.problem = problem

    def is_over(self) -> bool:
        if self._events is None:
            return False
        try:
            while self._events and self._events[-1].query():
                self._events.pop()
        except Exception as error:  # noqa: BLE001  whatever a driver raises, it has not said that the copy is over
            self.problem = self.problem or f"the driver does not say whether it is over: {error}"
            return False
        return not self._events


def launch(enqueue: Callable[[], None], events: Sequence[Any], streams: Sequence[Any]) -> DeviceCopy:
    """Queue a copy on `streams` and an event behind it on each. When queueing breaks off, what was queued may be under way all the same."""
    problem: str | None = None
    try:
        enqueue()
    except Exception as error:  # noqa: BLE001  what is queued already must be waited for, whatever went wrong after
        problem = f"{type(error).__name__}: {error}"
    try:
        for event, stream in zip(events, streams, strict=True):
            event.record(stream)
    except Exception as error:  # noqa: BLE001  as above: the copy may be under way, and now nobody can say when it is over
        return DeviceCopy(None, problem or str(error))
    return DeviceCopy(events, problem)


class PacedCopy:
    """A copy in pieces, of which `in_flight` are queued at a time; the next is queued when it is asked whether the copy is over.

    A GPU ends what its copy engine has before that takes another copy in the same direction, on whatever stream: behind 1 GiB of a
    store, the tokens that the engine has sampled arrive 20 ms late.
    """

    def __init__(self, pieces: Iterable[Callable[[], Copy]], in_flight: int) -> None:
        self.problem: str | None = None
        self._pieces = iter(pieces)
        self._in_flight = in_flight
        self._under_way: deque[Copy] = deque()
        self.is_over()

    def is_over(self) -> bool:
        while self._under_way and self._under_way[0].is_over():
            problem = self._under_way.popleft().problem
            if problem is not None:
                self.problem, self._pieces = self.problem or problem, iter(())
        while len(self._under_way) < self._in_flight and (piece := next(self._pieces, None)) is not None:
            try:
                self._under_way.append(piece())
            except Exception as error:  # noqa: BLE001  as in `launch`: what is under way must be waited for
                self.problem, self._pieces = self.problem or f"{type(error).__name__}: {error}", iter(())
        return not self._under_way


def parts(length_bytes: Addresses, count: int) -> list[slice]:
    """At most `count` neighbouring parts of a table of runs, of about as many bytes each."""
    ends = np.cumsum(length_bytes)
    bounds = np.searchsorted(ends, ends[-1] * np.arange(1, count + 1) / count) + 1
    edges = [0, *np.minimum(bounds, len(ends)).tolist()]
    return [slice(first, end) for first, end in pairwise(edges) if first < end]


class CudaCopier:
    """KV tensors in a GPU's memory. Pageable until the arena's memory is registered, asynchronous beside the engine's stream.

    Every copy waits for what the engine's stream had queued when it was submitted: the kernels that fill the blocks of a store, and
    those that may still use, or zero, the blocks of a load.
    """

    def __init__(self, device: Any) -> None:
        import torch

        self._cuda = torch.cuda
        self._device = device
        self._streams = [self._cuda.Stream(device) for _ in range(STREAMS)]
        self._arena: Arena | None = None  # once any of it is registered
        self._registered: list[int] = []  # where each registration begins
        self._registered_bytes = 0
        self._refused = False
        self._kernel = _small_run_kernel()

    def grow(self, arena: Arena, faulted_bytes: int) -> None:
        """Register what the sidecar has faulted in, and no byte more: registering faults, and would charge the engine."""
        end = min(faulted_bytes, arena.size_bytes)
        while not self._refused and end - self._registered_bytes >= min(
            REGISTER_BYTES, arena.size_bytes - self._registered_bytes
        ):
            length = min(REGISTER_BYTES, end - self._registered_bytes)
            if length == 0:
                return
            code = self._cuda.cudart().cudaHostRegister(arena.address + self._registered_bytes, length, 0)
            if int(code) != 0:
                log.warning(
                    "the driver refused to register the arena (code %s); copies stay pageable and slower", int(code)
                )
                self._refused = True
                self._take_last_error()
                return
            if self._arena is None:
                self._arena = arena
                _registered.append(arena)
            self._registered.append(arena.address + self._registered_bytes)
            self._registered_bytes += length

    def _take_last_error(self) -> None:
        """The runtime keeps a refusal as this thread's last error, and torch would raise it at the next kernel, whoever's that is."""
        import torch

        try:
            torch.empty(1, device=self._device).fill_(0)
        except RuntimeError as error:
            log.debug("taken from the runtime: %s", error)

    def fence(self) -> Any:
        event = self._cuda.Event()
        event.record(self._cuda.current_stream(self._device))
        return event

    def begin(self, source: Addresses, target: Addresses, length_bytes: Addresses, after: Any, *, store: bool) -> Copy:
        import torch
        from vllm import _custom_ops as ops

        columns = [torch.from_numpy(column) for column in (source, target, length_bytes)]

        def queue(streams: Sequence[Any], pieces: Sequence[slice], copy: Callable[..., None]) -> DeviceCopy:
            def enqueue() -> None:
                for stream, piece in zip(streams, pieces, strict=True):
                    with self._cuda.device(self._device), self._cuda.stream(stream):
                        stream.wait_event(after)
                        copy(*(column[piece] for column in columns))

            return launch(enqueue, [self._cuda.Event() for _ in streams], streams)

        kernel = self._kernel_for(length_bytes)
        if kernel is not None:
            return queue(self._streams[:1], [slice(None)], kernel)
        if store:
            pieces = parts(length_bytes, -(-int(length_bytes.sum()) // PIECE_BYTES))
            streams = cycle(self._streams[:PIECES_IN_FLIGHT])
            queued = (
                functools.partial(queue, [stream], [piece], ops.swap_blocks_batch)
                for stream, piece in zip(streams, pieces, strict=False)
            )
            return PacedCopy(queued, PIECES_IN_FLIGHT)
        pieces = parts(length_bytes, STREAMS)
        # The slots of a load are pinned by its ticket, so the device may read ahead of its stream.
        copy = functools.partial(ops.swap_blocks_batch, is_src_access_order_any=True)
        return queue(self._streams[: len(pieces)], pieces, copy)

    def _kernel_for(self, length_bytes: Addresses) -> Callable[..., None] | None:
        """vLLM's copy kernel where a copy engine would spend its time between runs. It reads host memory, so that must be registered."""
        whole = self._arena is not None and self._registered_bytes == self._arena.size_bytes
        if self._kernel is None or not whole or len(length_bytes) < KERNEL_RUNS:
            return None
        if length_bytes.mean() >= KERNEL_RUN_BYTES or (length_bytes % 8).any():
            return None
        return self._kernel

    def close(self) -> None:
        while self._registered:
            code = self._cuda.cudart().cudaHostUnregister(self._registered[-1])
            if int(code) != 0:
                log.warning("the driver keeps the arena registered (code %s), so it stays mapped", int(code))
                self._take_last_error()
                return
            self._registered.pop()
        self._registered_bytes = 0
        _registered[:] = [arena for arena in _registered if arena is not self._arena]
        self._arena = None


def _small_run_kernel() -> Callable[..., None] | None:
    """vLLM's own kernel for small runs (since 0.31, where Triton is); None where it is not to be had."""
    try:
        from vllm.platforms import current_platform
        from vllm.triton_utils import HAS_TRITON
        from vllm.v1.kv_offload.cpu.swap_blocks_triton import swap_blocks_batch
    except ImportError:
        return None
    if not HAS_TRITON or not current_platform.is_cuda():
        return None
    return functools.partial(swap_blocks_batch, bytes_per_chunk=KERNEL_CHUNK_BYTES)


def make_copier(tensor: Any) -> Copier:
    """The copier for where the KV tensors lie. Raises ValueError for a device that nobody has built one for."""
    if tensor.device.type == "cpu":
        return HostCopier()
    if tensor.device.type == "cuda":
        return CudaCopier(tensor.device)
    raise ValueError(f"KV tensors on {tensor.device.type} cannot be copied; cpu and cuda can")
