"""The OpenAI chat API of the engine, streamed, with the time to the first token and the token ids."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import httpx

from demo.conversations import Conversation

_REPLY_TOKENS: Final = 24
_ANSWER_SECONDS: Final = 300


@dataclass(frozen=True)
class Turn:
    """One reply. `ttft_seconds` runs from sending the request to the first token of the stream."""

    ttft_seconds: float
    token_ids: tuple[int, ...]
    text: str
    prompt_tokens: int


def hold(base_url: str, conversation: Conversation) -> list[Turn]:
    """Say every turn, each with the whole history before it, and return the replies."""
    history: list[dict[str, str]] = []
    turns = []
    for user_text in conversation.user_turns:
        history.append({"role": "user", "content": user_text})
        turn = _reply(base_url, history)
        history.append({"role": "assistant", "content": turn.text})
        turns.append(turn)
    return turns


def _reply(base_url: str, history: list[dict[str, str]]) -> Turn:
    body: dict[str, Any] = {
        "model": "model",
        "messages": history,
        "max_tokens": _REPLY_TOKENS,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_token_ids": True,
    }
    started = time.monotonic()
    first: float | None = None
    token_ids: list[int] = []
    text, prompt_tokens = "", 0
    for event in _events(f"{base_url}/v1/chat/completions", body):
        prompt_tokens = (event.get("usage") or {}).get("prompt_tokens", prompt_tokens)
        for choice in event["choices"]:
            if choice.get("token_ids"):
                first = first or time.monotonic() - started
                token_ids += choice["token_ids"]
            text += choice["delta"].get("content") or ""
    if first is None:
        raise RuntimeError("the engine's stream ended without a token")
    return Turn(first, tuple(token_ids), text, prompt_tokens)


def _events(url: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Server-sent events of one request. The cluster's addresses are never behind a proxy."""
    with httpx.stream("POST", url, json=body, timeout=_ANSWER_SECONDS, trust_env=False) as response:
        if response.is_error:
            response.read()
            raise RuntimeError(f"{url} answered {response.status_code}: {response.text[:500]}")
        for line in response.iter_lines():
            if line.startswith("data: ") and line != "data: [DONE]":
                yield json.loads(line.removeprefix("data: "))
