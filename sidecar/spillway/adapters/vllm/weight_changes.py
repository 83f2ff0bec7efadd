"""Hear of everything that may change the weights of a running engine.

vLLM tells its connectors nothing of it. Two places see all of it before it happens: the RPC by which any code of the user's reaches the
ranks (reload_weights, the weight transfer of RL, apply_model, a worker extension's methods), and the reset of the prefix
cache, by which whoever changed weights some other way says so (sleep and pause reset it themselves). An RPC counts
unless it is known to change nothing.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any, Final

# Names of worker methods that read, measure or wait. `update_max_model_len` is vLLM's own, before the first request.
HARMLESS: Final = frozenset(
    {
        "check_health",
        "compute_weight_checksums",
        "get_kv_cache_spec",
        "get_model_inspection",
        "get_supported_tasks",
        "list_loras",
        "profile",
        "reset_encoder_cache",
        "reset_mm_cache",
        "save_sharded_state",
        "synchronize_device",
        "update_max_model_len",
    }
)
_WRAPPED: Final = "_spillway_wrapped"
Changed = Callable[[str], None]
# The schedulers' connectors that want to hear, by the connector, so that an engine that ends is forgotten.
_listeners: weakref.WeakKeyDictionary[Any, Changed] = weakref.WeakKeyDictionary()


def listen(connector: Any, changed: Changed) -> None:
    """Call `changed` with the cause before a rank of this connector's engine is asked for what may change weights.

    It must not raise. Raises AttributeError where this vLLM has no such place.
    """
    from vllm.v1.engine.core import EngineCore

    _listeners[connector] = changed
    call = EngineCore.collective_rpc
    if getattr(call, _WRAPPED, False):
        return

    @functools.wraps(call)
    def collective_rpc(self: Any, method: Any, *args: Any, **kwargs: Any) -> Any:
        if not (isinstance(method, str) and method in HARMLESS):
            # The scheduler is made after the first calls, and there is nothing to forget before it is.
            heard = _listeners.get(getattr(getattr(self, "scheduler", None), "connector", None))
            if heard is not None:
                heard(f"RPC {method if isinstance(method, str) else getattr(method, '__name__', 'of a function')}")
        return call(self, method, *args, **kwargs)

    setattr(collective_rpc, _WRAPPED, True)
    EngineCore.collective_rpc = collective_rpc


def listen_to_resets(kv_cache_manager: Any, changed: Changed) -> None:
    """Call `changed` before the prefix cache on the device is reset, whether the caller names the connector too or not."""
    reset = kv_cache_manager.reset_prefix_cache

    @functools.wraps(reset)
    def reset_prefix_cache(*args: Any, **kwargs: Any) -> Any:
        changed("reset of the prefix cache")
        return reset(*args, **kwargs)

    kv_cache_manager.reset_prefix_cache = reset_prefix_cache
