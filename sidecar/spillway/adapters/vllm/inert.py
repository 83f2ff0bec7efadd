"""A connector that does nothing, for an engine whose offloading interfaces this client does not know.

It needs only the base interface, and it keeps the hybrid KV manager on (SupportsHMA): an inert Spillway changes no plan of
the engine.
"""

from __future__ import annotations

from typing import Any

from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorBase_V1, KVConnectorMetadata, SupportsHMA


def stand_aside(vllm_config: Any) -> None:
    """Let the scheduler that makes this connector plan as without one.

    A connector that loads makes it free blocks one step later (`defer_block_free`), which it reads off the role; one that
    only sends does not.
    """
    vllm_config.kv_transfer_config.kv_role = "kv_producer"


class InertMetadata(KVConnectorMetadata):
    """Nothing to do in this step."""


class InertConnector(KVConnectorBase_V1, SupportsHMA):
    """Every hook is empty."""

    def __init__(self, vllm_config: Any, role: Any, kv_cache_config: Any) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        stand_aside(vllm_config)

    @property
    def requires_kv_delivery(self) -> bool:
        return False

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        pass

    def wait_for_layer_load(self, layer_name: str) -> None:
        pass

    def save_kv_layer(self, layer_name: str, kv_layer: Any, attn_metadata: Any, **kwargs: Any) -> None:
        pass

    def wait_for_save(self) -> None:
        pass

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int, bool]:
        return 0, False

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        pass

    def build_connector_meta(self, scheduler_output: Any) -> InertMetadata:
        return InertMetadata()

    def request_finished_all_groups(self, request: Any, block_ids: Any) -> tuple[bool, dict[str, Any] | None]:
        return False, None
