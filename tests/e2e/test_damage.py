"""Damaged chunks are found before they are served, recomputed, and counted. And the oracle that says so is sensitive."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.kit.disk import StoredChunk, damage_header, damage_payload, find_chunks, put_other_chunk
from tests.e2e.kit.engine import Answer, Engine, make_prompts, total
from tests.e2e.kit.kube import Kube
from tests.e2e.kit.manifests import make_engine, make_namespace, make_pool
from tests.e2e.kit.oracle import assert_swapped_chunks_are_noticed
from tests.e2e.kit.transcript import Transcript
from tests.e2e.kit.waiting import wait_for

pytestmark = pytest.mark.cluster

CHUNKS = 5
PROMPTS = make_prompts(5, CHUNKS * 256 + 40, seed=3)


@pytest.fixture(scope="module")
def namespace_name() -> str:
    return "e2e-damage"


class Stored:
    """The engine whose prompts lie on NVMe, prompt by prompt."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.engine = engine
        self.cold: list[Answer] = []
        self.chunks: list[list[StoredChunk]] = []
        self.folder = folder

    @property
    def store(self) -> Path:
        stores = list(self.folder.rglob("chunks"))
        assert len(stores) == 1, f"expected one store below {self.folder}, found {stores}"
        return stores[0]

    def fill(self) -> None:
        for number, prompt in enumerate(PROMPTS, start=1):
            self.cold.append(self.engine.ask(prompt))
            self.engine.wait_durable(number * CHUNKS)
            os.sync()
            known = {chunk.key for chunks in self.chunks for chunk in chunks}
            self.chunks.append([chunk for chunk in find_chunks(self.store) if chunk.key not in known])
            assert len(self.chunks[-1]) == CHUNKS


@pytest.fixture(scope="module")
def stored(kube: Kube, host_path: Path, clean_namespace: str) -> Stored:
    kube.apply(make_namespace(clean_namespace), make_pool(clean_namespace, host_path=str(host_path)))
    kube.apply(*make_engine(clean_namespace))
    engine = Engine(kube, clean_namespace)
    engine.wait_ready()
    stored = Stored(engine, host_path)
    stored.fill()
    return stored


def test_damaged_chunks_are_recomputed_and_counted(stored: Stored, transcript: Transcript) -> None:
    damages: list[tuple[str, Callable[[Path, StoredChunk], None]]] = [
        ("payload", damage_payload),
        ("header", damage_header),
        ("another chunk's slot", lambda s, c: put_other_chunk(s, c, stored.chunks[4][0], forge_position=False)),
        ("another chunk's slot, forged", lambda s, c: put_other_chunk(s, c, stored.chunks[4][1], forge_position=True)),
    ]
    stored.engine.delete_pod()  # an empty arena: every answer below has to come from the disk
    wait_for(
        "the successor to have scanned its disk",
        lambda: total(stored.engine.sidecar_metrics(), "spillway_tier_chunks", "tier=nvme") >= len(PROMPTS) * CHUNKS,
        60,
    )
    for number, (what, damage) in enumerate(damages):
        victim = stored.chunks[number][CHUNKS // 2]
        before = total(stored.engine.sidecar_metrics(), "spillway_quarantined_chunks_total")
        damage(stored.store, victim)
        answer = stored.engine.ask(PROMPTS[number])
        assert answer.same_as(stored.cold[number]), f"after damage to the {what}"
        after = total(stored.engine.sidecar_metrics(), "spillway_quarantined_chunks_total")
        assert after - before == 1, f"damage to the {what}"
    assert stored.engine.ask(PROMPTS[4]).same_as(stored.cold[4])
    assert stored.engine.external_tokens() >= CHUNKS * 256, "what is whole is still used"
    assert total(stored.engine.sidecar_metrics(), "spillway_quarantined_chunks_total") == len(damages)
    transcript.check("08-chunks-damaged", stored.engine.namespace)


def test_oracle_notices_swapped_chunks(stored: Stored, kube: Kube, swapping_sidecar_image: str) -> None:
    assert_swapped_chunks_are_noticed(kube, stored.engine, PROMPTS, stored.cold, swapping_sidecar_image)
