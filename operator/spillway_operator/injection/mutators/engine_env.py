"""Wire the engine by environment alone; its image, command and args stay as they are.

The client's folder goes in front of PYTHONPATH. What the user gave by value is kept behind it; what came by valueFrom keeps
its source under another name and is chained by `$(...)`, as is what envFrom may bring (an unresolved `$(PYTHONPATH)` stays
literal and names no folder). vLLM loads only the plugins named in VLLM_PLUGINS where that is set, so ours is appended there
and never creates it. Whether envFrom brings that list is not to be seen here and must not be guessed: a folder on PYTHONPATH
lets the engine's own Python append our name to it (`spillway/adapters/vllm/env_from`).
"""

from __future__ import annotations

from typing import Any

from spillway.config import CONFIG_ENV

from spillway_operator.api import names
from spillway_operator.injection.facts import Pod
from spillway_operator.injection.plan import Plan

PYTHONPATH = "PYTHONPATH"
PLUGINS = "VLLM_PLUGINS"
PLUGIN = "spillway"
USER_PREFIX = "SPILLWAY_USER_"

Variable = dict[str, Any]


def mutate(pod: Pod, plan: Plan) -> None:
    """Set PYTHONPATH, extend VLLM_PLUGINS, add SPILLWAY_CONFIG unless the user set it."""
    engine = plan.engine(pod)
    env: list[Variable] = list(engine.get("env") or [])
    has_env_from = bool(engine.get("envFrom"))
    ours = names.CLIENT_PYTHONPATH
    if has_env_from and _find(env, PLUGINS) is None:
        ours = _joined(":", ours, names.CLIENT_ENV_FROM_PATH)
    env = _prefix_pythonpath(env, ours, has_env_from=has_env_from)
    env = _append_plugin(env)
    if _find(env, CONFIG_ENV) is None:
        env.append({"name": CONFIG_ENV, "value": plan.config.render()})
    engine["env"] = env


def _prefix_pythonpath(env: list[Variable], ours: str, *, has_env_from: bool) -> list[Variable]:
    index = _find(env, PYTHONPATH)
    if index is None:
        theirs = f"$({PYTHONPATH})" if has_env_from else ""
        return [*env, _variable(PYTHONPATH, _joined(":", ours, theirs))]
    return _replaced(env, index, lambda theirs: _joined(":", ours, theirs))


def _append_plugin(env: list[Variable]) -> list[Variable]:
    index = _find(env, PLUGINS)
    if index is None or PLUGIN in str(env[index].get("value") or "").split(","):
        return env
    return _replaced(env, index, lambda theirs: _joined(",", theirs, PLUGIN))


def _replaced(env: list[Variable], index: int, build: Any) -> list[Variable]:
    theirs = env[index]
    if "valueFrom" not in theirs:
        return [*env[:index], _variable(theirs["name"], build(theirs.get("value") or "")), *env[index + 1 :]]
    kept = {**theirs, "name": USER_PREFIX + theirs["name"]}
    # The source must stand before its use: the kubelet expands in order.
    return [*env[:index], kept, _variable(theirs["name"], build(f"$({kept['name']})")), *env[index + 1 :]]


def _find(env: list[Variable], name: str) -> int | None:
    """Index of the last variable of that name, the one that counts."""
    found = [index for index, variable in enumerate(env) if variable["name"] == name]
    return found[-1] if found else None


def _variable(name: str, value: str) -> Variable:
    return {"name": name, "value": value}


def _joined(separator: str, *parts: str) -> str:
    return separator.join(part for part in parts if part)
