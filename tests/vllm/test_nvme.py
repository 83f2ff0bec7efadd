"""NVMe through a real engine: a new pod with the same disk loads what the last one stored; what was damaged is recomputed."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.vllm.kit import MIB, Engine, Pod, prompt, wait_for

SEEDS = (1, 2, 3)
CHUNKS = 3 * len(SEEDS)


class Before(NamedTuple):
    """The disk that a pod left behind, and what its engine had said without any cache."""

    disk: Path
    cold_tokens: dict[int, list[int]]


def make_second_pod(make_pod: Callable[..., Pod], disk: Path) -> Pod:
    """A pod whose arena and index are new, on a copy of that disk."""
    pod = make_pod(nvme_mib=128)
    shutil.rmtree(pod.root / "nvme")
    shutil.copytree(disk, pod.root / "nvme")
    pod.start_daemon()
    return pod


@pytest.fixture(scope="module")
def before(make_pod: Callable[..., Pod], make_engine: Callable[..., Engine]) -> Before:
    pod = make_pod(nvme_mib=128)
    pod.start_daemon()
    engine = make_engine(pod)
    engine.warm_up()
    cold = {seed: engine.ask("generate", prompt=prompt(seed))["tokens"] for seed in SEEDS}
    wait_for("every chunk to be on NVMe", lambda: pod.chunks()[1] >= CHUNKS)
    engine.close()
    pod.kill_daemon(signal.SIGTERM)
    return Before(pod.root / "nvme", cold)


def test_new_pod_loads_from_the_disk_of_the_last(
    before: Before, make_pod: Callable[..., Pod], make_engine: Callable[..., Engine]
) -> None:
    pod = make_second_pod(make_pod, before.disk)
    wait_for("the disk to be adopted", lambda: pod.chunks() == (0, CHUNKS))
    engine = make_engine(pod)
    engine.warm_up()
    for seed in SEEDS:
        assert engine.ask("generate", prompt=prompt(seed))["tokens"] == before.cold_tokens[seed]
    assert engine.external_tokens() == 768 * len(SEEDS)
    assert engine.cached_tokens("disk") in (None, 768 * len(SEEDS))
    counters = engine.ask("facts")["counters"]
    assert counters["loaded_nvme_tokens"] == counters["looked_up_tokens"] == 768 * len(SEEDS)
    assert counters["loaded_dram_tokens"] == counters["loaded_other_tokens"] == 0
    engine.close()
    pod.close()


def test_damaged_chunks_are_recomputed_and_counted(
    before: Before, make_pod: Callable[..., Pod], make_engine: Callable[..., Engine]
) -> None:
    pod = make_second_pod(make_pod, before.disk)
    wait_for("the disk to be adopted", lambda: pod.chunks() == (0, CHUNKS))
    pod.kill_daemon()
    damage_exponents(pod.root / "nvme")
    pod.start_daemon()
    wait_for("the successor to know the chunks", lambda: pod.chunks()[1] == CHUNKS)
    engine = make_engine(pod)
    engine.warm_up()
    for seed in SEEDS:
        assert engine.ask("generate", prompt=prompt(seed))["tokens"] == before.cold_tokens[seed]
    assert engine.external_tokens() == 0
    counters = engine.ask("facts")["counters"]
    assert (counters["looked_up_tokens"], counters["loaded_nvme_tokens"]) == (768 * len(SEEDS), 0)
    wait_for(
        "the damage to be counted",
        lambda: pod.metric("spillway_quarantined_chunks_total", 'reason="corrupt_payload"') >= len(SEEDS),
    )


def damage_exponents(folder: Path) -> None:
    """Flip an exponent bit of every 16th float32 of every payload: same sizes, no error but garbage if it were loaded."""
    (store,) = folder.glob("**/chunks")
    data = bytearray(store.read_bytes())
    at = data.find(b"SPWCHNK1")
    damaged = 0
    while at >= 0:
        length = int.from_bytes(data[at + 16 : at + 24], "little")
        payload = at + 4096
        assert length <= 64 * MIB
        for word in range(payload + 3, payload + length, 64):
            data[word] ^= 0x20
        damaged += 1
        at = data.find(b"SPWCHNK1", payload + length)
    assert damaged >= CHUNKS
    store.write_bytes(data)
