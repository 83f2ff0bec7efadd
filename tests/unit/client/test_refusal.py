"""What an engine leaves for the sidecar is a tenant's word: one bounded line of text, whatever lies there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from spillway.client.refusal import MAX_BYTES, note_refusal, read_refusal


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path


def test_reason_is_left_and_taken_back(root: Path) -> None:
    assert read_refusal(root) == ""
    note_refusal("enable_prefix_caching is off", str(root))
    assert read_refusal(root) == "enable_prefix_caching is off"
    note_refusal(None, str(root))
    assert read_refusal(root) == ""


def test_text_is_bounded_and_printable(root: Path) -> None:
    (root / "run" / "refusal").write_bytes(b"a\nb\x1b[31m\xff" + b"c" * (2 * MAX_BYTES))
    text = read_refusal(root)
    assert text.startswith("a b [31m")
    assert text.isprintable()
    assert len(text) <= MAX_BYTES


def test_link_and_fifo_are_not_followed(root: Path) -> None:
    secret = root / "secret"
    secret.write_text("another's")
    (root / "run" / "refusal").symlink_to(secret)
    assert read_refusal(root) == ""
    (root / "run" / "refusal").unlink()
    os.mkfifo(root / "run" / "refusal")
    assert read_refusal(root) == ""


def test_folder_that_is_not_there_hinders_nothing(tmp_path: Path) -> None:
    note_refusal("no sidecar", str(tmp_path / "absent"))
    assert read_refusal(tmp_path / "absent") == ""
