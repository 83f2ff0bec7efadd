"""The clusters that one machine may hold side by side: what a person tries is never what the tests make and remove."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dev.cluster.commands import ClusterError


@dataclass(frozen=True)
class Instance:
    """A cluster's name, the number that its networks are derived from, and the folder of its pools on the node."""

    name: str
    number: int
    folder: Path


DEMO: Final = Instance("demo", 0, Path("/var/lib/spillway-quickstart"))
E2E: Final = Instance("e2e", 1, Path("/var/lib/spillway-e2e"))
ALL: Final = (DEMO, E2E)


def find(name: str) -> Instance:
    """The instance of that name. Raises ClusterError naming those that there are."""
    for instance in ALL:
        if instance.name == name:
            return instance
    raise ClusterError(f"there is no cluster {name!r}; there are: {', '.join(one.name for one in ALL)}")
