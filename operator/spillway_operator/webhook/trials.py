"""One pod on trial while a pool's injection breaker is half open.

The operator opens a trial by writing the state Probing anew; each replica of the webhook lets one pod through for it. A dry run is no
trial, whoever sends it.
"""

from __future__ import annotations

from datetime import datetime

from spillway_operator.api import KVCachePool, names
from spillway_operator.injection import Pod


class Trials:
    """Which trials this process has given away. One entry a pool that ever came so far."""

    def __init__(self) -> None:
        self._given: dict[str, datetime] = {}

    def admits(self, pool: KVCachePool, injected: Pod, *, dry_run: bool) -> bool:
        """Whether the pod may keep its sidecar; takes the trial of a half-open breaker for it."""
        injection = pool.status.injection
        if injection is None or injection.state != "Probing":
            return True
        if injection.revision != (injected["metadata"].get("labels") or {}).get(names.REVISION_LABEL):
            return True  # what was learnt concerns sidecars of another revision
        if self._given.get(pool.metadata.uid) == injection.since:
            return False
        if not dry_run:
            self._given[pool.metadata.uid] = injection.since
        return True
