"""The sidecar dies, is replaced, loses its disk: the engine goes on and the arena's chunks still hit."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.e2e.kit.engine import Engine, make_prompts, total
from tests.e2e.kit.kube import Kube
from tests.e2e.kit.load import Load
from tests.e2e.kit.manifests import make_engine, make_namespace, make_pool
from tests.e2e.kit.transcript import Transcript
from tests.e2e.kit.waiting import wait_for

pytestmark = pytest.mark.cluster

PROMPTS = make_prompts(4, 1100, seed=2)
REUSED_PER_PROMPT = 1024


@pytest.fixture(scope="module")
def namespace_name() -> str:
    return "e2e-sidecar-faults"


@pytest.fixture(scope="module")
def engine(kube: Kube, host_path: Path, clean_namespace: str) -> Engine:
    # A device cache of 96 blocks (3,072 tokens) cannot hold four prompts: what is asked again comes from outside.
    kube.apply(make_namespace(clean_namespace), make_pool(clean_namespace, host_path=str(host_path)))
    kube.apply(*make_engine(clean_namespace, blocks=96, max_model_len=2048))
    engine = Engine(kube, clean_namespace)
    engine.wait_ready()
    engine.ask_all(PROMPTS, max_tokens=2)
    engine.wait_durable(len(PROMPTS) * 4)
    return engine


def external_tokens_of_one_round(engine: Engine) -> float:
    """Asked in turn, the prompts push each other out of the device's own cache, once a round has put them in that order."""
    engine.ask_all(PROMPTS, max_tokens=2)
    before = engine.external_tokens()
    engine.ask_all(PROMPTS, max_tokens=2)
    return engine.external_tokens() - before


def ready_changes(engine: Engine, seconds: float) -> list[tuple[float, bool]]:
    """The pod's readiness as (seconds since the start, ready) at each change within `seconds`."""
    changes: list[tuple[float, bool]] = []
    started = time.monotonic()
    while (elapsed := time.monotonic() - started) < seconds:
        conditions = {c["type"]: c["status"] for c in engine.pod()["status"].get("conditions", [])}
        ready = conditions.get("Ready") == "True"
        if not changes or changes[-1][1] != ready:
            changes.append((elapsed, ready))
    return changes


def test_daemon_killed_under_load_fails_no_request(engine: Engine, transcript: Transcript) -> None:
    container_restarts = engine.restarts("spillway")
    restarts_before = total(engine.sidecar_metrics(), "spillway_daemon_restarts")
    with Load(engine.service_url(), PROMPTS) as load:
        wait_for("the load to be answered", lambda: load.answered >= 10, 60)
        engine.kill_daemon()
        killed_at = load.answered
        changes = ready_changes(engine, seconds=6)
        # Whatever else the machine does, requests met the daemon's absence and went on after it.
        wait_for("requests after the kill to be answered", lambda: load.answered >= killed_at + 20, 120)
    rate = load.answered / load.seconds
    print(
        f"daemon killed under load: {load.answered} answered, {len(load.failures)} failed, {rate:.1f}/s; ready: {changes}"
    )
    assert load.failures == []
    assert [ready for _, ready in changes] == [True], "a daemon crash must not touch readiness"
    assert engine.restarts("server") == 0
    assert engine.restarts("spillway") == container_restarts
    wait_for(
        "the supervisor to have started a successor",
        lambda: total(engine.sidecar_metrics(), "spillway_daemon_restarts") == restarts_before + 1,
        15,
    )
    assert external_tokens_of_one_round(engine) >= len(PROMPTS) * REUSED_PER_PROMPT * 0.5, "hits must resume"
    transcript.check("05-daemon-killed", engine.namespace)


def test_daemon_that_stands_still_is_replaced_and_no_request_fails(engine: Engine) -> None:
    stalled = "cause=stalled"
    before = total(engine.sidecar_metrics(), "spillway_daemon_restarts", stalled)
    container_restarts = engine.restarts("spillway")
    with Load(engine.service_url(), PROMPTS) as load:
        wait_for("the load to be answered", lambda: load.answered >= 10, 60)
        engine.kill_daemon("SIGSTOP")
        # Ten seconds of standing still, a few looks of the supervisor, a start.
        wait_for(
            "a successor",
            lambda: total(engine.sidecar_metrics(), "spillway_daemon_restarts", stalled) == before + 1,
            60,
        )
    assert load.failures == []
    assert engine.restarts("spillway") == container_restarts
    assert external_tokens_of_one_round(engine) >= len(PROMPTS) * REUSED_PER_PROMPT * 0.5, "hits must resume"


def test_sidecar_container_killed_once_keeps_engine_and_arena(engine: Engine, transcript: Transcript) -> None:
    before = engine.restarts("spillway")
    # PID 1 ignores a signal it has no handler for, so the supervisor is asked to end through the one it has.
    engine.run("spillway", "python3", "-c", "import os, signal; os.kill(1, signal.SIGTERM)")
    changes = ready_changes(engine, seconds=8)
    wait_for("the sidecar's container to be restarted", lambda: engine.restarts("spillway") == before + 1, 60)
    engine.wait_ready(60)
    down = [at for at, ready in changes if not ready]
    up = [at for at, ready in changes if ready and down and at > down[0]]
    window = f"{up[0] - down[0]:.1f} s" if down and up else "not seen" if not down else "longer than watched"
    print(f"sidecar container ended once: NotReady window {window}")
    assert engine.restarts("server") == 0
    assert external_tokens_of_one_round(engine) >= len(PROMPTS) * REUSED_PER_PROMPT * 0.5
    transcript.check("06-sidecar-container-restarted", engine.namespace)


def test_image_patched_in_place_keeps_engine_and_arena(
    engine: Engine, kube: Kube, second_sidecar_image: str, transcript: Transcript
) -> None:
    pod = engine.pod()
    index = next(i for i, c in enumerate(pod["spec"]["initContainers"]) if c["name"] == "spillway")
    patch = [{"op": "replace", "path": f"/spec/initContainers/{index}/image", "value": second_sidecar_image}]
    started = time.monotonic()
    kube.patch("v1", "Pod", pod["metadata"]["name"], engine.namespace, patch, json_patch=True)

    before = engine.restarts("spillway")

    def replaced() -> bool:
        status = next(c for c in engine.pod()["status"]["initContainerStatuses"] if c["name"] == "spillway")
        return status["restartCount"] > before and status["ready"] and status["image"] == second_sidecar_image

    wait_for("the sidecar to run the second image", replaced, 60)
    engine.wait_ready(60)
    print(f"sidecar image patched in place: the new one ready after {time.monotonic() - started:.1f} s")
    assert engine.restarts("server") == 0
    assert external_tokens_of_one_round(engine) >= len(PROMPTS) * REUSED_PER_PROMPT * 0.5
    transcript.check("07-sidecar-image-patched", engine.namespace)
