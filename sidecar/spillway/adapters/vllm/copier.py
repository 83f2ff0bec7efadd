"""Copy runs of bytes between KV tensors and the arena: by the CPU, or by a GPU's copy engine on a stream of its own.

torch is imported where a GPU is used, so that the account of a device's copies can be tested without either.
"""

from __future__ import annotations

import ctypes
import logging
from collections.abc import Callable
from typing import Any, Final, Protocol

from spillway.adapters.vllm.arena import Arena
from spillway.adapters.vllm.runs import Addresses

# One registration per GiB keeps the driver's page tables in steps; the size is arbitrary.
REGISTER_BYTES: Final = 1 << 30

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

    def begin(self, source: Addresses, target: Addresses, length_bytes: Addresses, after: Any) -> Copy:
        """Copy each run once `after` (a fence) is over. What it raises, it raises before a byte can move."""


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

    def begin(self, source: Addresses, target: Addresses, length_bytes: Addresses, after: Any) -> HostCopy:
        for run in zip(target.tolist(), source.tolist(), length_bytes.tolist(), strict=True):
            ctypes.memmove(*run)
        return HostCopy()


class DeviceCopy:
    """Over when the device says so of `event`, which lies behind the copy on its stream, and in no other case.

    A driver that raises has not said it: it is asked again, and the copy counts as failed whatever it says later. Without an event (None)
    nobody can say it any more, so the copy is never over.
    """

    def __init__(self, event: Any, problem: str | None = None) -> None:
        self._event = event
        self.problem = problem

    def is_over(self) -> bool:
        if self._event is None:
            return False
        try:
            return bool(self._event.query())
        except Exception as error:  # noqa: BLE001  whatever a driver raises, it has not said that the copy is over
            self.problem = self.problem or f"the driver does not say whether it is over: {error}"
            return False


def launch(enqueue: Callable[[], None], event: Any, stream: Any) -> DeviceCopy:
    """Queue a copy and `event` behind it on `stream`. When queueing breaks off, the runs before may be under way all the same."""
    problem: str | None = None
    try:
        enqueue()
    except Exception as error:  # noqa: BLE001  what is queued already must be waited for, whatever went wrong after
        problem = f"{type(error).__name__}: {error}"
    try:
        event.record(stream)
    except Exception as error:  # noqa: BLE001  as above: the copy may be under way, and now nobody can say when it is over
        return DeviceCopy(None, problem or str(error))
    return DeviceCopy(event, problem)


class CudaCopier:
    """KV tensors in a GPU's memory. Pageable until the arena's memory is registered, asynchronous beside the engine's stream.

    Every copy waits for what the engine's stream had queued when it was submitted: the kernels that fill the blocks of a store, and
    those that may still use, or zero, the blocks of a load.
    """

    def __init__(self, device: Any) -> None:
        import torch

        self._cuda = torch.cuda
        self._device = device
        self._stream = self._cuda.Stream(device)
        self._registered_bytes = 0
        self._refused = False

    def grow(self, arena: Arena, faulted_bytes: int) -> None:
        """Register what the sidecar has faulted in, and no byte more: registering faults, and would charge the engine."""
        end = min(faulted_bytes, arena.size_bytes)
        while not self._refused and end - self._registered_bytes >= min(REGISTER_BYTES, arena.size_bytes):
            length = min(REGISTER_BYTES, end - self._registered_bytes)
            code = self._cuda.cudart().cudaHostRegister(arena.address + self._registered_bytes, length, 0)
            if int(code) != 0:
                log.warning("the driver refused to register the arena (code %s); copies stay pageable and slower", code)
                self._refused = True
                return
            self._registered_bytes += length

    def fence(self) -> Any:
        event = self._cuda.Event()
        event.record(self._cuda.current_stream(self._device))
        return event

    def begin(self, source: Addresses, target: Addresses, length_bytes: Addresses, after: Any) -> DeviceCopy:
        import torch
        from vllm import _custom_ops as ops

        columns = [torch.from_numpy(column) for column in (source, target, length_bytes)]

        def enqueue() -> None:
            with self._cuda.device(self._device), self._cuda.stream(self._stream):
                self._stream.wait_event(after)
                ops.swap_blocks_batch(*columns)

        return launch(enqueue, self._cuda.Event(), self._stream)


def make_copier(tensor: Any) -> Copier:
    """The copier for where the KV tensors lie. Raises ValueError for a device that nobody has built one for."""
    if tensor.device.type == "cpu":
        return HostCopier()
    if tensor.device.type == "cuda":
        return CudaCopier(tensor.device)
    raise ValueError(f"KV tensors on {tensor.device.type} cannot be copied; cpu and cuda can")
