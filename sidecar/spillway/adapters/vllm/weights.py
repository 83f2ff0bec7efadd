"""Which files an engine's weights came from, and the proof that they are still what it read.

The plugin notes their stamps before the engine reads them. They are hashed when it is up already, and only equal stamps before
and after say that what was hashed is what was read.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from spillway.client.identity import (
    FileDigests,
    IdentityUnknown,
    newest_change_seconds,
    weights_digest,
    weights_stamp,
)

STAMP: Final = "spillway_weights_stamp"
_MEMORY: Final = "weight-digests.json"
_NICENESS: Final = 10


def model_folder(vllm_config: Any) -> Path:
    """Where the weights that this engine loads lie. Raises IdentityUnknown."""
    model, load = vllm_config.model_config, vllm_config.load_config
    name = model.model_weights or model.model
    if Path(name).is_dir():
        return Path(name)
    try:
        from huggingface_hub import snapshot_download

        return Path(
            snapshot_download(name, revision=model.revision, cache_dir=load.download_dir, local_files_only=True)
        )
    except (ImportError, OSError, ValueError) as error:
        raise IdentityUnknown("weights", f"{name} is neither a folder nor in the local cache: {error}") from error


def stamp_before_loading(vllm_config: Any) -> str | None:
    """The files' stamps while no engine has read them; None where the engine will download them first."""
    try:
        return weights_stamp(model_folder(vllm_config))
    except IdentityUnknown:
        return None


def digest_loaded(vllm_config: Any, *, root: str, loaded_at_seconds: float) -> str:
    """Digest of the weights that the engine has loaded. Raises IdentityUnknown, also where they may have changed since.

    loaded_at_seconds: since the epoch, when loading was over. Takes as long as reading every byte, at the lowest priority that leaves the
    engine its cores, so call it in a thread of its own.
    """
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
    folder = model_folder(vllm_config)
    noted = vllm_config.kv_transfer_config.kv_connector_extra_config.get(STAMP)
    digest = weights_digest(folder, FileDigests(Path(root, "run", _MEMORY)))
    if noted is not None:
        if weights_stamp(folder) != noted:
            raise IdentityUnknown("weights", f"{folder} changed since the engine began to load it; restart the engine")
    elif newest_change_seconds(folder) > loaded_at_seconds:
        raise IdentityUnknown("weights", f"{folder} changed after the engine loaded it; restart the engine")
    return digest
