"""The entry point `vllm.general_plugins`: give every engine of an injected pod Spillway's connector, unless the user chose one.

vLLM calls `register` in each of its processes, several times in some. It wraps `EngineArgs.create_engine_config`, where all
engine arguments are known and none is used yet, so the image's command stays as it is. It never raises.

The configuration that the engine gets is the one that its own arguments resolve to, with one field more. vLLM changes other fields
where it finds a KV connector (it lets requests in that name embeddings without bringing them, for one), which are for
engines that prefill for each other. So it is asked about the connector on a copy, and only its refusal counts.
"""

from __future__ import annotations

import copy
import functools
import json
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from spillway.adapters.vllm.compat import interface_problem, version_problem
from spillway.client.refusal import note_refusal
from spillway.client.settings import SettingsError, read_settings

CONNECTOR = "SpillwayConnector"
CONNECTOR_MODULE = "spillway.adapters.vllm.entry"
SPEC = "SpillwaySpec"
SPEC_MODULE = "spillway.adapters.vllm.spec"
INCARNATION = "spillway_incarnation"
_WRAPPED = "_spillway_wrapped"

# Below vLLM's own logger, so that its handler prints the lines.
log = logging.getLogger("vllm.spillway")


def stay_off(problem: str) -> None:
    """Say it once where people look: the engine's log, and beside the sidecar, whose status brings it to the pool."""
    log.warning("Spillway stays off: %s", problem)
    note_refusal(problem)


def register() -> None:
    """Called by vLLM in every process. Idempotent; never raises."""
    try:
        _register()
    except Exception as error:  # noqa: BLE001  the engine's edge: whatever fails here, the engine starts as without Spillway
        stay_off(f"{type(error).__name__}: {error}")


def _register() -> None:
    try:
        read_settings()
    except SettingsError as error:
        log.info("Spillway stays off: %s", error)
        return
    import vllm

    problem = version_problem(str(vllm.__version__))
    if problem is not None:
        stay_off(problem)
        return
    from vllm.engine.arg_utils import EngineArgs

    from spillway.adapters.vllm.resident import note_loaded_models

    note_loaded_models()
    create = EngineArgs.create_engine_config
    if getattr(create, _WRAPPED, False):
        return

    @functools.wraps(create)
    def create_engine_config(self: Any, *args: Any, **kwargs: Any) -> Any:
        # vLLM resolves arguments in place; the question below needs them as the user gave them.
        given = _copy_of(self)
        config = create(self, *args, **kwargs)
        _choose_connector(config, given, lambda arguments: create(arguments, *args, **kwargs))
        return config

    setattr(create_engine_config, _WRAPPED, True)
    EngineArgs.create_engine_config = create_engine_config


def _copy_of(engine_args: Any) -> Any:
    try:
        return copy.deepcopy(engine_args)
    except Exception as error:  # noqa: BLE001  as in register; without a copy vLLM cannot be asked
        return error


def _choose_connector(config: Any, given: Any, resolve: Callable[[Any], Any]) -> None:
    """Set the one field, where nothing speaks against it."""
    try:
        if config.kv_transfer_config is not None:
            stay_off("the engine has a KV transfer configuration of its own")
            return
        problem = _problem_of(config, given, resolve)
        if problem is not None:
            stay_off(problem)
            return
        config.kv_transfer_config = _transfer_config(config)
        note_refusal(None)
        log.info("Spillway's connector was chosen")
    except Exception as error:  # noqa: BLE001  the engine's edge, as in register
        stay_off(f"{type(error).__name__}: {error}")


def _problem_of(config: Any, given: Any, resolve: Callable[[Any], Any]) -> str | None:
    """Why this engine gets no connector: our requirements first, then vLLM's own."""
    from spillway.adapters.vllm.requirements import problem_of

    problem = problem_of(config) or interface_problem()
    if problem is not None:
        return problem
    if isinstance(given, Exception):
        return f"the engine's arguments cannot be copied: {given}"
    given.kv_transfer_config = _transfer_config(config)
    try:
        with _silence():
            resolve(given)
    except Exception as error:  # noqa: BLE001  whatever vLLM refuses by, its words are the reason
        return f"vLLM refuses a KV connector: {' '.join(str(error).split())}"
    return None


@contextmanager
def _silence() -> Iterator[None]:
    """What vLLM says of the configuration that is thrown away would be taken for the engine's."""
    logger = logging.getLogger("vllm")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(before)


def _transfer_config(config: Any) -> Any:
    from vllm.config import KVTransferConfig

    from spillway.adapters.vllm.weights import STAMP, stamp_before_loading

    arguments = transfer_config()
    stamp = stamp_before_loading(config)
    if stamp is not None:
        arguments["kv_connector_extra_config"][STAMP] = stamp
    return KVTransferConfig(**arguments)


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
