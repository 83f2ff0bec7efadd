"""The entry point `vllm.general_plugins`: give every engine of an injected pod Spillway's connector, unless the user chose one.

vLLM calls `register` in each of its processes, several times in some. It wraps `EngineArgs.create_engine_config`, where all
engine arguments are known and none is used yet, so the image's command stays as it is. It never raises.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import re
from typing import Any

CONNECTOR = "SpillwayConnector"
CONNECTOR_MODULE = "spillway.adapters.vllm.connector"
SPEC = "SpillwaySpec"
SPEC_MODULE = "spillway.adapters.vllm.spec"
INCARNATION = "spillway_incarnation"
SUPPORTED_VERSION = re.compile(r"0\.32\.\d")
_WRAPPED = "_spillway_wrapped"

# Below vLLM's own logger, so that its handler prints the lines.
log = logging.getLogger("vllm.spillway")


def register() -> None:
    """Called by vLLM in every process. Idempotent; never raises."""
    try:
        _register()
    except Exception as error:  # noqa: BLE001  the engine's edge: whatever fails here, the engine starts as without Spillway
        log.warning("Spillway stays off: %s: %s", type(error).__name__, error)


def _register() -> None:
    from spillway.client.settings import SettingsError, read_settings

    try:
        read_settings()
    except SettingsError as error:
        log.info("Spillway stays off: %s", error)
        return
    import vllm

    version = str(vllm.__version__)
    if not SUPPORTED_VERSION.match(version):
        log.warning("Spillway stays off: this client knows vLLM 0.32, not %s", version)
        return
    from vllm.engine.arg_utils import EngineArgs

    create = EngineArgs.create_engine_config
    if getattr(create, _WRAPPED, False):
        return

    @functools.wraps(create)
    def create_engine_config(self: Any, *args: Any, **kwargs: Any) -> Any:
        _choose_connector(self)
        return create(self, *args, **kwargs)

    setattr(create_engine_config, _WRAPPED, True)
    EngineArgs.create_engine_config = create_engine_config


def _choose_connector(engine_args: Any) -> None:
    """Set kv_transfer_config where the user set nothing of the kind."""
    try:
        if engine_args.kv_transfer_config is not None or engine_args.kv_offloading_size is not None:
            log.info("Spillway stays off: the engine has a KV transfer configuration of its own")
            return
        from vllm.config import KVTransferConfig

        engine_args.kv_transfer_config = KVTransferConfig(**transfer_config())
        log.info("Spillway's connector was chosen")
    except Exception as error:  # noqa: BLE001  the engine's edge, as in register
        log.warning("Spillway stays off: %s: %s", type(error).__name__, error)


def transfer_config() -> dict[str, Any]:
    """The arguments of vLLM's KVTransferConfig. The incarnation is drawn here, because every process of the engine gets a copy."""
    return {
        "kv_connector": CONNECTOR,
        "kv_connector_module_path": CONNECTOR_MODULE,
        "kv_role": "kv_both",
        "kv_load_failure_policy": "recompute",
        "kv_connector_extra_config": {
            # Only for vLLM's metrics, which look the spec up by name; the connector makes its own.
            "spec_name": SPEC,
            "spec_module_path": SPEC_MODULE,
            "offload_prompt_only": False,
            INCARNATION: os.urandom(16).hex(),
        },
    }


def transfer_config_argument() -> str:
    """The same as a value of --kv-transfer-config, for an engine that cannot load plugins."""
    return json.dumps(transfer_config())
