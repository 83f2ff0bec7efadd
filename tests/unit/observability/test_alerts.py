"""Alerts fire and stay quiet as they should, query what exists, and tell whoever is paged what to do."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from dev.cluster.settings import PROJECT
from tests.unit.observability.prometheus_tools import promtool
from tests.unit.observability.rules import ALERTS, CHART, groups, rendered, unknown_metrics

CASES = Path(__file__).parent / "cases"
RUNBOOKS = PROJECT / "docs" / "runbooks"
HEADINGS = ["Meaning", "Impact", "Diagnosis", "Mitigation"]


def rules_with(key: str) -> list[dict[str, Any]]:
    return [rule for group in groups()["groups"] for rule in group["rules"] if key in rule]


def severity(alert: str) -> str:
    (rule,) = [rule for rule in rules_with("alert") if rule["alert"] == alert]
    return str(rule["labels"]["severity"])


def promtool_case(alert: str, case: dict[str, Any], *, fires: bool) -> dict[str, Any]:
    """One case as promtool reads it: firing alerts are the samples of ALERTS."""
    labels = {"alertname": alert, "alertstate": "firing", "severity": severity(alert), **case.get("labels", {})}
    rendered_labels = ",".join(f'{name}="{value}"' for name, value in labels.items())
    samples = [{"labels": f"ALERTS{{{rendered_labels}}}", "value": 1}] if fires else []
    query = {
        "expr": f'ALERTS{{alertname="{alert}",alertstate="firing"}}',
        "eval_time": case["at"],
        "exp_samples": samples,
    }
    series = [{"series": series, "values": values} for series, values in case["series"].items()]
    return {"name": case["when"], "interval": "1m", "input_series": series, "promql_expr_test": [query]}


def test_every_alert_fires_and_stays_quiet_as_its_cases_say(tmp_path: Path) -> None:
    """One run of promtool for all cases. Those that last hours are evaluated every ten minutes, the others every minute."""
    assert {path.stem for path in CASES.iterdir()} == set(ALERTS)
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(groups()))
    tests: dict[str, list[dict[str, Any]]] = {"1m": [], "10m": []}
    for alert in ALERTS:
        cases = yaml.safe_load((CASES / f"{alert}.yaml").read_text())
        assert cases["fires"] and cases["quiet"], alert
        for kind in ("fires", "quiet"):
            for case in cases[kind]:
                every = "10m" if int(case["at"].removesuffix("m")) > 120 else "1m"
                tests[every].append(promtool_case(alert, case, fires=kind == "fires"))
    for every, some in tests.items():
        file = {"rule_files": ["rules.yml"], "evaluation_interval": every, "tests": some}
        (tmp_path / f"{every}.yml").write_text(yaml.safe_dump(file))
    promtool("test", "rules", *(str(tmp_path / f"{every}.yml") for every in tests))


def test_promtool_finds_nothing_to_say_about_the_rules(tmp_path: Path) -> None:
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(groups()))
    assert "SUCCESS" in promtool("check", "rules", "--lint=all", "--lint-fatal", str(tmp_path / "rules.yml"))


def test_every_rule_queries_metrics_that_are_served() -> None:
    for rule in [*rules_with("alert"), *rules_with("record")]:
        assert unknown_metrics(rule["expr"]) == set(), rule


def test_a_metric_that_nobody_serves_is_found_out() -> None:
    assert unknown_metrics("sum by (pod) (rate(spillway_no_such_total[5m])) > up") == {"spillway_no_such_total"}


def test_files_are_named_like_their_rules() -> None:
    for path in (CHART / "alerts").glob("*.yaml"):
        assert yaml.safe_load(path.read_text())["alert"] == path.stem
    for path in (CHART / "rules").glob("*.yaml"):
        assert yaml.safe_load(path.read_text())["record"].replace(":", "-") == path.stem


def test_every_alert_says_what_is_wrong_how_bad_it_is_and_where_to_read_on() -> None:
    for rule in rules_with("alert"):
        assert rule["labels"].keys() == {"severity"} and rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
        assert rule["annotations"]["runbook_url"] == f"docs/runbooks/{rule['alert']}.md"
    hosted = rendered("metrics.prometheusRule.enabled=true", "metrics.runbookBaseUrl=https://git.example.com/books/")
    (rule,) = [m for m in hosted if m["kind"] == "PrometheusRule"]
    urls = [r["annotations"]["runbook_url"] for r in rule["spec"]["groups"][0]["rules"] if "alert" in r]
    assert f"https://git.example.com/books/{ALERTS[0]}.md" in urls


def test_what_an_alert_says_names_only_labels_that_it_has() -> None:
    """A label that the query dropped would leave a hole in the sentence that wakes somebody."""
    for rule in rules_with("alert"):
        named = set(re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values())))
        for case in yaml.safe_load((CASES / f"{rule['alert']}.yaml").read_text())["fires"]:
            assert named <= set(case["labels"]), rule["alert"]


def test_every_alert_has_its_page_and_every_page_its_alert() -> None:
    assert {path.stem for path in RUNBOOKS.glob("*.md")} == {*ALERTS, "README"}


@pytest.mark.parametrize("alert", ALERTS)
def test_runbook_has_the_four_parts_and_commands_that_a_shell_can_read(alert: str) -> None:
    text = (RUNBOOKS / f"{alert}.md").read_text()
    assert text.startswith(f"# {alert}\n")
    assert re.findall(r"(?m)^## (.+)$", text) == HEADINGS
    diagnosis = text.split("## Diagnosis")[1].split("## Mitigation")[0]
    commands = "\n".join(re.findall(r"```sh\n(.*?)```", diagnosis, re.DOTALL))
    assert commands
    subprocess.run(["bash", "-n"], input=commands, text=True, check=True)
    assert "- " in text.split("## Mitigation")[1]


@pytest.mark.parametrize("alert", ALERTS)
def test_runbook_names_only_alerts_pages_and_metrics_that_exist(alert: str) -> None:
    text = (RUNBOOKS / f"{alert}.md").read_text()
    assert set(re.findall(r"\bSpillway[A-Z]\w+", text)) <= {*ALERTS, "SpillwaySkipped"}
    for name in re.findall(r"\bdocs/[\w/-]+(?:\.md)?", text):
        assert list(PROJECT.glob(f"{name}*")), name
    stems = [f"spillway_{word}" for group in re.findall(r"\^spillway_\(([^)]*)\)", text) for word in group.split("|")]
    stems += re.findall(r"\bspillway_[a-z_]+[a-z]\b(?!\()", text)
    metrics = {metric for metric in unknown_metrics(" + ".join(stems)) if not _begins_a_metric(metric)}
    assert metrics == set()


def _begins_a_metric(stem: str) -> bool:
    """A grep for the beginning of a name finds it."""
    return unknown_metrics(f"{stem}_total") == set() or unknown_metrics(f"{stem}_bucket") == set()


def test_monitoring_is_off_where_nobody_asked_for_it() -> None:
    """Its kinds are unknown to an API server without the Prometheus Operator, which would refuse the whole chart."""
    assert not [m["kind"] for m in rendered() if m["apiVersion"].startswith("monitoring.coreos.com")]


@pytest.mark.parametrize("name", ["spillway-sidecars", "spillway-control"])
def test_pod_monitors_name_ports_that_pods_have(name: str) -> None:
    objects = rendered("metrics.podMonitor.enabled=true")
    (monitor,) = [m for m in objects if m["kind"] == "PodMonitor" and m["metadata"]["name"] == name]
    ports = {endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]}
    deployed = [m["spec"]["template"]["spec"]["containers"][0] for m in objects if m["kind"] == "Deployment"]
    expected = {"spillway"} if name == "spillway-sidecars" else {"http"}
    assert ports == expected
    if name == "spillway-control":
        assert all(any(port["name"] == "http" for port in container["ports"]) for container in deployed)


@pytest.mark.parametrize(
    "value", ["metrics.podMonitor.interval=often", "metrics.runbookBaseUrl=file:x", "metrics.alerts.enabled=true"]
)
def test_values_that_make_no_sense_are_refused(value: str) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        rendered(value)
