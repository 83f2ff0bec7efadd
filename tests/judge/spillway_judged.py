"""A pytest plugin: vLLM's own tests of its offloading connector, run on ours.

Where a test makes vLLM's connector, scheduler or worker half, it gets Spillway's. The test's own mock manager and worker stay in place, so
what is judged is everything between vLLM and those: the hooks, the guard, the accounts of jobs and reports. What the connector would
swallow for the engine's sake is raised here, and no engine is refused.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from typing import Any

import pytest
from vllm.distributed.kv_transfer.kv_connector.factory import KVConnectorFactory
from vllm.distributed.kv_transfer.kv_connector.v1 import offloading_connector
from vllm.distributed.kv_transfer.kv_connector.v1.offloading import scheduler as vllm_scheduler
from vllm.distributed.kv_transfer.kv_connector.v1.offloading import worker as vllm_worker
from vllm.distributed.kv_transfer.kv_connector.v1.offloading.config import build_offloading_config
from vllm.v1.kv_offload.base import OffloadingSpec
from vllm.v1.kv_offload.factory import OffloadingSpecFactory

os.environ["SPILLWAY_ROOT"] = tempfile.mkdtemp(prefix="spillway-judge-")
os.environ["SPILLWAY_CONFIG"] = json.dumps({"pool": {"namespace": "judge", "name": "judge", "uid": "0"}})

from spillway.adapters.vllm import rank_side, scheduler_side, setup
from spillway.adapters.vllm.connector import SpillwayConnector
from spillway.adapters.vllm.ranks import JobReports, SpillwayRank
from spillway.adapters.vllm.scheduler import SpillwayScheduler
from spillway.adapters.vllm.slots import SlotSpec
from spillway.client import Gate, Link, Session

# What a test needs of us that we do not promise, and why. Name of the test without parameters: reason.
NOT_APPLICABLE: dict[str, str] = {}


def make_session() -> Session:
    link = Link(os.environ["SPILLWAY_ROOT"], bytes(16), 1, 1)
    return Session(link, Gate(1), io_deadline_seconds=1.0)


MADE: Counter[str] = Counter()


class JudgedScheduler(SpillwayScheduler):
    """Made as vLLM's is; some tests make it without `__init__`, for one method."""

    def __init__(self, spec: Any, vllm_config: Any, kv_cache_config: Any, session: Session | None = None) -> None:
        MADE["schedulers"] += 1
        super().__init__(spec, vllm_config, kv_cache_config, session or make_session())


class JudgedRank(SpillwayRank):
    def __init__(self, spec: Any, vllm_config: Any, kv_cache_config: Any, reports: JobReports | None = None) -> None:
        MADE["ranks"] += 1
        super().__init__(spec, vllm_config, kv_cache_config, reports or JobReports(0, lambda _ticket: None))

    def collect(self) -> None:
        if self.worker is not None and not hasattr(self.worker, "take_changed"):
            self.worker.take_changed = lambda: False  # vLLM's mock worker looks at no weights
        super().collect()


class JudgedSchedulerSide(scheduler_side.SchedulerSide):
    def __init__(self, made: setup.Setup) -> None:
        super().__init__(made)
        self.scheduler = JudgedScheduler(mock_spec(made), made.vllm_config, made.kv_cache_config, self.session)

    def _places(self, spec: Any) -> list[tuple[int, int]]:
        return super()._places(spec) if isinstance(spec, SlotSpec) else []


class JudgedRankSide(rank_side.RankSide):
    def __init__(self, made: setup.Setup) -> None:
        super().__init__(made)
        self.rank = JudgedRank(mock_spec(made), made.vllm_config, made.kv_cache_config, self.reports)


def mock_spec(made: setup.Setup) -> OffloadingSpec:
    return OffloadingSpecFactory.create_spec(made.config)


class JudgedConnector(SpillwayConnector):
    def __init__(self, vllm_config: Any, role: Any, kv_cache_config: Any) -> None:
        MADE["connectors"] += 1
        super().__init__(vllm_config, role, kv_cache_config)

    def _go_inert(self, problem: str, error: Exception | None = None) -> None:
        raise error or AssertionError(problem)

    def _turn_plain(self, request_id: str, error: Exception) -> None:
        raise error


def take_place() -> None:
    setup.prepare_config = build_offloading_config
    setup.incarnation_of = lambda _config: bytes(16)
    for module, name, ours in [
        (offloading_connector, "OffloadingConnector", JudgedConnector),
        (vllm_scheduler, "OffloadingConnectorScheduler", JudgedScheduler),
        (vllm_worker, "OffloadingConnectorWorker", JudgedRank),
    ]:
        setattr(module, name, ours)
    from spillway.adapters.vllm import connector

    connector.SchedulerSide = JudgedSchedulerSide
    connector.RankSide = JudgedRankSide
    KVConnectorFactory._registry["OffloadingConnector"] = lambda: JudgedConnector


take_place()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        reason = NOT_APPLICABLE.get(item.name.split("[")[0])
        if reason is not None:
            item.add_marker(pytest.mark.skip(reason=f"not applicable: {reason}"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """A run in which nothing of ours took part has judged nothing."""
    made = ", ".join(f"{count} {what}" for what, count in sorted(MADE.items()))
    terminalreporter.write_line(f"of Spillway's took part: {made or 'nothing'}")
