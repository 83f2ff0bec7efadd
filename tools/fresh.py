"""Generated files: write them (`--write`) or fail when one on disk differs from what its source says."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from spillway_operator.api import crd

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

# A script's own folder is on the path, the project's is not.
import dashboards  # noqa: E402
from tools import metrics_page, runbook_index  # noqa: E402

CARGO = ROOT / "sidecar" / "core" / "Cargo.toml"
CHART = ROOT / "charts" / "spillway" / "Chart.yaml"
BOARDS = ROOT / "charts" / "spillway" / "dashboards"


def workspace_version() -> str:
    """The one statement of the version."""
    found = re.search(r'(?m)^version = "([^"]+)"', CARGO.read_text())
    if found is None:
        raise SystemExit(f"{CARGO}: no `version = ` line; the project's version is stated there")
    return found.group(1)


def chart_yaml() -> str:
    text = CHART.read_text()
    text = re.sub(r"(?m)^version: .*$", f"version: {workspace_version()}", text)
    return re.sub(r"(?m)^appVersion: .*$", f'appVersion: "{workspace_version()}"', text)


def generated() -> dict[Path, str]:
    """Path to content of every generated file."""
    definition = crd.render()
    return {
        ROOT / "crds" / "kvcachepools.spillway.dev.yaml": definition,
        ROOT / "charts" / "spillway" / "crds" / "kvcachepools.spillway.dev.yaml": definition,
        CHART: chart_yaml(),
        ROOT / "docs" / "metrics.md": metrics_page.render(),
        runbook_index.PAGE: runbook_index.render(),
        **{BOARDS / f"{board.name}.json": dashboards.render(board) for board in dashboards.BOARDS},
    }


def main() -> int:
    stale = {path: text for path, text in generated().items() if not path.exists() or path.read_text() != text}
    if "--write" in sys.argv:
        for path, text in stale.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return 0
    for path in stale:
        print(f"{path.relative_to(ROOT)} differs from its source; run `make generate`", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
