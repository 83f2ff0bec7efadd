"""What must be true of an engine that Spillway enters, in one list.

The plugin asks for what the configuration alone tells, before it chooses the connector: an engine that is refused there is the
engine that the user asked for, to the last field. The connector asks again with the plan of the KV cache, which is known only
then, and stays inert where something is amiss: an engine that cannot go on from a stored prefix would be wrong or would end,
silently.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

MAX_SLOT_BYTES: Final = (64 << 20) - 4096
MAX_GROUPS: Final = 16
MAX_RANKS: Final = 64
# A fixed seed makes these collision resistant and equal in every process.
KNOWN_HASHES: Final = frozenset({"sha256", "sha256_cbor"})
KNOWN_SPECS: Final = frozenset(
    {"FullAttentionSpec", "MLAAttentionSpec", "SlidingWindowSpec", "ChunkedLocalAttentionSpec"}
)
# Weights come from files in the model's folder; other loaders draw or stream them from elsewhere.
FILE_LOAD_FORMATS: Final = frozenset({"auto", "hf", "safetensors", "fastsafetensors", "pt", "npcache", "mistral"})


class Unsupported(Exception):
    """This engine is served without Spillway; the message says why."""


@dataclass(frozen=True)
class Requirement:
    """`problem` answers with what is amiss, beginning with the field that a person would change; None: nothing is."""

    what: str
    problem: Callable[[Any], str | None]


def _only(field: str, value: Any, one: Any = 1) -> str | None:
    return None if value == one else f"{field} is {value}; only {one} is supported"


def _forbidden(field: str, is_set: Any, why: str) -> str | None:
    return f"{field}: {why}" if is_set else None


def _prefix_caching(config: Any) -> str | None:
    if config.cache_config.enable_prefix_caching:
        return None
    return "enable_prefix_caching is off, by the user or because vLLM cannot go on from a prefix with this model here"


def _executor(config: Any) -> str | None:
    executor = config.parallel_config.distributed_executor_backend
    return None if executor in (None, "uni", "mp") else f"distributed_executor_backend is {executor}; use uni or mp"


def _world(config: Any) -> str | None:
    size = config.parallel_config.world_size
    return None if size <= MAX_RANKS else f"world_size is {size}; at most {MAX_RANKS} ranks are supported"


def _hash(config: Any) -> str | None:
    algorithm = config.cache_config.prefix_caching_hash_algo
    return None if algorithm in KNOWN_HASHES else f"prefix_caching_hash_algo is {algorithm}; use sha256"


def _load_format(config: Any) -> str | None:
    name = config.load_config.load_format
    name = getattr(name, "value", name)
    return None if name in FILE_LOAD_FORMATS else f"load_format {name} does not load files that can be digested"


CONFIG: Final[tuple[Requirement, ...]] = (
    Requirement(
        "has a decoder alone",
        lambda c: _forbidden("model", c.model_config.is_encoder_decoder, "an encoder-decoder takes no KV connector"),
    ),
    Requirement(
        "generates token by token",
        lambda c: _forbidden("model", c.model_config.is_diffusion, "a diffusion model's blocks are rewritten"),
    ),
    Requirement(
        "runs its language model",
        lambda c: _forbidden("mm_encoder_only", c.is_mm_encoder_only, "there is no KV cache"),
    ),
    Requirement("goes on from a prefix", _prefix_caching),
    Requirement("is on one node", lambda c: _only("nnodes", c.parallel_config.nnodes)),
    Requirement(
        "holds all layers on each rank",
        lambda c: _only("pipeline_parallel_size", c.parallel_config.pipeline_parallel_size),
    ),
    Requirement(
        "holds whole blocks on each rank (decode)",
        lambda c: _only("decode_context_parallel_size", c.parallel_config.decode_context_parallel_size),
    ),
    Requirement(
        "holds whole blocks on each rank (prefill)",
        lambda c: _only("prefill_context_parallel_size", c.parallel_config.prefill_context_parallel_size),
    ),
    Requirement("has its ranks in this pod", _executor),
    Requirement("has no more ranks than an engine's control file", _world),
    Requirement(
        "has no drafter",
        lambda c: _forbidden(
            "speculative_config", c.speculative_config is not None, "the drafter's weights are not in the fingerprint"
        ),
    ),
    Requirement(
        "keeps its KV cache on the device",
        lambda c: _forbidden("hisparse_config", c.attention_config.hisparse_config is not None, "is set"),
    ),
    Requirement(
        "answers from the KV cache alone",
        lambda c: _forbidden(
            "aux_output_config", c.aux_output_config.enabled, "what it returns of a prefix is not in the KV cache"
        ),
    ),
    Requirement(
        "has scales that the weights decide",
        lambda c: _forbidden(
            "calculate_kv_scales",
            getattr(c.cache_config, "calculate_kv_scales", False),
            "each engine would scale its KV cache by what it saw first",
        ),
    ),
    Requirement("hashes blocks alike in every process", _hash),
    Requirement("loads weights from files", _load_format),
)


def _layer_specs(group: Any) -> list[Any]:
    spec = group.kv_cache_spec
    return list(spec.kv_cache_specs.values()) if hasattr(spec, "kv_cache_specs") else [spec]


def _offloaded(kv_cache_config: Any) -> list[tuple[int, Any]]:
    groups = kv_cache_config.kv_cache_groups
    return [(group_id, groups[group_id]) for group_id in kv_cache_config.prefix_cacheable_group_ids]


def _group_count(kv_cache_config: Any) -> str | None:
    count = len(_offloaded(kv_cache_config))
    return None if 0 < count <= MAX_GROUPS else f"{count} KV groups; 1 to {MAX_GROUPS} are supported"


def _specs(kv_cache_config: Any) -> str | None:
    for group_id, group in _offloaded(kv_cache_config):
        for spec in _layer_specs(group):
            if type(spec).__name__ not in KNOWN_SPECS:
                return f"KV group {group_id} is a {type(spec).__name__}"
    return None


def _whole(kv_cache_config: Any) -> str | None:
    """A group that is in no store, or is rebuilt by replaying tokens, would be empty after a load."""
    offloaded = dict(_offloaded(kv_cache_config))
    for group_id in range(len(kv_cache_config.kv_cache_groups)):
        if group_id not in offloaded:
            return f"KV group {group_id} takes no part in prefix caching"
    return None


def _residence(kv_cache_config: Any) -> str | None:
    for group_id, group in _offloaded(kv_cache_config):
        if group.is_eagle_group or group.host_resident:
            return f"KV group {group_id} belongs to a drafter or lies in host memory"
    return None


def _layout(kv_cache_config: Any) -> str | None:
    """A block is copied as one run of bytes per layer, in whatever order the engine's own layout has inside it."""
    from vllm.v1.kv_cache_layout import KVCacheLayout

    name = kv_cache_config.kv_cache_layout
    if name is None or KVCacheLayout[name].is_block_compact:
        return None
    return f"KV cache layout {name} spreads a block over memory; VLLM_KV_CACHE_LAYOUT=LBNHC would keep it together"


