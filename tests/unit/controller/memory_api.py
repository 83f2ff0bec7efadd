"""An API server in a dictionary: as much of it as the controller's writes need."""

from __future__ import annotations

import copy
from datetime import UTC, datetime
from typing import Any

from spillway_operator.api.names import PROBE_ANSWER
from spillway_operator.kube.client import ApiServer, DryRun, FieldManager
from spillway_operator.kube.errors import ApiError, Conflict
from spillway_operator.kube.resources import POOLS, Manifest, Resource


class MemoryApi(ApiServer):
    """Objects by kind and name. Server-side apply is a replacement of what the one manager owns.

    `refused` holds what fails while it stands there: (verb, kind, name), for what is created (`create`, kind, kind). With
    `refused_times` all of it does so only so many times.
    """

    def __init__(self, *pools: Manifest) -> None:
        self.stored: dict[tuple[str, str], Manifest] = {}
        self.refused: set[tuple[str, str, str]] = set()
        self.refused_status = 500
        self.refused_times = -1
        for pool in pools:
            self.put(POOLS, pool)

    def put(self, resource: Resource, manifest: Manifest) -> Manifest:
        self.stored[resource.kind, manifest["metadata"]["name"]] = copy.deepcopy(manifest)
        return manifest

    def drop(self, resource: Resource, name: str) -> None:
        self.stored.pop((resource.kind, name), None)

    def kind(self, resource: Resource) -> list[Manifest]:
        return [manifest for (kind, _), manifest in self.stored.items() if kind == resource.kind]

    async def get(self, resource: Resource, name: str, namespace: str | None = None) -> Manifest | None:
        self._check("get", resource, name)
        return copy.deepcopy(self.stored.get((resource.kind, name)))

    async def list(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        label_selector: str | None = None,
        field_selector: str | None = None,
    ) -> list[Manifest]:
        found = copy.deepcopy(self.kind(resource))
        if field_selector is not None:
            field, _, wanted_name = field_selector.partition("=")
            assert field == "involvedObject.name"
            found = [manifest for manifest in found if manifest["involvedObject"]["name"] == wanted_name]
        if namespace is not None:
            found = [manifest for manifest in found if manifest["metadata"].get("namespace") == namespace]
        if label_selector is not None:
            for label, _, value in (wanted.partition("=") for wanted in label_selector.split(",")):
                labels = [(manifest, manifest["metadata"].get("labels") or {}) for manifest in found]
                found = [manifest for manifest, has in labels if label in has and value in ("", has[label])]
        return found

    async def create(self, manifest: Manifest, resource: Resource) -> Manifest:
        self._check("create", resource, resource.kind)
        if (resource.kind, manifest["metadata"]["name"]) in self.stored:
            raise Conflict(409, "POST", resource.path(None), "already exists")
        stamped = {**manifest["metadata"], "creationTimestamp": datetime.now(UTC).isoformat()}
        return self.put(resource, {**manifest, "metadata": stamped})

    async def dry_run(self, manifest: Manifest, resource: Resource) -> DryRun:
        """As if every webhook were called and nothing refused."""
        self._check("dry-run", resource, manifest["metadata"].get("namespace", ""))
        return DryRun(manifest, f'299 - "{PROBE_ANSWER}"')

    async def delete(
        self, resource: Resource, name: str, namespace: str | None = None, *, as_read: Manifest | None = None
    ) -> None:
        self._check("delete", resource, name)
        if as_read is not None and self.stored.get((resource.kind, name), as_read) != as_read:
            raise Conflict(409, "DELETE", resource.path(namespace, name), "precondition failed")
        self.drop(resource, name)

    async def apply(self, manifest: Manifest, resource: Resource, manager: FieldManager, **_: Any) -> Manifest:
        self._check(manager.value, resource, manifest["metadata"]["name"])
        before = self.stored.get((resource.kind, manifest["metadata"]["name"]), manifest)
        after = copy.deepcopy(before)
        if manager is FieldManager.STATUS:
            after["status"] = manifest["status"]
        elif manager is FieldManager.FINALIZER:
            after["metadata"]["finalizers"] = manifest["metadata"].get("finalizers", [])
        elif manager is FieldManager.UNINSTALL:
            after["spec"] = manifest["spec"]
        after["metadata"].setdefault("uid", f"uid-of-{manifest['metadata']['name']}")
        after["metadata"]["resourceVersion"] = str(int(before["metadata"].get("resourceVersion", 0)) + 1)
        return self.put(resource, after)

    def _check(self, verb: str, resource: Resource, name: str) -> None:
        if (verb, resource.kind, name) in self.refused:
            self.refused_times -= 1
            if self.refused_times == 0:
                self.refused = set()
            raise ApiError(self.refused_status, verb, resource.path(None, name), "refused by the test")
