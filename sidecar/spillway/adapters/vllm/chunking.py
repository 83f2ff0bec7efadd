"""How many blocks make a chunk, and which engines this adapter serves at all.

A chunk is the smallest number of blocks whose slot reaches 1 MiB, at most 256 tokens: large enough for one I/O per slot, small enough
to share prefixes.
"""

from __future__ import annotations

from typing import Any, Final

from vllm.distributed.kv_transfer.kv_connector.v1.offloading.config import get_offloading_group_ids
from vllm.v1.kv_cache_interface import (
    ChunkedLocalAttentionSpec,
    FullAttentionSpec,
    MLAAttentionSpec,
    SlidingWindowSpec,
    UniformTypeKVCacheSpecs,
)

WANTED_BYTES: Final = 1 << 20
MAX_TOKENS: Final = 256
MAX_SLOT_BYTES: Final = (64 << 20) - 4096
MAX_GROUPS: Final = 16
MAX_RANKS: Final = 64
KNOWN_SPECS: Final = (FullAttentionSpec, MLAAttentionSpec, SlidingWindowSpec, ChunkedLocalAttentionSpec)
# A fixed seed makes these collision resistant and equal in every process.
KNOWN_HASHES: Final = frozenset({"sha256", "sha256_cbor"})


class Unsupported(Exception):
    """This engine is served without Spillway; the message says why."""


def refuse_unsupported(vllm_config: Any, kv_cache_config: Any) -> None:
    """Raise Unsupported for what the adapter was not built for; it would be wrong or slow there, silently."""
    parallel = vllm_config.parallel_config
    for field, one in (
        ("nnodes", parallel.nnodes),
        ("pipeline_parallel_size", parallel.pipeline_parallel_size),
        ("decode_context_parallel_size", parallel.decode_context_parallel_size),
        ("prefill_context_parallel_size", parallel.prefill_context_parallel_size),
    ):
        if one != 1:
            raise Unsupported(f"{field} is {one}; only 1 is supported")
    executor = parallel.distributed_executor_backend
    if executor not in (None, "uni", "mp"):
        raise Unsupported(f"distributed_executor_backend is {executor}; only uni and mp are supported")
    if parallel.world_size > MAX_RANKS:
        raise Unsupported(f"world_size is {parallel.world_size}; at most {MAX_RANKS} ranks are supported")
    if vllm_config.speculative_config is not None:
        raise Unsupported("speculative_config is set; the drafter's weights are not part of the fingerprint yet")
    if vllm_config.attention_config.hisparse_config is not None:
        raise Unsupported("hisparse_config is set")
    algorithm = vllm_config.cache_config.prefix_caching_hash_algo
    if algorithm not in KNOWN_HASHES:
        raise Unsupported(f"prefix_caching_hash_algo is {algorithm}; use sha256")
    _refuse_groups(kv_cache_config)


def _refuse_groups(kv_cache_config: Any) -> None:
    ids = get_offloading_group_ids(kv_cache_config)
    if not 0 < len(ids) <= MAX_GROUPS:
        raise Unsupported(f"{len(ids)} KV groups; 1 to {MAX_GROUPS} are supported")
    for group_id in ids:
        group = kv_cache_config.kv_cache_groups[group_id]
        for spec in _layer_specs(group):
            if type(spec) not in KNOWN_SPECS:
                raise Unsupported(f"KV group {group_id} is a {type(spec).__name__}")
        if group.is_eagle_group or group.host_resident:
            raise Unsupported(f"KV group {group_id} belongs to a drafter or lies in host memory")


def _layer_specs(group: Any) -> list[Any]:
    spec = group.kv_cache_spec
    return list(spec.kv_cache_specs.values()) if isinstance(spec, UniformTypeKVCacheSpecs) else [spec]


def block_bytes(kv_cache_config: Any) -> list[int]:
    """Bytes of one block of each offloaded group on one rank, all layers."""
    found: list[int] = []
    for group_id in get_offloading_group_ids(kv_cache_config):
        group = kv_cache_config.kv_cache_groups[group_id]
        spec = group.kv_cache_spec
        found.append(
            spec.page_size_bytes
            if isinstance(spec, UniformTypeKVCacheSpecs)
            else spec.page_size_bytes * len(group.layer_names)
        )
    return found


def decide_blocks_per_chunk(bytes_per_block: list[int], tokens_per_block: list[int], ranks: int) -> int:
    """The smallest group decides, so that every group's slot reaches the wanted size unless 256 tokens come first.

    bytes_per_block: per group, of one rank. Raises Unsupported when one block alone does not fit into a slot.
    """
    smallest, largest = min(bytes_per_block) * ranks, max(bytes_per_block) * ranks
    if largest > MAX_SLOT_BYTES:
        raise Unsupported(f"one block has {largest} bytes on all ranks; a slot takes at most {MAX_SLOT_BYTES}")
    by_size = -(-WANTED_BYTES // smallest)
    by_tokens = max(1, MAX_TOKENS // max(tokens_per_block))
    return max(1, min(by_size, by_tokens, MAX_SLOT_BYTES // largest))