KV_CACHE: Final[tuple[Requirement, ...]] = (
    Requirement("has as many KV groups as a slot class table", _group_count),
    Requirement("has KV blocks that mean what their tokens mean", _specs),
    Requirement("goes on from what is stored alone", _whole),
    Requirement("has KV blocks of its own on the device", _residence),
    Requirement("has blocks in one piece", _layout),
)


def problem_of(vllm_config: Any, kv_cache_config: Any | None = None) -> str | None:
    """The first thing that is amiss. Without kv_cache_config only what the configuration tells is asked."""
    asked = [(requirement, vllm_config) for requirement in CONFIG]
    if kv_cache_config is not None:
        asked += [(requirement, kv_cache_config) for requirement in KV_CACHE]
    for requirement, subject in asked:
        try:
            problem = requirement.problem(subject)
        except AttributeError as error:
            # A field that moved is a question that cannot be answered, so the engine is not entered.
            problem = f"whether the engine {requirement.what} cannot be told: {error}"
        if problem is not None:
            return problem
    return None


def refuse_unsupported(vllm_config: Any, kv_cache_config: Any) -> None:
    """Raise Unsupported for the first requirement that is not met."""
    problem = problem_of(vllm_config, kv_cache_config)
    if problem is not None:
        raise Unsupported(problem)
