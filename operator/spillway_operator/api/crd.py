"""Render the CustomResourceDefinition from the models. `python -m spillway_operator.api.crd` rewrites it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import yaml

from spillway_operator.api import names
from spillway_operator.api.spec import PoolSpec
from spillway_operator.api.status import PoolStatus

HEADER: Final = "# Generated from operator/spillway_operator/api by `make generate`. Do not edit.\n"
FILE_NAME: Final = f"{names.CRD_NAME}.yaml"
# Below the repository root; the chart carries a copy, because Helm installs CRDs from there.
FOLDERS: Final = ("crds", "charts/spillway/crds")

# name, jsonPath, type, priority (0 shown always, 1 with -o wide)
_COLUMNS: Final = (
    ("Ready", '.status.conditions[?(@.type=="Ready")].status', "string", 0),
    ("Pods", ".status.pods.ready", "integer", 0),
    ("DRAM", '.status.tiers[?(@.name=="dram")].used', "string", 0),
    ("NVMe", '.status.tiers[?(@.name=="nvme")].used', "string", 0),
    ("Hit", ".status.hit.ratio", "string", 0),
    ("Degraded", '.status.conditions[?(@.type=="Degraded")].reason', "string", 0),
    ("Hit DRAM", ".status.hit.dram", "string", 1),
    ("Hit NVMe", ".status.hit.nvme", "string", 1),
    ("Hit other", ".status.hit.other", "string", 1),
    ("Revision", ".status.sidecarRevision", "string", 1),
    ("Outdated", ".status.pods.outdated", "integer", 1),
    ("Reason", '.status.conditions[?(@.type=="Ready")].reason', "string", 1),
    ("Age", ".metadata.creationTimestamp", "date", 0),
)

_NAME_RULE: Final = {
    "rule": f"size(self.metadata.name) <= {names.MAX_POOL_NAME_LENGTH}",
    "message": f"metadata.name must have at most {names.MAX_POOL_NAME_LENGTH} characters, because names of volumes and "
    "claims are made from it: choose a shorter one",
}


def build_crd() -> dict[str, Any]:
    """The manifest of the CustomResourceDefinition."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": names.CRD_NAME, "labels": {"app.kubernetes.io/part-of": "spillway"}},
        "spec": {
            "group": names.GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": names.KIND,
                "listKind": f"{names.KIND}List",
                "plural": names.PLURAL,
                "singular": names.KIND.lower(),
                "shortNames": [names.SHORT_NAME],
                "categories": [names.CATEGORY],
            },
            "versions": [_build_version()],
        },
    }


def render() -> str:
    """The manifest as YAML, with the header that says where it comes from."""
    return HEADER + yaml.safe_dump(build_crd(), sort_keys=False, width=120, allow_unicode=True)


def write_crd(root: Path) -> list[Path]:
    """Write the manifest into every folder that carries it; returns the paths written."""
    written = []
    for folder in FOLDERS:
        path = root / folder / FILE_NAME
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(render(), encoding="utf-8")
        written.append(path)
    return written


def _build_version() -> dict[str, Any]:
    return {
        "name": names.VERSION,
        "served": True,
        "storage": True,
        "subresources": {"status": {}},
        "additionalPrinterColumns": [
            {"name": name, "jsonPath": path, "type": kind, **({"priority": priority} if priority else {})}
            for name, path, kind, priority in _COLUMNS
        ],
        "schema": {"openAPIV3Schema": _build_schema()},
    }


def _build_schema() -> dict[str, Any]:
    return {
        "type": "object",
        "description": "A KV cache that the labelled pods of a namespace join: DRAM and NVMe beside each engine. Every "
        "quantity is per pod.",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": structural(PoolSpec.model_json_schema(by_alias=True)),
            "status": structural(PoolStatus.model_json_schema(by_alias=True, mode="serialization")),
        },
        "x-kubernetes-validations": [_NAME_RULE],
    }


def structural(schema: dict[str, Any]) -> dict[str, Any]:
    """A JSON schema from pydantic as the structural schema of a CRD.

    References are written out, titles dropped, "or null" dropped (an absent field is absent, never null), and the
    default of an object is written out without its absent fields.
    """
    definitions = schema.get("$defs", {})
    return _structural(schema, definitions)


_DROPPED: Final = frozenset({"$defs", "title", "additionalProperties"})
_KUBERNETES_INT_OR_STRING: Final = "x-kubernetes-int-or-string"


def _structural(node: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    node = _without_null(node)
    if "$ref" in node:
        target = definitions[node["$ref"].rpartition("/")[2]]
        node = {**target, **{key: value for key, value in node.items() if key != "$ref"}}
    result = {key: value for key, value in node.items() if key not in _DROPPED}
    if "default" in result and (result["default"] is None or result.get("type") == "array"):
        del result["default"]
    if "default" in result and result.get("type") == "object":
        # Written out, because the API server checks a default against the rules before it fills in defaults inside.
        result["default"] = _without_absent(result["default"])
    if "properties" in result:
        result["properties"] = {name: _structural(child, definitions) for name, child in result["properties"].items()}
        required = [name for name in result.get("required", []) if "default" not in result["properties"][name]]
        result.pop("required", None)
        if required:
            result["required"] = required
    if isinstance(result.get("items"), dict):
        result["items"] = _structural(result["items"], definitions)
    if "const" in result:
        result["enum"] = [result.pop("const")]
    return result


def _without_absent(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {key: _without_absent(child) for key, child in value.items() if child is not None}


def _without_null(node: dict[str, Any]) -> dict[str, Any]:
    if "anyOf" not in node or _KUBERNETES_INT_OR_STRING in node:
        return node
    kept = [branch for branch in node["anyOf"] if branch.get("type") != "null"]
    if len(kept) != 1:
        raise ValueError(f"no structural schema for {node!r}: a field may be of one type or absent")
    outer = {key: value for key, value in node.items() if key != "anyOf"}
    return {**kept[0], **outer}


if __name__ == "__main__":
    for rewritten in write_crd(Path.cwd()):
        print(rewritten)  # noqa: T201
