"""What the demo says, with and without a trace of real chats."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from demo.conversations import conversations


def test_bundled_text_alone_makes_three_different_conversations(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SPILLWAY_TRACE", str(tmp_path / "absent"))
    held = conversations()
    assert [len(conversation.user_turns) for conversation in held] == [3, 3, 3]
    assert len({conversation.user_turns[0] for conversation in held}) == 3


def test_sizes_follow_a_session_of_the_trace(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    session = [
        {"hash_ids": [0, *range(100, 107)], "input_length": 4000},
        {"hash_ids": [0, *range(100, 108)], "input_length": 4400},
        {"hash_ids": [0, *range(100, 109)], "input_length": 4500},
    ]
    trace = tmp_path / "trace.jsonl"
    trace.write_text("".join(json.dumps({"timestamp": 0, **request}) + "\n" for request in session))
    monkeypatch.setenv("SPILLWAY_TRACE", str(trace))
    sizes = [[len(turn) for turn in conversation.user_turns] for conversation in conversations()]
    overhead = sizes[0][0] - 8000
    assert 0 < overhead < 200
    assert sizes[0] == [8000 + overhead, 800 + overhead, 200 + overhead]
