"""Every command of the runbooks runs as it is written, against a pool that serves."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from dev.cluster.installation import Installation
from dev.cluster.settings import Settings
from tests.e2e.kit.engine import Engine
from tests.e2e.kit.kube import Kube
from tests.e2e.kit.manifests import make_engine, make_namespace, make_pool

pytestmark = pytest.mark.cluster

PAGES = sorted((Path(__file__).resolve().parents[2] / "docs" / "runbooks").glob("Spillway*.md"))
# The tests' cluster has neither a metrics-server nor the Prometheus Operator.
NOT_SERVED_HERE = re.compile(r"\btop pods?\b|\bpodmonitors\b")
# Whose labels `namespace` and `pod` are the operator's.
OF_THE_OPERATOR = "SpillwayOperatorLoopStalls"
REFUSED = re.compile(r"(?im)^error|error from server|unable to|not found|syntax error|parse error")


@pytest.fixture(scope="module")
def namespace_name() -> str:
    return "e2e-runbooks"


@pytest.fixture(scope="module")
def alerted(kube: Kube, host_path: Path, clean_namespace: str) -> dict[str, str]:
    """What an alert's labels say: a pod that serves."""
    kube.apply(make_namespace(clean_namespace), make_pool(clean_namespace, host_path=str(host_path)))
    kube.apply(*make_engine(clean_namespace))
    engine = Engine(kube, clean_namespace)
    engine.wait_ready()
    (pod,) = kube.items("v1", "Pod", clean_namespace, label_selector="spillway.dev/pool")
    return {
        "NAMESPACE": clean_namespace,
        "POD": pod["metadata"]["name"],
        "POOL": pod["metadata"]["labels"]["spillway.dev/pool"],
    }


@pytest.fixture(scope="module")
def operator(kube: Kube) -> dict[str, str]:
    (pod, *_) = kube.items(
        "v1", "Pod", "spillway-system", label_selector="app.kubernetes.io/component=operator",
        field_selector="status.phase=Running",
    )  # fmt: skip
    return {"NAMESPACE": "spillway-system", "POD": pod["metadata"]["name"], "POOL": ""}


def commands_of(page: Path) -> list[str]:
    return [
        line for block in re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL) for line in block.splitlines()
    ]


@pytest.mark.parametrize("page", PAGES, ids=[page.stem for page in PAGES])
def test_commands_of_a_runbook_run_as_written(
    page: Path, alerted: dict[str, str], operator: dict[str, str], installation: Installation, kubeconfig: str
) -> None:
    labels = operator if page.stem == OF_THE_OPERATOR else alerted
    installation.kubectl()  # linked under its plain name
    path = f"{Settings.from_environment().tools}:{os.environ['PATH']}"
    environment = {**os.environ, **labels, "KUBECONFIG": kubeconfig, "PATH": path}
    assigned = ""
    for command in commands_of(page):
        if NOT_SERVED_HERE.search(command):
            continue
        script = f"set -u\n{assigned}{command}"
        ran = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, timeout=60)
        assert not REFUSED.search(ran.stderr), f"{command}\n{ran.stderr}"
        # A grep of a healthy log finds nothing; figures are always there.
        assert "get --raw" not in command or ran.stdout, command
        if re.match(r"[A-Z]+=", command):
            assigned += f"{command}\n"
