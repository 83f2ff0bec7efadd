"""`helm upgrade` brings what Helm itself never touches again: the CRD."""

from __future__ import annotations

from typing import Any

import pytest
from kubernetes import client

from dev.cluster.installation import Installation
from tests.e2e.kit.host_path import LISTED
from tests.e2e.kit.kube import Kube

pytestmark = pytest.mark.cluster

CRD = "kvcachepools.spillway.dev"
STATUS = "/spec/versions/0/schema/openAPIV3Schema/properties/status/properties"


def fields_of_status(kube: Kube) -> dict[str, Any]:
    crd = kube.get("apiextensions.k8s.io/v1", "CustomResourceDefinition", CRD)
    assert crd is not None
    fields: dict[str, Any] = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"][
        "properties"
    ]
    return fields


def patch(kube: Kube, *operations: dict[str, Any]) -> None:
    client.ApiextensionsV1Api(kube.api).patch_custom_resource_definition(CRD, list(operations))


def test_an_upgrade_gives_an_older_crd_the_new_fields(kube: Kube, installation: Installation) -> None:
    patch(kube, {"op": "remove", "path": f"{STATUS}/injection"})
    assert "injection" not in fields_of_status(kube)
    installation.install(LISTED)
    assert "injection" in fields_of_status(kube)


def test_a_downgrade_takes_no_fields_away(kube: Kube, installation: Installation) -> None:
    patch(kube, {"op": "add", "path": f"{STATUS}/fromTheFuture", "value": {"type": "string"}})
    try:
        installation.install(LISTED)
        assert "fromTheFuture" in fields_of_status(kube)
    finally:
        patch(kube, {"op": "remove", "path": f"{STATUS}/fromTheFuture"})
