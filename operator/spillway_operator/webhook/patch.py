"""The difference of two pods as a JSON patch of whole top-level fields of metadata and spec.

Within one admission nobody else changes the pod between our reading and the patch, so replacing a whole list is exact, and
a patch of few paths is easy to read in an audit log.
"""

from __future__ import annotations

from typing import Any

from spillway_operator.injection import Pod

Operation = dict[str, Any]


def build_patch(before: Pod, after: Pod) -> list[Operation]:
    """Operations that turn `before` into `after`, which may differ in fields of metadata and spec only."""
    operations: list[Operation] = []
    for part in ("metadata", "spec"):
        old, new = before[part], after[part]
        for field in sorted({*old, *new}):
            operations += _field_patch(f"/{part}/{field}", old.get(field), new.get(field))
    return operations


def _field_patch(path: str, old: Any, new: Any) -> list[Operation]:
    if old == new:
        return []
    if new is None:
        return [{"op": "remove", "path": path}]
    return [{"op": "add" if old is None else "replace", "path": path, "value": new}]
