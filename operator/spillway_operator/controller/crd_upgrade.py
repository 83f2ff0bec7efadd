"""Bring the CustomResourceDefinition to what this version knows: Helm installs a chart's `crds/` once and never touches it again.

Never backwards: the API server prunes what the schema does not hold, so a schema that knows less would lose what users wrote.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any

from spillway_operator.api.crd import build_crd
from spillway_operator.kube.client import ApiServer, FieldManager
from spillway_operator.kube.resources import CRDS, Manifest

ESTABLISHED_SECONDS = 30.0
LOOK_SECONDS = 0.5
MAX_FIELDS_NAMED = 5


async def upgrade_crd(api: ApiServer) -> str:
    """Apply the definition unless the stored one knows more; says what was done. Raises ApiError."""
    wanted = build_crd()
    name = wanted["metadata"]["name"]
    stored = await api.get(CRDS, name)
    lost = [] if stored is None else find_lost_fields(stored, wanted)
    if lost:
        more = f" and {len(lost) - MAX_FIELDS_NAMED} more" if len(lost) > MAX_FIELDS_NAMED else ""
        return f"CRD {name} is left as it is: it has fields that this version does not know ({', '.join(lost[:MAX_FIELDS_NAMED])}{more})"
    if stored is None:
        await api.apply(wanted, CRDS, FieldManager.CRD)  # a POST has no name that RBAC could narrow
    else:
        # Replaced and not applied: of what another manager wrote, as Helm did, an application takes no rule away.
        metadata = stored["metadata"]
        labels = {**(metadata.get("labels") or {}), **wanted["metadata"]["labels"]}
        await api.replace({**wanted, "metadata": {**metadata, "labels": labels}}, CRDS)
    async with asyncio.timeout(ESTABLISHED_SECONDS):
        while not _is_established(await api.get(CRDS, name)):
            await asyncio.sleep(LOOK_SECONDS)
    return f"CRD {name} is that of this version"


def find_lost_fields(stored: Manifest, wanted: Manifest) -> list[str]:
    """Versions and fields, as `version.path`, that `stored` serves and `wanted` would not."""
    return sorted(set(_fields(stored)) - set(_fields(wanted)))


def _fields(crd: Manifest) -> Iterator[str]:
    for version in crd["spec"].get("versions") or []:
        yield str(version["name"])
        yield from _below(str(version["name"]), (version.get("schema") or {}).get("openAPIV3Schema") or {})


def _below(path: str, node: Mapping[str, Any]) -> Iterator[str]:
    for name, child in (node.get("properties") or {}).items():
        yield f"{path}.{name}"
        yield from _below(f"{path}.{name}", child)
    if isinstance(node.get("items"), Mapping):
        yield from _below(f"{path}[]", node["items"])


def _is_established(crd: Manifest | None) -> bool:
    conditions = ((crd or {}).get("status") or {}).get("conditions") or []
    return any(c.get("type") == "Established" and c.get("status") == "True" for c in conditions)
