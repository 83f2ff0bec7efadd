"""What is talked about: bundled documents, cut and asked about in the shape of real sessions where a trace is at hand."""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PROJECT: Final = Path(__file__).resolve().parent.parent
_DOCUMENTS: Final = ("LICENSE", "docs/architecture.md", "README.md", "CONTRIBUTING.md")
_TRACE: Final = Path("shared", "data", "mooncake_conversation_trace.jsonl")
_CONVERSATIONS: Final = 3
_TURNS: Final = 3
# The model's window is 8,192 tokens; its tokenizer makes one of about two characters of prose.
_FIRST_TURN_CHARACTERS: Final = 9_000
_LATER_TURN_CHARACTERS: Final = 240
_CHARACTERS_PER_TOKEN: Final = 2.0
_WINDOW_CHARACTERS: Final = 11_000
# A session counts if it opens with a long prompt, which is where reuse is felt, and goes on with something to say.
_LEAST_OPENING_CHARACTERS: Final = 6_000
_LEAST_TURN_CHARACTERS: Final = 80


@dataclass(frozen=True)
class Conversation:
    """What the user says, turn by turn; the first turn brings a document along."""

    name: str
    user_turns: tuple[str, ...]


def conversations() -> list[Conversation]:
    """Three conversations of three turns. Their sizes come from a trace of real chats if one is found, else are fixed."""
    text = _bundled_text()
    shapes = list(itertools.islice(_shapes_of_trace(), _CONVERSATIONS)) or [
        (_FIRST_TURN_CHARACTERS, *[_LATER_TURN_CHARACTERS] * (_TURNS - 1))
    ]
    return [_conversation(number, shapes[number % len(shapes)], text) for number in range(_CONVERSATIONS)]


def warm_up() -> Conversation:
    """A short one that nobody measures: it makes a fresh engine finish what it does on its first request."""
    return Conversation("warm-up", ("Please count from one to two hundred: " + " ".join(map(str, range(1, 200))),))


def _conversation(number: int, sizes: tuple[int, ...], text: str) -> Conversation:
    turns = []
    # Each conversation starts elsewhere in the text, so that none is a prefix of another.
    position = number * len(text) // (_CONVERSATIONS + 1)
    for turn, size in enumerate(sizes):
        doubled = text + text
        passage = doubled[position : position + size]
        position = (position + size) % len(text)
        turns.append(
            f"Conversation {number + 1}, question {turn + 1}. Read this and say what follows from it.\n{passage}"
        )
    return Conversation(f"conversation {number + 1}", tuple(turns))


def _bundled_text() -> str:
    text = "\n".join((PROJECT / name).read_text() for name in _DOCUMENTS)
    return re.sub(r"\s+", " ", text)


def _shapes_of_trace() -> Iterator[tuple[int, ...]]:
    """Characters per turn of real multi-turn sessions that fit the model's window; none without a trace.

    A session is a chain of requests, each of which repeats its predecessor's prompt and adds to it: its list of prefix
    blocks begins with the predecessor's, but for the last block, which was not full.
    """
    path = Path(os.environ.get("SPILLWAY_TRACE", PROJECT.parent / _TRACE))
    if not path.is_file():
        return
    open_sessions: dict[tuple[int, ...], list[int]] = {}
    with path.open() as lines:
        for line in lines:
            request = json.loads(line)
            blocks, length = tuple(request["hash_ids"]), int(request["input_length"])
            earlier = next((b for b in open_sessions if len(b) > 1 and blocks[: len(b) - 1] == b[:-1]), None)
            lengths = [*open_sessions.pop(earlier), length] if earlier else [length]
            if length * _CHARACTERS_PER_TOKEN > _WINDOW_CHARACTERS or sorted(lengths) != lengths:
                continue
            if len(lengths) == _TURNS:
                sizes = tuple(_growth(lengths))
                if sizes[0] >= _LEAST_OPENING_CHARACTERS and min(sizes) >= _LEAST_TURN_CHARACTERS:
                    yield sizes
            else:
                open_sessions[blocks] = lengths


def _growth(lengths: list[int]) -> Iterator[int]:
    for before, length in zip([0, *lengths], lengths, strict=False):
        yield int((length - before) * _CHARACTERS_PER_TOKEN)
