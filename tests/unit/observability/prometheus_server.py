"""A real Prometheus that scrapes real endpoints every second, and evaluates the chart's rules."""

from __future__ import annotations

import json
import socket
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.unit.observability.prometheus_tools import find_tool
from tests.unit.observability.rules import groups
from tests.unit.observability.sidecar import wait_for


@dataclass(frozen=True)
class Target:
    """What is scraped, and the labels that the chart's PodMonitors add."""

    job: str
    port: int
    labels: dict[str, str]


class PrometheusServer:
    """Its process, with data in `folder`."""

    def __init__(self, folder: Path, targets: list[Target]) -> None:
        (folder / "rules.yml").write_text(yaml.safe_dump(groups()))
        jobs = [
            {"job_name": t.job, "static_configs": [{"targets": [f"127.0.0.1:{t.port}"], "labels": t.labels}]}
            for t in targets
        ]
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(folder / "rules.yml")],
            "scrape_configs": jobs,
        }
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.url = f"http://127.0.0.1:{free.getsockname()[1]}"
        argv = [
            str(find_tool("prometheus")),
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address={self.url.removeprefix('http://')}",
            "--log.level=error",
        ]
        self.process = subprocess.Popen(argv)

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The samples of an instant query. AssertionError with Prometheus's words where it refuses it."""
        result: list[dict[str, Any]] = self._get(f"query?{urllib.parse.urlencode({'query': expression})}")["result"]
        return result

    def rules(self) -> list[dict[str, Any]]:
        """Every rule with its health, and of alerts what is pending or fires."""
        return [rule for group in self._get("rules")["groups"] for rule in group["rules"]]

    def _get(self, path: str) -> dict[str, Any]:
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/{path}", timeout=60) as answer:
                data: dict[str, Any] = json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{path}: {error.read().decode()}") from error
        return data

    def is_ready(self) -> bool:
        try:
            return bool(urllib.request.urlopen(f"{self.url}/-/ready", timeout=5).close() is None)
        except OSError:
            return False

    def wait_for_scrapes(self, jobs: int) -> None:
        """Until every job was scraped often enough for a rate and for the rules that read it."""
        wait_for("Prometheus", self.is_ready)
        wait_for("four scrapes of each", lambda: len(self.query("count_over_time(up[1h]) >= 4")) == jobs)
        wait_for("the recording rules", lambda: len(self.query('count_over_time({__name__=~".+:.+"}[1h]) >= 2')) >= 4)

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(60)
