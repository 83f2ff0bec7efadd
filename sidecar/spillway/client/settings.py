"""What the engine's side needs of SPILLWAY_CONFIG.

Read with `json` alone: the models of `spillway.config` need pydantic, which a foreign image need not have. Unknown fields are
left alone, because a pod's client may be older than the webhook that rendered the text.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

CONFIG_ENV: Final = "SPILLWAY_CONFIG"
ROOT_ENV: Final = "SPILLWAY_ROOT"
DEFAULT_ROOT: Final = "/spillway"
# As in spillway.config; only a text without an NVMe tier leaves it out.
DEFAULT_IO_DEADLINE_SECONDS: Final = 0.25


class SettingsError(ValueError):
    """SPILLWAY_CONFIG is absent or cannot be read; the message names the field. The engine runs without Spillway."""


@dataclass(frozen=True)
class ClientSettings:
    """The pool, the operator's epoch, and where the shared memory is mounted."""

    root: str
    pool_uid: str
    cache_epoch: int
    io_deadline_seconds: float


def read_settings(environ: Mapping[str, str] | None = None) -> ClientSettings:
    """Parse the environment. Raises SettingsError."""
    environ = os.environ if environ is None else environ
    text = environ.get(CONFIG_ENV)
    if not text:
        raise SettingsError(f"{CONFIG_ENV} is not set; the pod was not injected")
    try:
        document = json.loads(text)
        nvme = document.get("nvme") or {}
        return ClientSettings(
            root=environ.get(ROOT_ENV) or DEFAULT_ROOT,
            pool_uid=str(document["pool"]["uid"]),
            cache_epoch=int(document.get("cache_epoch", 0)),
            io_deadline_seconds=float(nvme.get("deadline_seconds", DEFAULT_IO_DEADLINE_SECONDS)),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SettingsError(
            f"{CONFIG_ENV}: {type(error).__name__} {error}; use the value that the webhook renders"
        ) from error
