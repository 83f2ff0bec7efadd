"""An engine in a process of its own: attaches, leases, maybe pins, says what it has on stdout, then waits to be killed.

usage: python -m tests.unit.core.engine_process <root> <incarnation hex> <scheduler|rank0|both> <leases> <key hex or ->
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from spillway import _core

from .pod import FINGERPRINT, slots_of


def main(root: str, incarnation: str, roles: str, leases: int, key: str) -> None:
    held = []
    if roles != "scheduler":
        rank = _core.Attachment(root, bytes.fromhex(incarnation), 1, 1, 0)
        rank.declare_slices([100_000])
        held.append(rank)
    said: dict[str, object] = {}
    if roles != "rank0":
        scheduler = _core.Attachment(root, bytes.fromhex(incarnation), 1, 1, -1)
        held.append(scheduler)
        end = time.monotonic() + 10
        while not (scheduler.try_map() and scheduler.geometry() and scheduler.granted(0) >= leases):
            assert time.monotonic() < end, "waited 10 s for grants"
            time.sleep(0.005)
        scheduler.set_fingerprint(FINGERPRINT)
        said["leases"] = slots_of(scheduler.lease(0, leases))
        if key != "-":
            scheduler.lookup(bytes.fromhex(key))
            said["ticket"] = scheduler.take_ticket(bytes.fromhex(key)) is not None
            scheduler.end_step()
    print(json.dumps(said), flush=True)
    assert Path(root).is_dir()
    time.sleep(120)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5])
