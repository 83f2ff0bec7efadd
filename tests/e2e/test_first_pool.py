"""The whole way: an unmodified vLLM pod answers from chunks that its previous lives left in DRAM and on NVMe.

The tests of this file are one story and run in order; each leaves the engine as the next one finds it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.e2e.kit.engine import Answer, Engine, make_prompts, total
from tests.e2e.kit.kube import Kube
from tests.e2e.kit.manifests import make_engine, make_namespace, make_pool
from tests.e2e.kit.oracle import assert_swapped_chunks_are_noticed
from tests.e2e.kit.transcript import Transcript
from tests.e2e.kit.waiting import wait_for

pytestmark = pytest.mark.cluster

PROMPT_TOKENS = 1600
CHUNK_TOKENS = 256  # 1 MiB of KV of tiny-llama in float32
CHUNKS = PROMPT_TOKENS // CHUNK_TOKENS
PROMPTS = make_prompts(4, PROMPT_TOKENS, seed=1)
NAMESPACE = "e2e-first-pool"


TOKEN_PATH = "/var/run/secrets/kubernetes.io/serviceaccount"


@dataclass
class Story:
    """What the earlier tests saw."""

    engine: Engine
    cold: list[Answer] = field(default_factory=list)
    pod_uids: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def story(kube: Kube, host_path: Path, clean_namespace: str, transcript: Transcript) -> Story:
    kube.apply(make_namespace(clean_namespace), make_pool(clean_namespace, host_path=str(host_path)))
    transcript.check("01-pool-without-pods", clean_namespace)
    kube.apply(*make_engine(clean_namespace))
    engine = Engine(kube, clean_namespace)
    engine.wait_ready()
    return Story(engine)


@pytest.fixture(scope="module")
def namespace_name() -> str:
    return NAMESPACE


def test_answers_cold_and_writes_every_chunk_to_nvme(story: Story, transcript: Transcript) -> None:
    story.cold = story.engine.ask_all(PROMPTS)
    assert story.engine.external_tokens() == 0
    story.engine.wait_durable(len(PROMPTS) * CHUNKS)
    story.pod_uids.append(story.engine.pod()["metadata"]["uid"])
    transcript.check("02-chunks-on-nvme", story.engine.namespace)


def test_restarted_engine_answers_from_dram(story: Story, transcript: Transcript) -> None:
    read_before = total(story.engine.sidecar_metrics(), "spillway_hop_bytes_total", "hop=nvme_to_arena")
    story.engine.restart_engine()
    again = story.engine.ask_all(PROMPTS)
    assert all(a.same_as(b) for a, b in zip(story.cold, again, strict=True))
    assert story.engine.external_tokens() >= len(PROMPTS) * CHUNKS * CHUNK_TOKENS
    samples = story.engine.sidecar_metrics()
    assert total(samples, "spillway_hop_bytes_total", "hop=nvme_to_arena") == read_before
    assert story.engine.pod()["metadata"]["uid"] == story.pod_uids[0]
    transcript.check("03-engine-restarted", story.engine.namespace)


def test_our_containers_hold_no_token_of_the_pods_account(story: Story, kube: Kube) -> None:
    pod = story.engine.pod()
    spec = pod["spec"]
    mounts = {c["name"]: c["volumeMounts"] for c in [*spec["initContainers"], *spec["containers"]]}
    at_the_token = {
        name: [mount["name"] for mount in found if mount["mountPath"] == TOKEN_PATH] for name, found in mounts.items()
    }
    assert at_the_token.pop("server")[0].startswith("kube-api-access")
    assert at_the_token == {name: ["spillway-no-token"] for name in at_the_token}
    assert {"spillway", "spillway-client", "spillway-disk"} <= at_the_token.keys()
    assert kube.run(story.engine.namespace, pod["metadata"]["name"], "spillway", "ls", "-A", TOKEN_PATH) == ""


def test_status_tells_the_tiers(story: Story, kube: Kube) -> None:
    def tiers() -> dict[str, dict[str, object]] | None:
        seen = {tier["name"]: tier for tier in kube.pool(story.engine.namespace)["status"].get("tiers", [])}
        return seen if {"dram", "nvme"} <= set(seen) and seen["nvme"].get("chunks") else None

    seen = wait_for("the pool's status to tell both tiers", tiers, 90)
    assert seen["dram"]["capacity"] == "512Mi"
    for kind in ("Ready", "ConfigValid", "StorageProvisioned", "InjectionReady"):
        condition = wait_for(
            f"condition {kind} to be True",
            lambda kind=kind: (
                c if (c := kube.condition(story.engine.namespace, kind)) and c["status"] == "True" else None
            ),
            60,
        )
        assert condition["reason"] and condition["observedGeneration"] == 1
    counts = kube.pool(story.engine.namespace)["status"]["pods"]
    assert (counts["labelled"], counts["injected"], counts["ready"], counts["skipped"]) == (1, 1, 1, 0)


def test_successor_pod_answers_from_nvme(story: Story, host_path: Path, transcript: Transcript) -> None:
    story.engine.delete_pod()
    drop_page_cache(host_path)
    pod = story.engine.pod()
    assert pod["metadata"]["uid"] != story.pod_uids[0]
    before = story.engine.sidecar_metrics()
    assert total(before, "spillway_tier_chunks", "tier=dram") == 0, "a new pod has a new, empty arena"
    assert total(before, "spillway_direct_io") == 1, "O_DIRECT must have been proved in this run"

    again = story.engine.ask_all(PROMPTS)

    assert all(a.same_as(b) for a, b in zip(story.cold, again, strict=True))
    reused = story.engine.external_tokens()
    assert reused >= len(PROMPTS) * CHUNKS * CHUNK_TOKENS
    after = story.engine.sidecar_metrics()
    bytes_per_token = 2**20 // CHUNK_TOKENS
    read = total(after, "spillway_hop_bytes_total", "hop=nvme_to_arena")
    assert read >= reused * bytes_per_token, "from NVMe must mean from NVMe"
    assert total(after, "spillway_quarantined_chunks_total") == 0
    transcript.check("04-pod-replaced", story.engine.namespace)


def test_hit_tells_that_the_prompts_came_from_nvme(story: Story, kube: Kube) -> None:
    def from_nvme() -> bool:
        hit = kube.pool(story.engine.namespace)["status"].get("hit") or {}
        assert float(hit.get("ratio", 0)) >= 0.9 and float(hit.get("nvme", 0)) >= 0.5, f"status.hit is {hit}"
        return True

    wait_for("the pool to say that NVMe served what was looked up", from_nvme, 90)
    samples = story.engine.sidecar_metrics()
    assert total(samples, "spillway_loaded_tokens_total") == story.engine.external_tokens()


def test_oracle_notices_swapped_chunks(story: Story, kube: Kube, swapping_sidecar_image: str) -> None:
    assert_swapped_chunks_are_noticed(kube, story.engine, PROMPTS, story.cold, swapping_sidecar_image)


def test_deleted_pool_waits_for_its_pod_and_then_cleans_its_disk(
    story: Story, kube: Kube, host_path: Path, transcript: Transcript
) -> None:
    engine = story.engine
    assert list(host_path.rglob("chunks")), "the pool's data lies on the disk before"

    def told() -> bool:
        status = kube.pool(engine.namespace)["status"]
        tiers = status.get("tiers", [])
        return len(tiers) == 2 and all(tier.get("chunks") for tier in tiers) and bool(status.get("hit"))

    wait_for("the status to tell of the new pod; it stays as it is from the deletion on", told, 90)
    kube.delete("spillway.dev/v1alpha1", "KVCachePool", "chat", engine.namespace)

    def waits() -> bool:
        seen = kube.condition(engine.namespace, "Progressing")
        return (
            seen is not None and seen["reason"] == "DiskInUse" and engine.pod()["metadata"]["name"] in seen["message"]
        )

    wait_for("the pool to name the pod that it waits for", waits, 60)
    assert len(engine.ask(PROMPTS[0]).tokens) == 16, "nobody takes a pod's tiers away under it"
    assert list(host_path.rglob("chunks"))
    transcript.check("18-pool-deleted-while-a-pod-runs", engine.namespace)
    kube.scale(engine.namespace, engine.name, 0)
    wait_for(
        "the pool to be gone",
        lambda: kube.get("spillway.dev/v1alpha1", "KVCachePool", "chat", engine.namespace) is None,
        120,
    )
    assert not list(host_path.rglob("chunks"))


def drop_page_cache(folder: Path) -> None:
    """Forget cached pages of every file below `folder`, so that a later read comes from the device."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)
