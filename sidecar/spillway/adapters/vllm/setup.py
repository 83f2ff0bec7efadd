"""What both halves of the connector are made from, taken from vLLM's configuration once."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from vllm.distributed.kv_transfer.kv_connector.v1.offloading.config import (
    build_offloading_config,
    get_offloading_group_ids,
)
from vllm.v1.kv_offload.config import OffloadingConfig

from spillway.adapters.vllm.chunking import block_bytes, decide_blocks_per_chunk, window_tokens
from spillway.adapters.vllm.plugin import INCARNATION
from spillway.adapters.vllm.requirements import refuse_unsupported
from spillway.client import ClientSettings, read_settings


@dataclass(frozen=True)
class Setup:
    """`incarnation`: 16 bytes that this engine's processes share and no other engine has."""

    settings: ClientSettings
    config: OffloadingConfig
    incarnation: bytes
    vllm_config: Any
    kv_cache_config: Any


def make_setup(vllm_config: Any, kv_cache_config: Any) -> Setup:
    """Raises SettingsError, or Unsupported for an engine that is served without Spillway."""
    return Setup(
        read_settings(),
        prepare_config(vllm_config, kv_cache_config),
        incarnation_of(vllm_config),
        vllm_config,
        kv_cache_config,
    )


def prepare_config(vllm_config: Any, kv_cache_config: Any) -> OffloadingConfig:
    """Decide the chunk size and translate vLLM's configuration. Raises Unsupported."""
    refuse_unsupported(vllm_config, kv_cache_config)
    extra = vllm_config.kv_transfer_config.kv_connector_extra_config
    tokens = [
        kv_cache_config.kv_cache_groups[group_id].kv_cache_spec.block_size
        for group_id in get_offloading_group_ids(kv_cache_config)
    ]
    # Ranks of an MLA model hold the same bytes and share one slice.
    ranks = 1 if vllm_config.model_config.use_mla else vllm_config.parallel_config.world_size
    extra["blocks_per_chunk"] = decide_blocks_per_chunk(
        block_bytes(kv_cache_config), tokens, window_tokens(kv_cache_config), ranks
    )
    return build_offloading_config(vllm_config, kv_cache_config)


def incarnation_of(vllm_config: Any) -> bytes:
    """Drawn by the plugin for the engine; data-parallel replicas share a configuration."""
    seed = vllm_config.kv_transfer_config.kv_connector_extra_config[INCARNATION]
    return hashlib.sha256(f"{seed} {vllm_config.parallel_config.data_parallel_index}".encode()).digest()[:16]
