"""Spillway's OffloadingSpec: hands vLLM's offloading scheduler and worker our halves of the work.

The connector makes it itself, with everything in it. vLLM also imports it by name, but only for its class method on metrics.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vllm.v1.kv_offload.base import CanonicalKVCaches, OffloadingManager, OffloadingSpec, OffloadingWorker
from vllm.v1.kv_offload.config import OffloadingConfig


class SpillwaySpec(OffloadingSpec):
    """`manager` on the scheduler's side, `make_worker` on a rank's."""

    def __init__(
        self,
        config: OffloadingConfig,
        manager: OffloadingManager | None = None,
        make_worker: Callable[[CanonicalKVCaches], OffloadingWorker] | None = None,
    ) -> None:
        super().__init__(config)
        # Ranks that hold the same bytes (MLA under tensor parallelism) store them once.
        self.replicated_layout = config.replicated_layout
        self._manager = manager
        self._make_worker = make_worker

    def get_manager(self) -> OffloadingManager:
        if self._manager is None:
            raise RuntimeError("SpillwaySpec has no manager; it is made by SpillwayConnector")
        return self._manager

    def get_worker(self, kv_caches: CanonicalKVCaches) -> OffloadingWorker:
        if self._make_worker is None:
            raise RuntimeError("SpillwaySpec has no worker; it is made by SpillwayConnector")
        return self._make_worker(kv_caches)

    @classmethod
    def build_metric_definitions(cls, extra_config: dict[str, Any]) -> dict[str, Any]:
        """None: the sidecar measures, for every engine alike."""
        return {}
