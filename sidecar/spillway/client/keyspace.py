"""The fingerprint that this incarnation's keys are under, and the attachment once the sidecar knows it."""

from __future__ import annotations

import hashlib
import os

from spillway import _core
from spillway.client.link import Link


class Keyspace:
    """Until `set`, and until the sidecar was told, nothing can be looked up or stored."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._fingerprint: bytes | None = None
        self._nonce = b""
        self._is_told = False

    def set(self, fingerprint: bytes) -> None:
        """What every key from now on is under."""
        self._fingerprint = hashlib.sha256(fingerprint + self._nonce).digest() if self._nonce else fingerprint
        self._is_told = False

    def leave(self) -> None:
        """From now on the keys are this incarnation's alone, for good."""
        self._nonce = os.urandom(32)
        if self._fingerprint is not None:
            self.set(self._fingerprint)

    @property
    def is_told(self) -> bool:
        """Whether what is published now lies under the newest fingerprint."""
        return self._is_told

    def attachment(self) -> _core.Attachment | None:
        """The attachment once keys mean something to the sidecar; None before."""
        attachment = self._link.attachment()
        if attachment is None or self._fingerprint is None:
            return None
        if not self._is_told:
            self._is_told = attachment.set_fingerprint(self._fingerprint)
        return attachment if self._is_told else None
