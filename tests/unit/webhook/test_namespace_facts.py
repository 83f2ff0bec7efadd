"""What the webhook knows of a pod's namespace, from its watch or by one read."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
from spillway_operator.kube.reader import ApiReader
from spillway_operator.kube.resources import Manifest, Resource
from spillway_operator.webhook.cluster import Cluster
from spillway_operator.webhook.files import StatusKeys
from spillway_operator.webhook.settings import WebhookSettings

MESH = {"linkerd.io/inject": "enabled", "config.linkerd.io/skip-inbound-ports": "25"}
NAMESPACE: Manifest = {
    "metadata": {"name": "team-a", "labels": {"team": "a"}, "annotations": {**MESH, "notes": "x" * 100_000}}
}


class Answers:
    """An API server that has this namespace and no pool."""

    async def get(self, resource: Resource, name: str, namespace: str | None = None) -> Manifest | None:
        return NAMESPACE if resource.plural == "namespaces" else None


@pytest.mark.parametrize("is_watched", [True, False])
async def test_labels_and_the_annotations_that_injection_asks_for_are_kept(is_watched: bool) -> None:
    settings = WebhookSettings(sidecar_image="registry.example/sidecar:1")
    cluster = Cluster(cast(ApiReader, Answers()), settings, StatusKeys(Path("/nowhere")))
    if is_watched:
        cluster._namespaces.put(NAMESPACE)
    facts = await cluster.gather("team-a", "chat")
    assert facts.namespace_labels == {"team": "a"}
    assert facts.namespace_annotations == MESH
