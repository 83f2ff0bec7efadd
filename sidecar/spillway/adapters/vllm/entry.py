"""What vLLM loads by `kv_connector_module_path`: Spillway's connector, or an inert one where that cannot even be imported."""

from __future__ import annotations

import logging

try:
    from spillway.adapters.vllm.connector import SpillwayConnector
except Exception as error:  # noqa: BLE001  the engine's edge: an engine whose interfaces moved serves without Spillway
    logging.getLogger("vllm.spillway").warning("Spillway stays off: %s: %s", type(error).__name__, error)
    from spillway.adapters.vllm.inert import InertConnector as SpillwayConnector

__all__ = ["SpillwayConnector"]
