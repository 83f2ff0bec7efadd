"""Every query of every panel gives figures on a real Prometheus that scraped a real sidecar and both registries."""

from __future__ import annotations

import json
import math
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.metrics import MetricWrapperBase
from spillway_operator import metrics as operator_metrics
from spillway_operator.webhook import metrics as webhook_metrics

from dashboards import BOARDS, Board, render
from tests.unit.observability.prometheus_server import PrometheusServer, Target
from tests.unit.observability.rules import ALERTS, CHART, rendered, unknown_metrics
from tests.unit.observability.sidecar import ServedSidecar, wait_for
from tools.metric_catalogue import catalogue

# What Grafana puts in: all clusters, where Prometheus adds no such label, and one pool.
VARIABLES = {
    "$cluster": ".*",
    "$namespace": "team",
    "$pool": "chat",
    "$__rate_interval": "1m",
    "$__range": "1h",
}
NAMES = [board.name for board in BOARDS]
Panel = dict[str, Any]


def board_of(name: str) -> dict[str, Any]:
    board: dict[str, Any] = json.loads((CHART / "dashboards" / f"{name}.json").read_text())
    return board


def panels_of(board: dict[str, Any]) -> list[Panel]:
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def filled(expression: str) -> str:
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    assert "$" not in expression, expression
    return expression


def keep_moving(stop: threading.Event, sidecar: ServedSidecar) -> None:
    """What makes rates and quantiles: chunks stored and loaded, reconciles and reviews counted."""
    number = 1
    while not stop.wait(0.2):
        sidecar.work(number)
        number += 1
        for module in (operator_metrics, webhook_metrics):
            for metric in vars(module).values():
                if isinstance(metric, MetricWrapperBase) and metric._type == "histogram":
                    metric.observe(0.06)  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def prometheus(sidecar: ServedSidecar, registries: dict[str, CollectorRegistry]) -> Iterator[PrometheusServer]:
    """After some seconds of work. No operator leads, so that an alert is pending; one was before and set what a leader sets."""
    operator_metrics.CERTIFICATE_EXPIRY.set(time.time() + 60 * 86400)
    operator_metrics.LEADER.set(0)  # whatever other tests of this process left there
    operator_metrics.LABELLED_PODS.labels("true").set_function(lambda: 3)
    control = {"namespace": "spillway-system"}
    servers = {process: start_http_server(0, "127.0.0.1", registry) for process, registry in registries.items()}
    targets = [Target("sidecar", sidecar.port, {"namespace": "team", "pool": "chat", "pod": "chat-0"})]
    for process, (server, _) in servers.items():
        targets.append(Target(process, server.server_port, {**control, "pod": f"spillway-{process}-0"}))
    stop = threading.Event()
    worker = threading.Thread(target=keep_moving, args=(stop, sidecar))
    with tempfile.TemporaryDirectory() as folder:
        running = PrometheusServer(Path(folder), targets)
        worker.start()
        try:
            running.wait_for_scrapes(len(targets))
            yield running
        finally:
            stop.set()
            worker.join()
            running.end()
            for server, thread in servers.values():
                server.shutdown()
                server.server_close()
                thread.join()


@pytest.mark.parametrize("name", NAMES)
def test_every_query_of_every_panel_gives_figures(name: str, prometheus: PrometheusServer) -> None:
    dead = []
    for panel in panels_of(board_of(name)):
        for target in panel["targets"]:
            samples = prometheus.query(filled(target["expr"]))
            if not any(math.isfinite(float(sample["value"][1])) for sample in samples):
                dead.append((panel["title"], target["expr"], samples))
    assert dead == []


def test_a_query_of_what_is_not_there_would_be_noticed(prometheus: PrometheusServer) -> None:
    """The check above can fail: an unknown metric is empty and a wrong query is refused."""
    assert prometheus.query(filled('sum(rate(spillway_no_such_total{cluster=~"$cluster"}[$__rate_interval]))')) == []
    with pytest.raises(AssertionError, match="parse error"):
        prometheus.query("sum(rate(spillway_hop_bytes_total[5m])")


