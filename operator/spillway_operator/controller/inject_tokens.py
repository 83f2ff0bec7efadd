"""The word in the path of the webhook that only the API server is told: /inject/<token>.

Nothing else tells the API server's call from another's on every cluster: a client certificate needs configuration of the
API server, and no NetworkPolicy can name it. The tokens stand in the Secret that the webhook mounts; the one that is called
stands in the MutatingWebhookConfiguration, which is cluster-scoped and in no role that a namespace's tenant gets. A new token
comes with each new serving certificate. It stands in the Secret for an hour, so that every replica admits it, before it is
called, and the one before stays for another hour: at no moment is a call refused.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from spillway_operator.api.names import INJECT_PATH, INJECT_TOKEN_PATTERN, INJECT_TOKEN_PREFIX

# Longer than the kubelet takes to project a changed Secret, and than the API server takes to hear of a new path.
TOKEN_OVERLAP = timedelta(hours=1)
_STORED = re.compile(rb"([0-9]{1,11}) ([0-9a-f]{64})")


@dataclass(frozen=True, order=True)
class InjectToken:
    """A token and since when it stands in the Secret."""

    since: datetime
    word: str

    @property
    def path(self) -> str:
        return f"{INJECT_PATH}/{self.word}"


def make_token(now: datetime) -> InjectToken:
    return InjectToken(now, secrets.token_hex(32))


def parse_tokens(data: Mapping[str, bytes]) -> tuple[InjectToken, ...]:
    """The tokens among a Secret's data, oldest first; what is none is left out."""
    found = (_STORED.fullmatch(value) for name, value in data.items() if name.startswith(INJECT_TOKEN_PREFIX))
    return tuple(sorted(InjectToken(datetime.fromtimestamp(int(m[1]), UTC), m[2].decode()) for m in found if m))


def render_tokens(tokens: tuple[InjectToken, ...]) -> dict[str, bytes]:
    """The Secret's data that `parse_tokens` reads."""
    return {
        f"{INJECT_TOKEN_PREFIX}{index}": f"{int(token.since.timestamp())} {token.word}".encode()
        for index, token in enumerate(tokens)
    }


def called_word(path: str | None) -> str | None:
    """The token in the path of a webhook configuration, None where it has none."""
    folder, _, word = (path or "").rpartition("/")
    return word if folder == INJECT_PATH and re.fullmatch(INJECT_TOKEN_PATTERN, word) else None


def token_to_call(tokens: tuple[InjectToken, ...], now: datetime) -> InjectToken:
    """The newest that every replica admits by now; at the very start the only one."""
    known = [token for token in tokens if now - token.since >= TOKEN_OVERLAP]
    return known[-1] if known else tokens[0]


def renew_tokens(
    stored: tuple[InjectToken, ...], called: str | None, now: datetime, *, rotates: bool
) -> tuple[InjectToken, ...]:
    """What the Secret should hold, oldest first: `called` is what the API server uses, `rotates` asks for a new one."""
    tokens = stored
    if called is not None and called not in [token.word for token in tokens]:
        # The Secret was lost or damaged: replicas that run still admit this one, and no other is known to all.
        since = min([now, *(token.since for token in tokens)]) - timedelta(seconds=1)
        tokens = (InjectToken(since, called), *tokens)
    if not tokens:
        return (make_token(now),)
    for index, token in enumerate(tokens):
        if token.word == called and now - token.since >= 2 * TOKEN_OVERLAP:
            tokens = tokens[index:]
            break
    if rotates and now - tokens[-1].since >= TOKEN_OVERLAP:
        tokens = (*tokens, make_token(now))
    return tokens
