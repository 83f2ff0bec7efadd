"""The folders on the node that the chart lists for the scenarios' pools."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from dev.cluster.instance import E2E

ROOT = E2E.folder
PREPARED_GROUP = 65532
# One for each namespace whose pools lie on a disk, of its name, and the one that stands for the demo's.
NAMESPACES = (
    "e2e-bench-ttft", "e2e-conditions", "e2e-control-plane", "e2e-damage", "e2e-first-pool", "e2e-rights",
    "e2e-runbooks", "e2e-sidecar-faults", "e2e-skips", "e2e-uninstall", "e2e-volume-kinds", "e2e-quickstart",
)  # fmt: skip
NOT_PREPARED = ROOT / "not-prepared"
LISTED = tuple(map(str, (NOT_PREPARED, *(ROOT / name for name in NAMESPACES))))


def prepare(folder: Path) -> None:
    """As docs/adr/0001 asks the administrator to."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    os.chown(folder, 0, PREPARED_GROUP)
    folder.chmod(0o2755)
