"""What an engine is told when it and its sidecar are too far apart; what works is tested in the core (`tests/abi.rs`)."""

from __future__ import annotations

import os
from pathlib import Path

from spillway import _core
from spillway.client import Link, RankLink

from tests.unit.core.pod import Pod


def write_words(path: Path, places: dict[int, int]) -> None:
    with path.open("r+b") as file:
        for offset, word in places.items():
            file.seek(offset)
            file.write(word.to_bytes(4, "little"))


def test_engine_that_the_sidecar_refuses_for_its_age_is_told_what_to_do(pod: Pod) -> None:
    incarnation = os.urandom(16)
    link = Link(str(pod.root), incarnation, 1, 1)
    assert link.attachment() is None
    # As a client would say that is two versions ahead: oldest ABI of a sidecar, own ABI.
    write_words(pod.root / f"run/ctl-{incarnation.hex()}", {8: _core.ABI + 1, 52: _core.ABI + 2})
    pod.until("the refusal", lambda: link.attachment() is None and link.problem)
    assert link.problem is not None and "more than one version apart; recreate the pod" in link.problem
    link.close()


def test_engine_that_may_not_use_the_index_is_told_what_to_do(pod: Pod) -> None:
    write_words(pod.root / "index/index", {8: _core.ABI + 1, 152: _core.ABI + 2})
    incarnation = os.urandom(16)
    link, rank = Link(str(pod.root), incarnation, 1, 1), RankLink(str(pod.root), incarnation, 1, 0, [100_000])
    pod.until("the geometry", rank.poll)
    pod.until("the refusal", lambda: link.attachment() is None and link.problem)
    says = f"ABI {_core.ABI + 2}, this build works with {_core.OLDEST_ABI} to {_core.ABI}"
    assert link.problem is not None and says in link.problem
    link.close()
    rank.close()
