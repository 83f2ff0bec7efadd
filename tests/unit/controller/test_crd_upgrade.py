"""The CRD follows the chart forwards and never backwards."""

from __future__ import annotations

import copy

import pytest
from memory_api import MemoryApi
from spillway_operator.api.crd import build_crd
from spillway_operator.controller.crd_upgrade import find_lost_fields, upgrade_crd
from spillway_operator.kube.resources import CRDS, Manifest

NAME = "kvcachepools.spillway.dev"
ESTABLISHED = {"conditions": [{"type": "Established", "status": "True"}]}


def stored_crd() -> Manifest:
    crd: Manifest = {**copy.deepcopy(build_crd()), "status": ESTABLISHED}
    crd["metadata"]["resourceVersion"] = "1"
    return crd


def properties(crd: Manifest, *path: str) -> Manifest:
    node = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    for name in path:
        node = node["properties"][name]
    found: Manifest = node["properties"]
    return found


async def upgraded(crd: Manifest) -> tuple[str, Manifest]:
    class Api(MemoryApi):
        async def replace(self, manifest: Manifest, *args: object, **kwargs: object) -> Manifest:
            assert manifest["metadata"]["resourceVersion"] == "1"
            return self.put(CRDS, {**manifest, "status": ESTABLISHED})

    api = Api()
    api.put(CRDS, crd)
    said = await upgrade_crd(api)
    return said, api.stored[CRDS.kind, NAME]


async def test_an_older_definition_gets_the_fields_of_this_version() -> None:
    old = stored_crd()
    del properties(old, "status")["injection"]
    rules = old["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["x-kubernetes-validations"]
    rules.append({"rule": "false", "message": "of an earlier version"})
    old["metadata"]["labels"]["somebody"] = "else"
    said, after = await upgraded(old)
    assert after["spec"] == build_crd()["spec"], "a rule that was given up refuses nobody any more"
    assert after["metadata"]["labels"]["somebody"] == "else"
    assert "injection" in properties(after, "status")
    assert said == f"CRD {NAME} is that of this version"


@pytest.mark.parametrize("path", [("status",), ("spec",), ("spec", "tiers", "nvme")])
async def test_a_newer_definition_is_left_as_it_is(path: tuple[str, ...]) -> None:
    newer = stored_crd()
    properties(newer, *path)["fromTheFuture"] = {"type": "string"}
    said, after = await upgraded(newer)
    assert after == newer
    assert ".".join(["v1alpha1", *path, "fromTheFuture"]) in said


def test_a_version_that_would_no_longer_be_served_is_a_loss() -> None:
    newer = stored_crd()
    newer["spec"]["versions"].append({"name": "v1beta1", "schema": {}})
    assert find_lost_fields(newer, build_crd()) == ["v1beta1"]
    assert not find_lost_fields(build_crd(), newer)
