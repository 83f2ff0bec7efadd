"""Who is to be read, and who came or went since somebody asked: 50,000 pods are looked through twice a second without touching them."""

from __future__ import annotations

from typing import Generic, TypeVar

Entry = TypeVar("Entry")


class Roster(Generic[Entry]):
    """Entries by uid. One reader takes the changes."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._changed: set[str] = set()

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, uid: str) -> bool:
        return uid in self._entries

    def get(self, uid: str) -> Entry | None:
        """The entry as it was put last."""
        return self._entries.get(uid)

    def put(self, uid: str, entry: Entry) -> None:
        """Keep an entry, or its newer state."""
        if uid not in self._entries:
            self._changed.add(uid)
        self._entries[uid] = entry

    def drop(self, uid: str) -> None:
        """An entry went; one that is unknown is fine."""
        if self._entries.pop(uid, None) is not None:
            self._changed.add(uid)

    def take_changed(self) -> set[str]:
        """Of whom came or went since the last call; whoever is in it may be as before."""
        changed, self._changed = self._changed, set()
        return changed
