"""What cannot work is said in a condition with a message, and inference serves."""

from __future__ import annotations

from pathlib import Path

import pytest
from kubernetes.client.exceptions import ApiException

from tests.e2e.kit.engine import Engine, make_prompts, total
from tests.e2e.kit.host_path import NOT_PREPARED
from tests.e2e.kit.kube import Kube, Manifest
from tests.e2e.kit.manifests import make_engine, make_namespace, make_pool
from tests.e2e.kit.transcript import Transcript
from tests.e2e.kit.waiting import wait_for

pytestmark = pytest.mark.cluster

PROMPT, *OTHERS = make_prompts(4, 600, seed=5)
# Room on the device for two of the prompts, so that a third sends the first away.
SMALL = {"blocks": 40, "max_model_len": 1024}


@pytest.fixture(scope="module")
def namespace_name() -> str:
    return "e2e-conditions"


@pytest.fixture(scope="module")
def namespace(kube: Kube, clean_namespace: str, host_path: Path) -> str:
    """With all engines of this file on their way: most of an engine's start keeps one core busy."""
    kube.apply(
        make_namespace(clean_namespace),
        make_pool(clean_namespace, name="huge", nvme="100Ti", host_path=str(host_path)),
        make_pool(clean_namespace, name="unwritable", host_path=str(NOT_PREPARED)),
        make_pool(clean_namespace, name="shared", host_path=str(host_path)),
    )
    for name, pool in (("huge", "huge"), ("unwritable", "unwritable"), ("one", "shared")):
        kube.apply(*make_engine(clean_namespace, name=name, pool=pool, **SMALL))
    first = Engine(kube, clean_namespace, "one")
    wait_for(
        "the first pod's sidecar to hold the slot",
        lambda: total(first.sidecar_metrics(), "spillway_direct_io") == 1,
        120,
    )
    kube.apply(*make_engine(clean_namespace, name="two", pool="shared", **SMALL))
    return clean_namespace


def wait_condition(kube: Kube, namespace: str, pool: str, kind: str, status: str, reason: str) -> Manifest:
    def look() -> Manifest | None:
        seen = kube.condition(namespace, kind, pool)
        if seen and seen["status"] == status and reason in f"{seen['reason']} {seen['message']}":
            return seen
        raise AssertionError(seen)

    return wait_for(f"{kind}={status} with {reason} on pool {pool}", look, 120)


def serves_and_hits_in_dram(engine: Engine) -> None:
    """The engine answers, and what left its own cache comes back from the DRAM tier."""
    first = engine.ask(PROMPT)

    def stored() -> bool:
        # An engine that has just come up is cold until its weights are digested, so the first answer may have stored nothing.
        assert engine.ask(PROMPT).same_as(first)
        return total(engine.sidecar_metrics(), "spillway_tier_chunks", "tier=dram") >= 2

    wait_for("the prompt's chunks to be in DRAM", stored, 60)
    engine.ask_all(OTHERS)
    before = engine.external_tokens()
    assert engine.ask(PROMPT).same_as(first)
    assert engine.external_tokens() - before >= 512


def test_capacity_larger_than_the_disk(kube: Kube, namespace: str, transcript: Transcript) -> None:
    engine = Engine(kube, namespace, "huge")
    engine.wait_ready()
    seen = wait_condition(kube, namespace, "huge", "StorageProvisioned", "False", "VolumeTooSmall")
    assert "a store of 100.0 TiB" in seen["message"], "the message names what was asked for"
    serves_and_hits_in_dram(engine)
    transcript.check("11-capacity-larger-than-the-disk", namespace, "huge")
    kube.scale(namespace, "huge", 0)


def test_path_that_nobody_prepared(kube: Kube, namespace: str, transcript: Transcript) -> None:
    engine = Engine(kube, namespace, "unwritable")
    engine.wait_ready()
    wait_condition(kube, namespace, "unwritable", "StorageProvisioned", "False", "NvmeNotWritable")
    serves_and_hits_in_dram(engine)
    transcript.check("12-path-not-writable", namespace, "unwritable")
    kube.scale(namespace, "unwritable", 0)


def test_second_pod_on_one_host_path_slot(kube: Kube, namespace: str, transcript: Transcript) -> None:
    first, second = (Engine(kube, namespace, name) for name in ("one", "two"))
    first.wait_ready()
    second.wait_ready()
    seen = wait_condition(kube, namespace, "shared", "StorageProvisioned", "False", "NoFreeSlot")
    assert second.pod()["metadata"]["name"] in seen["message"], "the message names the pod"
    serves_and_hits_in_dram(second)
    transcript.check("13-second-pod-on-one-slot", namespace, "shared")
    for name in ("one", "two"):
        kube.scale(namespace, name, 0)


@pytest.mark.parametrize(
    ("dram", "nvme", "says"),
    [("0", "1Gi", "dram.capacity must be at least 64Mi"), ("1Gi", "0", "nvme.capacity must not be less than dram")],
)
def test_zero_capacity_is_refused_with_a_message(
    kube: Kube, namespace: str, dram: str, nvme: str, says: str, transcript: Transcript
) -> None:
    pool = make_pool(namespace, name="zero", dram=dram, nvme=nvme)
    with pytest.raises(ApiException) as refused:
        kube.apply(pool)
    assert says in str(refused.value.body)
    transcript.check_refused(f"14-capacity-zero-{'dram' if dram == '0' else 'nvme'}", pool)
