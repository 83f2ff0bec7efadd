"""The API server as the scenarios use it: apply, read, delete, run a command in a container."""

from __future__ import annotations

import json
from typing import Any

import yaml
from kubernetes import client, config, dynamic
from kubernetes.client.exceptions import ApiException
from kubernetes.stream import stream

Manifest = dict[str, Any]


class Kube:
    """One admin connection. Objects are plain dicts, as in the YAML that a person writes."""

    def __init__(self, kubeconfig: str) -> None:
        config.load_kube_config(kubeconfig)  # type: ignore[no-untyped-call]
        self.api = client.ApiClient()
        self.core = client.CoreV1Api(self.api)
        self.dynamic = dynamic.DynamicClient(self.api)  # type: ignore[no-untyped-call]

    def _resource(self, api_version: str, kind: str) -> Any:
        return self.dynamic.resources.get(api_version=api_version, kind=kind)

    def apply(self, *manifests: Manifest) -> None:
        """Server-side apply, in order."""
        for manifest in manifests:
            self.dynamic.server_side_apply(  # type: ignore[no-untyped-call]
                self._resource(manifest["apiVersion"], manifest["kind"]),
                body=manifest,
                name=manifest["metadata"]["name"],
                namespace=manifest["metadata"].get("namespace"),
                field_manager="spillway-e2e",
                force_conflicts=True,
            )

    def apply_text(self, text: str) -> None:
        self.apply(*[document for document in yaml.safe_load_all(text) if document])

    def get(self, api_version: str, kind: str, name: str, namespace: str | None = None) -> Manifest | None:
        """The object, or None where there is none."""
        try:
            found = self._resource(api_version, kind).get(name=name, namespace=namespace)
        except ApiException as error:
            if error.status == 404:
                return None
            raise
        return dict(found.to_dict())

    def items(self, api_version: str, kind: str, namespace: str | None = None, **selectors: str) -> list[Manifest]:
        """All objects, by `label_selector` or `field_selector` where given."""
        found = self._resource(api_version, kind).get(namespace=namespace, **selectors)
        return list(found.to_dict()["items"])

    def delete(self, api_version: str, kind: str, name: str, namespace: str | None = None) -> None:
        try:
            self._resource(api_version, kind).delete(name=name, namespace=namespace)
        except ApiException as error:
            if error.status != 404:
                raise

    def patch(
        self, api_version: str, kind: str, name: str, namespace: str, body: Any, json_patch: bool = False
    ) -> None:
        """Merge patch, or a JSON patch when `json_patch`."""
        kind_of = "application/json-patch+json" if json_patch else "application/merge-patch+json"
        self._resource(api_version, kind).patch(body=body, name=name, namespace=namespace, content_type=kind_of)

    def pool(self, namespace: str, name: str = "chat") -> Manifest:
        """The pool; fails where there is none."""
        found = self.get("spillway.dev/v1alpha1", "KVCachePool", name, namespace)
        assert found is not None, f"no KVCachePool {namespace}/{name}"
        return found

    def condition(self, namespace: str, kind: str, name: str = "chat") -> Manifest | None:
        """One condition of the pool's status."""
        conditions = self.pool(namespace, name).get("status", {}).get("conditions", [])
        return next((c for c in conditions if c["type"] == kind), None)

    def run(self, namespace: str, pod: str, container: str, *command: str) -> str:
        """Run a command in a container and return what it printed (both streams)."""
        session = stream(
            self.core.connect_get_namespaced_pod_exec,
            pod,
            namespace,
            container=container,
            command=list(command),
            stdout=True,
            stderr=True,
            stdin=False,
            tty=False,
            _preload_content=False,
        )
        try:
            session.run_forever(timeout=60)
            return str(session.read_all())
        finally:
            session.close()

    def logs(self, namespace: str, pod: str, container: str, lines: int = 40) -> str:
        try:
            return str(self.core.read_namespaced_pod_log(pod, namespace, container=container, tail_lines=lines))
        except ApiException as error:
            return f"<no log of {container}: {error.reason}>"

    def describe(self, pod: Manifest) -> str:
        """What a person would look at first when a pod is not as expected: phase, conditions, containers, last Event."""
        status, metadata = pod.get("status", {}), pod["metadata"]
        return json.dumps(
            {
                "phase": status.get("phase"),
                "conditions": {c["type"]: _tell(c) for c in status.get("conditions", [])},
                "last event": self._last_event(metadata["namespace"], metadata["uid"]),
                "annotations": metadata.get("annotations"),
                "containers": [
                    {"name": c["name"], "ready": c["ready"], "restarts": c["restartCount"], "state": c.get("state")}
                    for c in [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]
                ],
            },
            default=str,
        )

    def _last_event(self, namespace: str, uid: str) -> str | None:
        events = self.items("v1", "Event", namespace, field_selector=f"involvedObject.uid={uid}")
        last = max(events, key=lambda event: event.get("lastTimestamp") or event.get("eventTime") or "", default=None)
        return None if last is None else f"{last.get('type')} {last.get('reason')}: {last.get('message')}"

    def scale(self, namespace: str, deployment: str, replicas: int) -> None:
        self.patch("apps/v1", "Deployment", deployment, namespace, {"spec": {"replicas": replicas}})


def _tell(condition: Manifest) -> str:
    """A condition's status, with why where it is not met."""
    if condition["status"] == "True":
        return "True"
    why = f"{condition.get('reason', '')} {condition.get('message', '')}".strip()
    return f"{condition['status']} ({why})" if why else str(condition["status"])
