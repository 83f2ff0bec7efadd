"""A cheap proof that the weights in memory are still those that this engine's chunks are stored for.

Weights can be written through pointers that a process was handed long ago, with neither an RPC nor a reset of the prefix cache
(`weight_changes` sees those before they happen). So before the first copy after a pause, and every few seconds, some elements of every
parameter are compared with what they were. An update that moves the model moves some of them; one that spares all of them is not seen.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import time
import weakref
from collections.abc import Callable
from typing import Any, Final

import torch

ELEMENTS_PER_PARAMETER: Final = 16
# Who updates weights lets the engine stand still meanwhile, or is seen a little later.
IDLE_SECONDS: Final = 1.0
BUSY_SECONDS: Final = 5.0
_WRAPPED: Final = "_spillway_wrapped"
log = logging.getLogger("vllm.spillway")
# The models that this process has loaded. vLLM hands its connectors none.
_models: list[weakref.ref[Any]] = []


def note_loaded_models() -> None:
    """Remember every model that a loader of vLLM makes from here on. Idempotent."""
    from vllm.model_executor.model_loader.base_loader import BaseModelLoader

    load = BaseModelLoader.load_model
    if getattr(load, _WRAPPED, False):
        return

    @functools.wraps(load)
    def load_model(self: Any, *args: Any, **kwargs: Any) -> Any:
        model = load(self, *args, **kwargs)
        _models.append(weakref.ref(model))
        return model

    setattr(load_model, _WRAPPED, True)
    BaseModelLoader.load_model = load_model


def resident_proof(vllm_config: Any) -> ResidentProof | None:
    """The proof for the model that was loaded last; None where there is none, or where its parameters wander by design."""
    alive = [model for reference in _models if (model := reference()) is not None]
    if not alive or getattr(vllm_config.parallel_config, "enable_eplb", False):
        return None
    try:
        return ResidentProof(list(alive[-1].parameters()))
    except Exception as error:  # noqa: BLE001  parameters that cannot be looked at make no engine cold
        log.warning("Spillway cannot watch the weights in memory: %s: %s", type(error).__name__, error)
        return None


class ResidentProof:
    """Of `parameters`, as they are now. For one thread."""

    def __init__(self, parameters: list[Any], clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._parameters = parameters
        self._expected = self._digest()
        self._used_at = self._checked_at = clock()

    def holds(self) -> bool:
        """Whether the parameters are as they were, looked at when it is time. Once they are not, they are the new ones."""
        now = self._clock()
        due = now - self._used_at >= IDLE_SECONDS or now - self._checked_at >= BUSY_SECONDS
        self._used_at = now
        if not due:
            return True
        self._checked_at = now
        found = self._digest()
        held, self._expected = found == self._expected, found
        return held

    def _digest(self) -> bytes:
        samples: dict[Any, list[Any]] = {}
        with torch.inference_mode():
            for parameter in self._parameters:
                samples.setdefault(parameter.device, []).append(_sample(parameter))
            # One copy to the host per device, not one per parameter.
            found = [torch.cat(parts).cpu().numpy().tobytes() for parts in samples.values()]
        return hashlib.blake2b(b"".join(found), digest_size=16).digest()


def _sample(parameter: Any) -> Any:
    """Evenly spaced elements as bytes. Never a copy of the whole: a transposed weight is sampled along its first axis."""
    value = parameter.detach()
    flat = value.view(-1) if value.is_contiguous() else value[(slice(None),) + (0,) * (value.dim() - 1)]
    step = max(flat.numel() // ELEMENTS_PER_PARAMETER, 1)
    return flat[::step][:ELEMENTS_PER_PARAMETER].contiguous().view(torch.uint8)
