"""What is mounted into the webhook and changes while it runs: its certificate, the tokens of its path and the status keys.

The kubelet swaps a symbolic link when it projects a new version, so a changed file is told by its resolved path and time.
"""

from __future__ import annotations

import asyncio
import hmac
import re
import ssl
from collections.abc import Callable
from pathlib import Path

import structlog
from pydantic import TypeAdapter, ValidationError
from spillway.config import ConfigError, PublicKey

from spillway_operator.api.names import INJECT_TOKEN_PATTERN, INJECT_TOKEN_PREFIX

POLL_SECONDS = 5.0
# More than two never stand side by side; SidecarConfig takes four.
MAX_KEYS = 4

log = structlog.get_logger()
_PUBLIC_KEY: TypeAdapter[str] = TypeAdapter(PublicKey)


class ServingCertificate:
    """A TLS context whose certificate follows the files tls.crt and tls.key: handshakes after a change see the new one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: object = None
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2

    def demand_clients_of(self, authority: Path) -> None:
        """From now on shake hands only with whoever has a certificate that `authority` (PEM) signed. Raises ConfigError."""
        try:
            self.context.load_verify_locations(authority)
        except OSError as error:  # ssl.SSLError is one
            problem = f"{authority} holds no certificate that can be read: {error}"
            raise ConfigError("webhook.clientCA", problem, "set it to the CA's certificate in PEM") from error
        self.context.verify_mode = ssl.CERT_REQUIRED

    @property
    def loaded(self) -> bool:
        """Whether a certificate has been loaded."""
        return self._seen is not None

    def refresh(self) -> None:
        """Load the files if they changed. A pair that does not fit is logged and the one before stays."""
        certificate, key = self._folder / "tls.crt", self._folder / "tls.key"
        try:
            seen = (_fingerprint(certificate), _fingerprint(key))
            if seen == self._seen:
                return
            self.context.load_cert_chain(certificate, key)
        except OSError as error:  # ssl.SSLError is one
            log.warning("certificate not loaded", reason=str(error))
            return
        self._seen = seen
        log.info("certificate loaded")


class InjectTokens:
    """The tokens that open /inject: the last word of each file of that prefix, in the certificate's folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._admitted: tuple[bytes, ...] = ()

    @property
    def loaded(self) -> bool:
        """Whether a token is known."""
        return bool(self._admitted)

    def admits(self, word: str) -> bool:
        """Whether `word` is a token. How long it takes says nothing of how much of one it has."""
        given = word.encode("utf-8", "replace")
        matches = [hmac.compare_digest(given, token) for token in self._admitted]
        return any(matches)

    def refresh(self) -> None:
        """Read the folder. Where it holds no token, what was admitted stays: the API server still calls it."""
        try:
            files = sorted(path for path in self._folder.glob(f"{INJECT_TOKEN_PREFIX}*") if path.is_file())
            words = [path.read_text(encoding="ascii").split()[-1:] for path in files]
        except (OSError, UnicodeDecodeError) as error:
            log.warning("tokens not read", reason=str(error))
            return
        found = tuple(word.encode() for line in words for word in line if re.fullmatch(INJECT_TOKEN_PATTERN, word))
        if not found or found == self._admitted:
            return
        self._admitted = found
        log.info("tokens read", count=len(found))


class StatusKeys:
    """The public keys that open /status of the sidecars: one per file of a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.current: tuple[str, ...] = ()

    def refresh(self) -> None:
        """Read the folder. A file that holds no key is logged and left out; an unreadable folder changes nothing."""
        try:
            files = sorted(path for path in self._folder.iterdir() if path.is_file() and not path.name.startswith("."))
            found = {path.name: path.read_text(encoding="ascii").strip() for path in files}
        except (OSError, UnicodeDecodeError) as error:
            log.warning("status keys not read", reason=str(error))
            return
        keys = tuple(key for name, key in found.items() if _is_key(name, key))[:MAX_KEYS]
        if keys != self.current:
            log.info("status keys read", count=len(keys))
        self.current = keys


async def poll(*refreshes: Callable[[], None], seconds: float) -> None:
    """Call every refresh now and then; returns never."""
    while True:
        for refresh in refreshes:
            refresh()
        await asyncio.sleep(seconds)


def _fingerprint(path: Path) -> tuple[str, int, int]:
    status = path.stat()
    return str(path.resolve()), status.st_mtime_ns, status.st_ino


def _is_key(name: str, key: str) -> bool:
    try:
        _PUBLIC_KEY.validate_python(key)
    except ValidationError as error:
        log.warning("file holds no status key", file=name, reason=error.errors(include_url=False)[0]["msg"])
        return False
    return True
