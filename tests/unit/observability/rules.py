"""The chart's rules as Prometheus gets them: rendered by helm, taken out of the PrometheusRule."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from typing import Any

import yaml

from dev.cluster import binaries
from dev.cluster.settings import PROJECT, Settings
from tools.metric_catalogue import FOREIGN, catalogue

CHART = PROJECT / "charts" / "spillway"
ALERTS = tuple(sorted(path.stem for path in (CHART / "alerts").glob("*.yaml")))


@cache
def rendered(*values: str) -> tuple[dict[str, Any], ...]:
    """Every object of the chart with `--set` values."""
    helm = binaries.tool(Settings.from_environment(), binaries.HELM)
    argv = [str(helm), "template", "spillway", str(CHART), "-n", "spillway-system", "--kube-version", "1.34.2"]
    argv += [argument for value in values for argument in ("--set", value)]
    text = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    return tuple(document for document in yaml.safe_load_all(text) if document)


def groups() -> dict[str, Any]:
    """What a rules file of Prometheus holds."""
    (rule,) = [m for m in rendered("metrics.prometheusRule.enabled=true") if m["kind"] == "PrometheusRule"]
    return {"groups": rule["spec"]["groups"]}


def recorded() -> set[str]:
    """Names that recording rules make."""
    return {rule["record"] for group in groups()["groups"] for rule in group["rules"] if "record" in rule}


def unknown_metrics(expression: str) -> set[str]:
    """Names of metrics in a query that nobody serves and no rule records."""
    known = {name for entry in catalogue() for name in entry.series} | set(FOREIGN) | recorded()
    bare = re.sub(r"\{[^}]*\}|\"[^\"]*\"|\[[^\]]*\]", "", expression)
    bare = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", "", bare)
    words = set(re.findall(r"[a-zA-Z_:][a-zA-Z0-9_:]*(?!\s*\()\b", bare))
    names = {word for word in words if re.match(r"(spillway|apiserver|namespace_pool|vllm|kube)[_:]|up$|ALERTS$", word)}
    return names - known
