"""The values that pass between an adapter and the client."""

from __future__ import annotations

import enum
from dataclasses import dataclass

KEY_BYTES = 36


class Verdict(enum.Enum):
    """What the engine shall do with a request now."""

    GO = "go"  # its answers are final for this step
    WAIT = "wait"  # chunks are on their way; ask again next step


@dataclass(frozen=True)
class Group:
    """A KV group as the adapter sees it for one request: its keys from the first chunk on, and how far attention looks back.

    window_chunks: None for full attention, else how many chunks back from the end are needed."""

    keys: list[bytes]
    chunk_tokens: int
    window_chunks: int | None


@dataclass(frozen=True)
class LoadTokens:
    """Prompt tokens that a request gets by a load, by the tier that their chunks came from.

    other: no chunk of their own, as what lies before an attention window.
    """

    dram: int = 0
    nvme: int = 0
    other: int = 0


@dataclass(frozen=True)
class StoreOffer:
    """A chunk that the engine could store: its key, its group and the token position where it ends."""

    key: bytes
    group: int
    end_token: int