def test_every_rule_of_the_chart_is_evaluated(prometheus: PrometheusServer) -> None:
    rules = prometheus.rules()
    assert {rule["name"] for rule in rules} >= set(ALERTS)

    def pending() -> bool:
        (leaderless,) = [rule for rule in prometheus.rules() if rule["name"] == "SpillwayOperatorWithoutLeader"]
        return [alert["state"] for alert in leaderless["alerts"]] == ["pending"]

    wait_for("an alert to be pending, as no operator leads", pending)
    assert [rule for rule in prometheus.rules() if rule["health"] != "ok"] == []


def test_legends_name_labels_that_the_query_leaves(prometheus: PrometheusServer) -> None:
    """A label that `sum by` dropped would leave a legend without it."""
    for board in BOARDS:
        for row in board.rows.values():
            for panel in row:
                for legend, expression in panel.queries.items():
                    wanted = {part.split("}}")[0] for part in legend.split("{{")[1:]}
                    for sample in prometheus.query(filled(expression)):
                        assert wanted <= set(sample["metric"]), (panel.title, legend)


@pytest.mark.parametrize("board", BOARDS, ids=NAMES)
def test_board_in_the_chart_is_the_code(board: Board) -> None:
    assert (CHART / "dashboards" / f"{board.name}.json").read_text() == render(board)


@pytest.mark.parametrize("name", NAMES)
def test_every_panel_says_what_it_shows_in_which_unit_and_from_metrics_that_exist(name: str) -> None:
    titles = [panel["title"] for panel in panels_of(board_of(name))]
    assert len(set(titles)) == len(titles)
    numbers = [panel["id"] for panel in board_of(name)["panels"]]
    assert len(set(numbers)) == len(numbers) and all(numbers)
    for panel in panels_of(board_of(name)):
        assert len(panel["description"]) > 10 and panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}"
        letters = [target["refId"] for target in panel["targets"]]
        assert len(set(letters)) == len(letters) and all(letters), panel["title"]
        for target in panel["targets"]:
            assert unknown_metrics(target["expr"]) == set(), panel["title"]
            assert 'cluster=~"$cluster"' in target["expr"], panel["title"]
        for link in panel.get("links", []):
            assert link["url"].removeprefix("docs/runbooks/").removesuffix(".md") in ALERTS


@pytest.mark.parametrize("name", NAMES)
def test_alerts_come_first_and_no_panel_covers_another(name: str) -> None:
    panels = board_of(name)["panels"]
    assert panels[0]["title"] == "Alerts" and "ALERTS" in panels[0]["targets"][0]["expr"]
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken and place["x"] + place["w"] <= 24, panel["title"]
        taken |= cells


def test_variables_choose_cluster_namespace_and_pool() -> None:
    for name, wanted in (("spillway-pool", ["datasource", "cluster", "namespace", "pool"]),
                         ("spillway-control-plane", ["datasource", "cluster"])):  # fmt: skip
        assert [variable["name"] for variable in board_of(name)["templating"]["list"]] == wanted


def test_every_metric_is_on_a_board() -> None:
    """What nobody can see nobody would miss."""
    queries = " ".join(target["expr"] for name in NAMES for p in panels_of(board_of(name)) for target in p["targets"])
    rules = " ".join(path.read_text() for path in (CHART / "rules").glob("*.yaml"))
    unseen = [e.name for e in catalogue() if not any(series in queries + rules for series in e.series)]
    assert unseen == []


def test_config_maps_carry_the_boards_and_link_only_to_runbooks_that_are_served() -> None:
    def boards(*values: str) -> dict[str, str]:
        maps = [m for m in rendered("metrics.dashboards.enabled=true", *values) if m["kind"] == "ConfigMap"]
        found = [m for m in maps if m["metadata"].get("labels", {}).get("grafana_dashboard") == "1"]
        return {name: text for m in found for name, text in m["data"].items()}

    plain, hosted = boards(), boards("metrics.runbookBaseUrl=https://git.example.com/books")
    assert set(plain) == set(hosted) == {f"{name}.json" for name in NAMES}
    for name in NAMES:
        assert "links" not in {key for panel in json.loads(plain[f"{name}.json"])["panels"] for key in panel}
        assert "https://git.example.com/books/Spillway" in hosted[f"{name}.json"]
        queries = [t["expr"] for p in panels_of(json.loads(plain[f"{name}.json"])) for t in p["targets"]]
        assert queries == [t["expr"] for p in panels_of(board_of(name)) for t in p["targets"]]
    assert not [m for m in rendered() if m["metadata"]["name"] in NAMES]
