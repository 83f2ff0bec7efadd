"""Damage on the device: find chunks in the store's file by what docs/formats.md says, and spoil them.

Every write is followed by fsync, so that a direct read sees it.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path

import xxhash

PAGE = 4096
MAGIC = b"SPWCHNK1"
STRIDE_AT, KEY_AT, POSITION_AT, CHECKSUM_AT = 24, 32, 112, 136


@dataclass(frozen=True)
class StoredChunk:
    """Where one chunk lies in the store's file; sizes in bytes."""

    offset: int
    stride: int
    key: bytes


def find_chunks(store: Path) -> list[StoredChunk]:
    """All chunk headers of the store's file, in file order."""
    found: list[StoredChunk] = []
    with store.open("rb") as file:
        size = store.stat().st_size
        offset = 0
        while offset < size:
            hole_end = os.lseek(file.fileno(), offset, os.SEEK_DATA) if _has_data(file.fileno(), offset) else size
            offset = max(offset, hole_end // PAGE * PAGE)
            if offset >= size:
                break
            page = os.pread(file.fileno(), PAGE, offset)
            if page[:8] == MAGIC:
                stride = struct.unpack_from("<Q", page, STRIDE_AT)[0]
                found.append(StoredChunk(offset, stride, page[KEY_AT : KEY_AT + 36]))
                offset += stride
            else:
                offset += PAGE
    return found


def _has_data(descriptor: int, offset: int) -> bool:
    try:
        os.lseek(descriptor, offset, os.SEEK_DATA)
    except OSError:
        return False
    return True


def overwrite(store: Path, offset: int, data: bytes) -> None:
    """Write `data` at `offset` and make it durable."""
    descriptor = os.open(store, os.O_WRONLY)
    try:
        os.pwrite(descriptor, data, offset)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def damage_payload(store: Path, chunk: StoredChunk) -> None:
    """Flip the exponent of floats across the payload: what wrong KV looks like, not what a checksum finds by its zeros."""
    for at in range(chunk.offset + PAGE, chunk.offset + chunk.stride, 64 * 1024):
        descriptor = os.open(store, os.O_RDONLY)
        try:
            value = bytearray(os.pread(descriptor, 4, at))
        finally:
            os.close(descriptor)
        value[3] ^= 0x40
        overwrite(store, at, bytes(value))


def damage_header(store: Path, chunk: StoredChunk) -> None:
    """Flip one bit of the key that the header holds."""
    descriptor = os.open(store, os.O_RDONLY)
    try:
        page = bytearray(os.pread(descriptor, PAGE, chunk.offset))
    finally:
        os.close(descriptor)
    page[KEY_AT + 8] ^= 0x01
    overwrite(store, chunk.offset, bytes(page))


def put_other_chunk(store: Path, chunk: StoredChunk, other: StoredChunk, *, forge_position: bool) -> None:
    """Put the whole valid slot of another chunk in this one's place.

    With `forge_position` the copy also claims to belong there and its header checksum is made to fit, so that only the
    key tells that it is another chunk.
    """
    descriptor = os.open(store, os.O_RDONLY)
    try:
        data = bytearray(os.pread(descriptor, other.stride, other.offset))
    finally:
        os.close(descriptor)
    assert len(data) == chunk.stride
    if forge_position:
        struct.pack_into("<Q", data, POSITION_AT, chunk.offset // PAGE)
        struct.pack_into("<Q", data, CHECKSUM_AT, xxhash.xxh3_64_intdigest(bytes(data[:CHECKSUM_AT])))
    overwrite(store, chunk.offset, bytes(data))
