"""Golden cases of injection: tests/golden/injection/<case>/{pod,pool,namespace}.yaml in, expected.yaml out.

`python tests/unit/injection/golden_cases.py` rewrites every expected.yaml; the diff is then read by a person.
pool.yaml may be absent (no such pool); namespace.yaml holds the Namespace and its LimitRanges.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from spillway_operator.api import Allowed, parse_pool
from spillway_operator.injection import Facts, Outcome, inject

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "injection"
ALLOWED = Allowed(
    sidecar_image="registry.example/spillway-sidecar:0.1.0",
    repositories=("registry.example/mirror/spillway-sidecar",),
    host_paths=("/mnt/nvme0",),
)
STATUS_KEY = "EBESExQVFhcYGRobHB0eHyAhIiMkJSYnKCkqKywtLi8="


@dataclass(frozen=True)
class Case:
    """One folder."""

    name: str
    pod: dict[str, Any]
    facts: Facts
    expected_path: Path

    def run(self) -> Outcome:
        """Inject with this case's facts."""
        return inject(self.pod, self.facts)

    def expected(self) -> dict[str, Any]:
        """The pod that injection must return."""
        expected: dict[str, Any] = yaml.safe_load(self.expected_path.read_text())
        return expected


def load_cases() -> list[Case]:
    """Every case, by name."""
    return [_load(folder) for folder in sorted(GOLDEN.iterdir())]


def load_case(name: str) -> Case:
    """The case of that name."""
    return _load(GOLDEN / name)


def _load(folder: Path) -> Case:
    pool_path = folder / "pool.yaml"
    stored = yaml.safe_load(pool_path.read_text()) if pool_path.exists() else None
    objects = list(yaml.safe_load_all((folder / "namespace.yaml").read_text()))
    facts = Facts(
        pool=parse_pool(stored) if stored else None,
        allowed=ALLOWED,
        namespace_labels=objects[0]["metadata"].get("labels", {}),
        namespace_annotations=objects[0]["metadata"].get("annotations", {}),
        limit_ranges=tuple(objects[1:]),
        status_public_keys=(STATUS_KEY,),
    )
    pod = yaml.safe_load((folder / "pod.yaml").read_text())
    return Case(folder.name, pod, facts, folder / "expected.yaml")


def rewrite() -> None:
    """Write what injection returns now as what it must return."""
    for case in load_cases():
        text = yaml.safe_dump(case.run().pod, sort_keys=False, width=140)
        case.expected_path.write_text(text)


if __name__ == "__main__":
    rewrite()
