"""Pods and engines that end with their test; engines that several tests of a module share end with the module."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.vllm.kit import ENVIRONMENT, Engine, Nursery, Pod, make_client_folder

pytestmark = pytest.mark.engine


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.engine)


@pytest.fixture(scope="session")
def client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not (ENVIRONMENT / "stamp").exists():
        pytest.fail(f"{ENVIRONMENT} is missing; run tests/vllm/setup.sh", pytrace=False)
    return make_client_folder(tmp_path_factory.mktemp("client"))


@pytest.fixture(scope="module")
def make_pod(client: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Pod]]:
    pods: list[Pod] = []

    def make(root: Path | None = None, **options: Any) -> Pod:
        pods.append(Pod(root or tmp_path_factory.mktemp("pod"), client, **options))
        return pods[-1]

    yield make
    for pod in pods:
        pod.close()


@pytest.fixture(scope="session")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    nursery = Nursery(tmp_path_factory.mktemp("nursery") / "log")
    yield nursery
    nursery.close()


@pytest.fixture(scope="module")
def make_engine(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Engine]]:
    engines: list[Engine] = []
    folder = tmp_path_factory.mktemp("engines")

    def make(pod: Pod, **options: Any) -> Engine:
        engines.append(Engine(pod, log=folder / f"engine-{len(engines)}.log", nursery=nursery, **options))
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()
