"""The identity of a vLLM engine's KV cache: every fact that decides which bytes stand for a block hash.

Facts of the ranks (attention backend, CPU or GPU kind, page bytes) come through vLLM's own handshake, the rest from `vllm_config`. A
fact that is missing or has no exact form raises `IdentityUnknown`: the engine is cold then, never guessed at.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import Any, Final

import torch
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorHandshakeMetadata
from vllm.distributed.kv_transfer.kv_connector.v1.offloading.config import get_offloading_group_ids
from vllm.v1.kv_cache_interface import UniformTypeKVCacheSpecs

from spillway.adapters.vllm.compat import hash_block_tokens
from spillway.adapters.vllm.exact import exact
from spillway.adapters.vllm.numerics import describe_computation, describe_environment, describe_versions
from spillway.client.identity import IdentityUnknown, canonical_digest

FORMAT: Final = 2


@dataclass
class RankFacts(KVConnectorHandshakeMetadata):
    """What only a rank knows. `problem`: why it copies nothing."""

    rank: int
    backends: dict[str, str]
    device: str
    blocks_per_chunk: int
    slice_bytes: tuple[int, ...]
    problem: str | None = None


def observe_rank(
    vllm_config: Any, kv_cache_config: Any, *, rank: int, device: str, blocks_per_chunk: int, slice_bytes: list[int]
) -> RankFacts:
    """Collect a rank's facts after its KV cache was made. Raises IdentityUnknown."""
    layers = vllm_config.compilation_config.static_forward_context
    backends: dict[str, str] = {}
    for group_id in get_offloading_group_ids(kv_cache_config):
        for name in kv_cache_config.kv_cache_groups[group_id].layer_names:
            try:
                backend = layers[name].get_attn_backend()
            except (KeyError, AttributeError) as error:
                raise IdentityUnknown("attention backend", f"layer {name}: {error!r}") from error
            backends[name] = f"{backend.__module__}.{backend.__qualname__}"
    return RankFacts(rank, backends, _device(device), blocks_per_chunk, tuple(slice_bytes))


def _device(kind: str) -> str:
    """CPU kernels lay a block out by instruction set; GPUs by architecture."""
    if kind == "cpu":
        return f"cpu {platform.machine()} {torch.backends.cpu.get_cpu_capability()} amx={torch.cpu._is_amx_tile_supported()}"
    if kind == "cuda":
        return f"cuda {torch.cuda.get_device_name()} {torch.cuda.get_device_capability()}"
    raise IdentityUnknown("platform", f"{kind} is not known")


def describe(
    vllm_config: Any,
    kv_cache_config: Any,
    facts: list[RankFacts],
    *,
    blocks_per_chunk: int,
    cache_epoch: int,
) -> dict[str, Any]:
    """Everything but the weights, which take as long as reading them does (`weights.digest_loaded`), and NONE_HASH, which vLLM sets only
    after its connectors are made. Raises IdentityUnknown."""
    import vllm

    try:
        model, cache, parallel = vllm_config.model_config, vllm_config.cache_config, vllm_config.parallel_config
        return {
            "format": FORMAT,
            "engine": "vllm",
            "engine_version": str(vllm.__version__),
            "epoch": cache_epoch,
            "model": model.model,
            "revision": model.revision,
            "environment": describe_environment(),
            "versions": describe_versions(),
            "computation": describe_computation(vllm_config),
            "hf_config": exact(model.hf_config.to_dict(), "hf_config"),
            "hf_text_config": exact(model.hf_text_config.to_dict(), "hf_text_config"),
            "dtype": str(model.dtype),
            "quantization": exact(model.quantization, "quantization"),
            "quantization_config": exact(model.quantization_config, "quantization_config"),
            "model_impl": exact(model.model_impl, "model_impl"),
            "model_class_overrides": exact(model.model_class_overrides, "model_class_overrides"),
            "disable_sliding_window": model.disable_sliding_window,
            "runner": "v2" if vllm_config.use_v2_model_runner else "v1",
            "cache_dtype": str(cache.cache_dtype),
            "cache_dtype_skip_layers": sorted(cache.kv_cache_dtype_skip_layers),
            "layout": exact(cache.kv_cache_layout, "kv_cache_layout"),
            "hash_algorithm": cache.prefix_caching_hash_algo,
            "hash_block_tokens": hash_block_tokens(vllm_config, kv_cache_config),
            "parallel": {
                "tensor": parallel.tensor_parallel_size,
                "pipeline": parallel.pipeline_parallel_size,
                "expert": parallel.enable_expert_parallel,
                "world": parallel.world_size,
            },
            "multimodal": exact_multimodal(model),
            "groups": describe_groups(kv_cache_config, blocks_per_chunk),
            "ranks": [
                [fact.rank, fact.device, list(fact.slice_bytes), sorted(fact.backends.items())]
                for fact in sorted(facts, key=lambda fact: fact.rank)
            ],
        }
    except (
        AttributeError,
        TypeError,
    ) as error:  # a field moved, or has a value that vLLM itself cannot put into a hash
        raise IdentityUnknown("vllm_config", str(error)) from error


def exact_multimodal(model: Any) -> Any:
    """What changes a picture's embedding beside its bytes; its own hash is in the block hash."""
    config = model.multimodal_config
    return None if config is None else exact(config.mm_processor_kwargs, "mm_processor_kwargs")


def describe_groups(kv_cache_config: Any, blocks_per_chunk: int) -> list[Any]:
    """Per offloaded group: its id, layers, spec with every field, and blocks per chunk."""
    described: list[Any] = []
    for group_id in get_offloading_group_ids(kv_cache_config):
        group = kv_cache_config.kv_cache_groups[group_id]
        spec = group.kv_cache_spec
        specs = spec.kv_cache_specs if isinstance(spec, UniformTypeKVCacheSpecs) else {"*": spec}
        described.append(
            [
                group_id,
                list(group.layer_names),
                {name: exact(one, f"group {group_id}") for name, one in specs.items()},
                spec.page_size_bytes,
                blocks_per_chunk,
            ]
        )
    return described


def seal(description: dict[str, Any]) -> bytes:
    """Add NONE_HASH, known from the first request on, and digest. Raises IdentityUnknown."""
    from vllm.v1.core import kv_cache_utils

    none_hash = getattr(kv_cache_utils, "NONE_HASH", None)
    if not isinstance(none_hash, bytes):
        raise IdentityUnknown("NONE_HASH", "the engine has not set it")
    return canonical_digest({**description, "none_hash": none_hash.hex()})
