"""What can go wrong between us and the API server: one tree of errors for every client.

ApiError > Conflict (409), NotFound (404), Expired (410)
"""

from __future__ import annotations

import json
from typing import Any

# Its words may quote what a tenant wrote.
MAX_MESSAGE_CHARACTERS = 500
# An answer to a creation that says nothing about the object: asked too often, not allowed to ask, a name that is in use.
_NO_VERDICT = frozenset({401, 404, 408, 409, 429})


class ApiError(RuntimeError):
    """The API server refused or could not be reached. `status` is the HTTP status, 0 where no usable answer came."""

    def __init__(self, status: int, method: str, path: str, message: str) -> None:
        super().__init__(f"{method} {path}: {status} {message}")
        self.status = status


class Conflict(ApiError):
    """409: the object exists already, changed meanwhile, or has another uid."""


class NotFound(ApiError):
    """404."""


class Expired(ApiError):
    """410, or a watch that lost something: what was read before cannot be continued, so list anew."""


def error_of(status: int, method: str, path: str, message: str) -> ApiError:
    """The error of an answer, or of none (`status` 0)."""
    classes: dict[int, type[ApiError]] = {404: NotFound, 409: Conflict, 410: Expired}
    return classes.get(status, ApiError)(status, method, path, message)


def parse_object(method: str, path: str, raw: bytes) -> dict[str, Any]:
    """The object that an answer holds. Raises ApiError where it holds none, as what stands in between may answer."""
    try:
        answer = json.loads(raw)
    except ValueError as error:
        raise error_of(0, method, path, f"the answer is no JSON: {error}") from error
    if not isinstance(answer, dict):
        raise error_of(0, method, path, "the answer is no object")
    return answer


def message_of(raw: bytes) -> str:
    """The API server's own words in an answer's body, cut to 500 characters."""
    try:
        answer: Any = json.loads(raw)
    except ValueError:
        answer = raw.decode("utf-8", "replace")
    return str(answer.get("message", "") if isinstance(answer, dict) else answer)[:MAX_MESSAGE_CHARACTERS]


def is_verdict(status: int, message: str) -> bool:
    """Whether the answer to a dry-run creation judges the object, and not whoever asks.

    RBAC, and admission webhooks that take no dry runs, refuse the question; the status is the one of a refused object.
    """
    asker_is_refused = "cannot create resource" in message or "does not support dry run" in message
    return status < 500 and status not in _NO_VERDICT and not asker_is_refused
