"""The CRD as it is rendered from the models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from spillway_operator import api
from spillway_operator.api import crd

ROOT = Path(__file__).resolve().parents[3]
REFUSED = ROOT / "tests" / "golden" / "crd-refused"


def nodes(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield schema
    for child in schema.get("properties", {}).values():
        yield from nodes(child)
    if "items" in schema:
        yield from nodes(schema["items"])


def version() -> dict[str, Any]:
    built: dict[str, Any] = crd.build_crd()["spec"]["versions"][0]
    return built


@pytest.mark.parametrize("folder", crd.FOLDERS)
def test_files_are_fresh(folder: str) -> None:
    assert (ROOT / folder / crd.FILE_NAME).read_text() == crd.render(), "run `make generate`"


def test_every_field_says_what_it_is_for() -> None:
    for part in ("spec", "status"):
        schema = version()["schema"]["openAPIV3Schema"]["properties"][part]
        assert all(node.get("description") for node in nodes(schema) if node.get("type") != "string" or "enum" in node)


def test_no_member_of_the_volume_union_has_a_default() -> None:
    tiers = version()["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["tiers"]
    volume = tiers["properties"]["nvme"]["properties"]["volume"]
    assert volume["properties"]["type"]["default"] == "Ephemeral"
    for member in ("ephemeral", "emptyDir", "hostPath"):
        assert "default" not in volume["properties"][member]
        assert member not in (volume.get("default") or {})


def test_lists_in_status_are_maps() -> None:
    status = version()["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"]
    keys = {name: status[name]["x-kubernetes-list-map-keys"] for name in ("conditions", "tiers", "members")}
    assert keys == {"conditions": ["type"], "tiers": ["name"], "members": ["pod"]}


def test_every_rule_has_a_refused_example() -> None:
    schema = version()["schema"]["openAPIV3Schema"]
    messages = [rule["message"] for node in nodes(schema) for rule in node.get("x-kubernetes-validations", [])]
    expected = [path.read_text().partition("\n")[0].removeprefix("# expect: ") for path in REFUSED.glob("*.yaml")]
    for message in messages:
        assert any(text in message for text in expected), f"tests/golden/crd-refused has no example for {message!r}"


def test_columns_come_from_status_or_metadata() -> None:
    columns = version()["additionalPrinterColumns"]
    assert [c["name"] for c in columns if not c.get("priority")] == [
        "Ready",
        "Pods",
        "DRAM",
        "NVMe",
        "Hit",
        "Degraded",
        "Age",
    ]
    wide = [c["name"] for c in columns if c.get("priority")]
    assert wide == ["Hit DRAM", "Hit NVMe", "Hit other", "Revision", "Outdated", "Reason"]
    assert all(c["jsonPath"].startswith((".status.", ".metadata.")) for c in columns)


def test_rendering_is_yaml_of_the_manifest() -> None:
    assert yaml.safe_load(crd.render()) == crd.build_crd()


def test_public_names_exist() -> None:
    assert sorted(api.__all__, key=str.lower) == sorted(set(api.__all__), key=str.lower)
    assert all(hasattr(api, name) for name in api.__all__)
