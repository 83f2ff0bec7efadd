"""The scheduler's half of the engine's side: what a request loads (`loads`), what it stores (`stores`), and what concerns both.

Adapters call it from the engine's scheduling loop, in one thread. It answers at once whatever the sidecar does: an absent, hung or
full sidecar means misses and declined stores.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from spillway import _core
from spillway.client.announcements import Announcements, Change
from spillway.client.gate import Gate
from spillway.client.keyspace import Keyspace
from spillway.client.ledger import Ledger
from spillway.client.link import Link
from spillway.client.loads import Loads
from spillway.client.stores import Stores


class Session:
    """One engine incarnation. `gate` and `io_deadline_seconds` bound what a request waits for; `announces`: routers listen."""

    def __init__(
        self,
        link: Link,
        gate: Gate,
        io_deadline_seconds: float,
        clock: Callable[[], float] = time.monotonic,
        *,
        announces: bool = False,
    ) -> None:
        self._link = link
        self._keyspace = Keyspace(link)
        ledger = Ledger()
        self.loads = Loads(link, self._keyspace, ledger, gate, io_deadline_seconds, clock)
        self.stores = Stores(link, self._keyspace, ledger, clock)
        self._announcements = Announcements() if announces else None

    # Identity

    def set_fingerprint(self, fingerprint: bytes) -> None:
        """What every key from now on is under. Until it is set everything is a miss."""
        self._keyspace.set(fingerprint)

    def is_usable(self) -> bool:
        """Whether the sidecar is there and knows the fingerprint."""
        return self._keyspace.attachment() is not None

    def reset(self) -> None:
        """The engine's weights may have changed: this incarnation shares nothing with what was stored before.

        Requests that are under way were computed with the old weights: they load and store nothing any more.
        """
        self._keyspace.leave()
        for request_id in self.loads.known() | self.stores.known():
            self.loads.deny(request_id)
            self.stores.close(request_id)
        self.stores.forget()
        if self._announcements is not None:
            self._announcements.forget()

    # The step

    def sent(self) -> None:
        """The ranks are told of every claim and every accepted offer until now: from here on they say when a slot is free."""
        self.loads.sent()
        self.stores.sent()

    def step_ended(self) -> None:
        """No slot may be read any more but under a ticket."""
        self.loads.step_ended()
        self.stores.step_ended()

    def stored(self, keys: Iterable[bytes], failed: bool) -> None:
        """The copies of these leased chunks are over on every rank: publish them, or give their slots back."""
        keys = list(keys)
        if self._announcements is not None and not failed:
            self._announcements.expect(keys)
        self.stores.stored(keys, failed)

    def take_changes(self) -> list[Change]:
        """Chunks of this engine that became loadable, moved between the tiers or left since the last call, as far as looked up."""
        attachment = self._keyspace.attachment()
        if self._announcements is None or attachment is None:
            return []
        found = self._announcements.changes(attachment.progress(), attachment.lookup)
        attachment.end_step()
        return found

    # The request

    def turn_plain(self, request_id: str, *, keep_claims: bool) -> None:
        """The adapter could not handle this request: it loads and stores nothing any more, and counts as failed open.

        keep_claims: what it has claimed goes to the ranks with this step, which acknowledge it.
        """
        self.loads.deny(request_id)
        self.stores.close(request_id)
        if not keep_claims:
            self.loads.cancel_unsent(request_id)
        self._count_fail_open()

    def finished(self, request_id: str, used_keys: Sequence[bytes]) -> None:
        """The request is over. used_keys: its chunks, the last first, so that its beginning counts as used most recently."""
        self.loads.finished(request_id, used_keys)
        self.stores.finished(request_id)

    # The end

    def give_up(self) -> None:
        """The adapter goes on without us: count it, and keep no slot but those the ranks were told of (`Stores.abandon`)."""
        self.loads.give_up()
        self.stores.give_up()
        self._count_fail_open()

    def _count_fail_open(self) -> None:
        attachment = self._link.attachment()
        if attachment is not None:
            attachment.count(_core.COUNT_FAIL_OPEN, 1)

    def close(self) -> None:
        self._link.close()
