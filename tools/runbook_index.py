"""docs/runbooks/README.md: how to get alerts and boards, and every alert by how bad it is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "runbooks" / "README.md"
ALERTS = ROOT / "charts" / "spillway" / "alerts"

_HEAD = """\
# Alerts and boards

Generated from `charts/spillway/alerts/` by `make generate`.

```sh
helm upgrade spillway charts/spillway -n spillway-system --reset-then-reuse-values \\
  --set metrics.podMonitor.enabled=true --set metrics.prometheusRule.enabled=true --set metrics.dashboards.enabled=true
```

Pod monitors and rules need the Prometheus Operator's CRDs; give them the labels that your Prometheus selects by
(`metrics.podMonitor.labels`, `metrics.prometheusRule.labels`). Without that operator scrape the port `spillway` of injected pods and the
port `http` of operator and webhook, with labels `namespace`, `pod`, and `pool` from the pod's label `spillway.dev/pool`. The boards (pool,
data plane, control plane) are ConfigMaps with the label `grafana_dashboard: "1"`. `metrics.runbookBaseUrl` turns names of pages into links.

critical: new pods start plain, or will, or data is damaged; somebody should look now. warning: in working hours.
"""


def render() -> str:
    """The whole page."""
    rules: list[dict[str, Any]] = [yaml.safe_load(path.read_text()) for path in sorted(ALERTS.glob("*.yaml"))]
    parts = [_HEAD]
    for severity in ("critical", "warning"):
        rows = [_row(rule) for rule in rules if rule["labels"]["severity"] == severity]
        parts.append("\n".join([f"## {severity}", "", "| alert | for | says |", "|---|---|---|", *rows]) + "\n")
    return "\n".join(parts)


def _row(rule: dict[str, Any]) -> str:
    says = re.sub(r"\{\{ *\$(?:labels\.)?(\w+).*?\}\}", r"<\1>", rule["annotations"]["summary"])
    return f"| [{rule['alert']}]({rule['alert']}.md) | {rule.get('for', 'at once')} | {says} |".replace(
        "<", "`<"
    ).replace(">", ">`")
