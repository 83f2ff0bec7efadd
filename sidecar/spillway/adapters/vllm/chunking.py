"""How many blocks make a chunk.

A chunk is the smallest number of blocks whose slot reaches 1 MiB, at most 256 tokens: large enough for one I/O per slot, small enough
to share prefixes. And none is longer than a layer looks back: vLLM frees what lies before a window as it goes on, so of a
longer chunk that one step begins and the next one ends the first blocks are gone before it is whole.
"""

from __future__ import annotations

from typing import Any, Final

from vllm.distributed.kv_transfer.kv_connector.v1.offloading.config import get_offloading_group_ids
from vllm.v1.kv_cache_interface import UniformTypeKVCacheSpecs

from spillway.adapters.vllm.requirements import MAX_SLOT_BYTES, Unsupported

WANTED_BYTES: Final = 1 << 20
MAX_TOKENS: Final = 256


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


def window_tokens(kv_cache_config: Any) -> list[int | None]:
    """How far each offloaded group looks back, the shortest of its layers; None: to the beginning."""
    found: list[int | None] = []
    for group_id in get_offloading_group_ids(kv_cache_config):
        spec = kv_cache_config.kv_cache_groups[group_id].kv_cache_spec
        specs = spec.kv_cache_specs.values() if isinstance(spec, UniformTypeKVCacheSpecs) else [spec]
        windows = [getattr(one, name, None) for one in specs for name in ("sliding_window", "attention_chunk_size")]
        found.append(min((window for window in windows if window), default=None))
    return found


def decide_blocks_per_chunk(
    bytes_per_block: list[int], tokens_per_block: list[int], windows: list[int | None], ranks: int
) -> int:
    """The smallest group decides, so that every group's slot reaches the wanted size unless tokens or a window come first.

    bytes_per_block: per group, of one rank. windows: per group, in tokens. Raises Unsupported when one block alone does not fit into
    a slot.
    """
    smallest, largest = min(bytes_per_block) * ranks, max(bytes_per_block) * ranks
    if largest > MAX_SLOT_BYTES:
        raise Unsupported(f"one block has {largest} bytes on all ranks; a slot takes at most {MAX_SLOT_BYTES}")
    by_size = -(-WANTED_BYTES // smallest)
    by_tokens = MAX_TOKENS // max(tokens_per_block)
    by_window = min(
        (window // tokens for window, tokens in zip(windows, tokens_per_block, strict=True) if window is not None),
        default=by_tokens,
    )
    return max(1, min(by_size, by_tokens, by_window, MAX_SLOT_BYTES // largest))
