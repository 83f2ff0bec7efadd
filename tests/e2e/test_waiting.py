"""An expired wait for a pod tells what keeps it: phase, conditions and the last Event."""

from __future__ import annotations

import pytest

from tests.e2e.kit.engine import Engine
from tests.e2e.kit.kube import Kube
from tests.e2e.kit.manifests import make_engine, make_namespace
from tests.e2e.kit.waiting import wait_for

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def namespace_name() -> str:
    return "e2e-waiting"


def test_a_pod_that_no_node_takes_is_told_with_the_schedulers_words(kube: Kube, clean_namespace: str) -> None:
    deployment, service = make_engine(clean_namespace, pool=None)
    deployment["spec"]["template"]["spec"]["nodeSelector"] = {"no-such": "node"}
    kube.apply(make_namespace(clean_namespace), deployment, service)
    engine = Engine(kube, clean_namespace)
    wait_for("the scheduler's Event", lambda: "FailedScheduling" in kube.describe(engine.pod()), 30)
    with pytest.raises(AssertionError) as expired:
        wait_for("the sidecar's metrics", engine.sidecar_metrics, 0)
    for part in (
        "waited 0 s for the sidecar's metrics",
        '"phase": "Pending"',
        "Unschedulable",
        "Warning FailedScheduling",
    ):
        assert part in str(expired.value)
