"""Which vLLM this adapter enters: final releases of the minors that it was tested with, and only with every interface in place.

A new minor is its name in `TESTED`, once the tests ran against it (`make test-matrix`, `make judge-vllm`), and what differs goes here, told
by what is there and not by a version:

| since | what |
|---|---|
| 0.32 | requests name the tier that their loaded tokens come from (`CacheHitSource`) |
| 0.33 | a load may end inside the step that computes on it (`TransferJob.sync`) |
"""

from __future__ import annotations

import enum
import functools
import importlib
import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

TESTED: Final = ("0.31", "0.32", "0.33")
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
    Interface("vllm.v1.core.kv_cache_utils", "resolve_kv_cache_block_sizes", ("kv_cache_config", "vllm_config")),
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


@functools.cache
def cache_hit_source() -> Any:
    """vLLM's enumeration of where loaded tokens come from, or one with the members that we name."""
    try:
        return importlib.import_module("vllm.v1.metrics.cache_hit_source").CacheHitSource
    except ImportError:
        return enum.Enum("CacheHitSource", ["HOST", "DISK", "EXTERNAL_UNSPECIFIED"])


def tokens_by_source(scheduler: Any, request: Any, tokens: int, source_of: Callable[[Any, Any], Any]) -> dict[Any, int]:
    """The tokens of a request's load by source. source_of: of a key of the request (`OffloadingManager.get_load_source`)."""
    if hasattr(scheduler, "get_external_cache_hit_sources"):
        found: dict[Any, int] = scheduler.get_external_cache_hit_sources(request, tokens)
        return found
    status = scheduler._req_status[request.request_id]
    # Of the group that loads most: the others load parts of the same tokens.
    config, state = max(
        zip(scheduler.config.kv_group_configs, status.group_states, strict=True),
        key=lambda pair: len(_loaded_keys(scheduler, status, pair[1])),
    )
    sources = [source_of(key, status.req_context) for key in _loaded_keys(scheduler, status, state)]
    counts = {source: sources.count(source) * config.tokens_per_chunk for source in set(sources)}
    left = tokens
    for source, count in counts.items():
        counts[source] = min(count, left)
        left -= counts[source]
    return counts


def _loaded_keys(scheduler: Any, status: Any, state: Any) -> list[Any]:
    loading = set().union(*(scheduler._jobs[job_id].keys for job_id in status.transfer_jobs))
    return [key for key in state.offload_keys if key in loading]


def hash_block_tokens(vllm_config: Any, kv_cache_config: Any) -> int:
    """How many tokens a block hash stands for. 0.31 notes it nowhere, 0.32 and 0.33 in different places and at different times, so vLLM is
    asked as its engine asks itself."""
    from vllm.v1.core.kv_cache_utils import resolve_kv_cache_block_sizes

    _scheduler_block_tokens, tokens = resolve_kv_cache_block_sizes(kv_cache_config, vllm_config)
    return int(tokens)


def ends_in_its_step(job: Any) -> bool:
    """Whether the step that a load is sent with computes on what it loads: nobody waits for it to be reported."""
    return bool(getattr(job, "sync", False))
