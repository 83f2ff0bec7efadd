"""Which vLLM this adapter enters: final releases of the minors that it was tested with, and only with every interface in place.

A new minor is its name in `TESTED`, once the tests ran against it, and what differs goes here.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

TESTED: Final = ("0.32",)
# A local part tells how a release was built (+cpu, +cu129). A nightly is something else: 0.32.1.dev7 grows into 0.33.
_RELEASE: Final = re.compile(r"(?P<minor>\d+\.\d+)\.\d+(\.post\d+)?(\+[a-z0-9.]+)?")


@dataclass(frozen=True)
class Interface:
    """A name that the adapter uses. `takes`: parameters that a call passes by name."""

    module: str
    name: str
    takes: Sequence[str] = ()


_OFFLOADING: Final = "vllm.distributed.kv_transfer.kv_connector.v1.offloading"
INTERFACES: Final = (
    Interface("vllm.v1.engine.core", "EngineCore.collective_rpc"),
    Interface("vllm.v1.core.kv_cache_manager", "KVCacheManager.reset_prefix_cache"),
    Interface("vllm.envs", "compile_factors"),
    Interface("vllm.envs", "environment_variables"),
    Interface("vllm.distributed.kv_transfer.kv_connector.v1.base", "KVConnectorTransferResults"),
    Interface("vllm.distributed.kv_transfer.kv_connector.v1.base", "KVConnectorBase_V1.bind_kv_cache_manager"),
    Interface(f"{_OFFLOADING}.config", "get_offloading_group_ids"),
    Interface(f"{_OFFLOADING}.config", "build_offloading_config", ("vllm_config", "kv_cache_config")),
    Interface(f"{_OFFLOADING}.scheduler", "OffloadingConnectorScheduler"),
    Interface(f"{_OFFLOADING}.worker", "OffloadingConnectorWorker"),
    Interface("vllm.v1.kv_offload.base", "OffloadingManager.prepare_load"),
    Interface("vllm.v1.kv_offload.base", "OffloadingWorker.submit_load"),
    Interface("vllm.v1.kv_offload.base", "OffloadingWorker.submit_store"),
    Interface("vllm.v1.kv_cache_layout", "KVCacheLayout"),
)


def version_problem(version: str) -> str | None:
    """Why this version is not entered; None where it is."""
    found = _RELEASE.fullmatch(version)
    if found is not None and found["minor"] in TESTED:
        return None
    return f"this client was tested with releases of vLLM {', '.join(TESTED)}, not with {version}"


def interface_problem(interfaces: Sequence[Interface] = INTERFACES) -> str | None:
    """The first interface that is not as the adapter uses it; None where all are. Imports vLLM's modules."""
    for interface in interfaces:
        try:
            found: object = importlib.import_module(interface.module)
            for part in interface.name.split("."):
                found = getattr(found, part)
        except (ImportError, AttributeError) as error:
            return f"{interface.module}.{interface.name} is not there: {error}"
        missing = set(interface.takes) - set(inspect.signature(found).parameters) if callable(found) else set()
        if missing:
            return f"{interface.module}.{interface.name} does not take {', '.join(sorted(missing))}"
    return None
