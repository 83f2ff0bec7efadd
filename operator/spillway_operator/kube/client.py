"""The operator's reads and writes of single objects: the blocking `kubernetes` client behind a bounded executor.

Everything above this module is asyncio; every call here runs in one of a fixed number of threads and gives up after
3 seconds, so that a process that lost its Lease cannot have a write in flight past the Lease's end (see lease.py).
Objects are plain dicts as the API server speaks them: no generated models, no discovery, nothing written to disk.
Writes are server-side apply, one field manager per concern (`FieldManager`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from urllib.parse import urlencode

import urllib3
from kubernetes import config as kube_config
from kubernetes.client import ApiClient, ApiException, Configuration

from spillway_operator.kube.errors import NotFound, error_of, is_verdict, message_of, parse_object
from spillway_operator.kube.resources import Manifest, Resource
from spillway_operator.metrics import API_WRITES

REQUEST_TIMEOUT_SECONDS = 3.0
# A dry run writes nothing, so no fence depends on its end; a webhook that does not answer is waited for 5 s.
DRY_RUN_TIMEOUT_SECONDS = 10.0
APPLY_CONTENT_TYPE = "application/apply-patch+yaml"


class FieldManager(StrEnum):
    """Who owns a field in server-side apply: one name per concern, so that one concern never removes another's fields."""

    STATUS = "spillway-status"
    FINALIZER = "spillway-finalizer"
    CHILDREN = "spillway-children"
    CERTIFICATES = "spillway-certificates"
    INJECT_PATH = "spillway-inject-path"
    STATUS_KEYS = "spillway-status-keys"
    UNINSTALL = "spillway-uninstall"
    CRD = "spillway-crd"


@dataclass(frozen=True)
class DryRun:
    """What came of a creation that stores nothing: the object, or None where it was refused, and the warnings with it."""

    created: Manifest | None
    warnings: str


def load_configuration(kubeconfig: str | None = None) -> Configuration:
    """Read the in-cluster service account, or the kubeconfig at `kubeconfig` (default: $KUBECONFIG). No retries."""
    configuration = Configuration()
    try:
        if kubeconfig is not None:
            raise kube_config.ConfigException("an explicit kubeconfig wins")
        kube_config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
    except kube_config.ConfigException:
        kube_config.load_kube_config(  # type: ignore[no-untyped-call]
            config_file=kubeconfig, client_configuration=configuration
        )
    # A retry inside the client would outlive the 3 seconds that fencing counts on; the work queue retries instead.
    configuration.retries = False
    return configuration


class ApiServer:
    """Async access to the API server. `workers` bounds the threads, hence the requests in flight."""

    def __init__(self, configuration: Configuration, workers: int = 16) -> None:
        configuration.connection_pool_maxsize = workers
        self._client = ApiClient(configuration)
        self._executor = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="api")
        # A task that is cancelled leaves its request running in its thread: whoever must know of the end asks here.
        self._in_flight: set[Future[Manifest]] = set()

    async def get(self, resource: Resource, name: str, namespace: str | None = None) -> Manifest | None:
        """Read one object; None where it does not exist."""
        try:
            return await self._request("GET", resource.path(namespace, name))
        except NotFound:
            return None

    async def list(
        self,
        resource: Resource,
        namespace: str | None = None,
        *,
        label_selector: str | None = None,
        field_selector: str | None = None,
    ) -> list[Manifest]:
        """Read all objects in pages of 500, from the API server's own cache."""
        items: list[Manifest] = []
        query = {"limit": "500"}
        if field_selector is not None:
            query["fieldSelector"] = field_selector
        if label_selector is not None:
            query["labelSelector"] = label_selector
        while True:
            page = await self._request("GET", resource.path(namespace), query)
            items.extend(page.get("items") or [])
            following = (page.get("metadata") or {}).get("continue")
            if not following:
                return items
            query["continue"] = following

    async def apply(
        self,
        manifest: Manifest,
        resource: Resource,
        manager: FieldManager,
        *,
        subresource: str | None = None,
        force: bool = True,
    ) -> Manifest:
        """Server-side apply `manifest`; fields of `manager` that it lacks are removed."""
        metadata = manifest["metadata"]
        query = {"fieldManager": manager.value, "force": "true" if force else "false"}
        path = resource.path(metadata.get("namespace"), metadata["name"], subresource)
        answer = await self._request("PATCH", path, query, body=manifest, content_type=APPLY_CONTENT_TYPE)
        API_WRITES.labels(verb="apply", kind=resource.kind).inc()
        return answer

    async def create(self, manifest: Manifest, resource: Resource) -> Manifest:
        """Create one object. Raises Conflict where it exists already."""
        answer = await self._request("POST", resource.path(manifest["metadata"].get("namespace")), body=manifest)
        API_WRITES.labels(verb="create", kind=resource.kind).inc()
        return answer

    async def dry_run(self, manifest: Manifest, resource: Resource) -> DryRun:
        """Ask for a creation that stores nothing. Raises ApiError where it was not refused for what it is."""
        path = resource.path(manifest["metadata"].get("namespace"))
        call = partial(
            self._call, "POST", path, {"dryRun": "All"}, manifest, "application/json", DRY_RUN_TIMEOUT_SECONDS
        )
        status, raw, warnings = await asyncio.get_running_loop().run_in_executor(self._executor, call)
        if 200 <= status <= 299:
            return DryRun(parse_object("POST", path, raw), warnings)
        message = message_of(raw)
        if not is_verdict(status, message):
            raise error_of(status, "POST", path, message)
        return DryRun(None, warnings)

    async def replace(self, manifest: Manifest, resource: Resource) -> Manifest:
        """PUT one object under its resourceVersion. Raises Conflict where somebody was faster."""
        metadata = manifest["metadata"]
        path = resource.path(metadata.get("namespace"), metadata["name"])
        answer = await self._request("PUT", path, body=manifest)
        API_WRITES.labels(verb="replace", kind=resource.kind).inc()
        return answer

    async def delete(
        self, resource: Resource, name: str, namespace: str | None = None, *, as_read: Manifest | None = None
    ) -> None:
        """Delete one object; an absent one is fine. Raises Conflict where it is not `as_read` any more."""
        body: Manifest | None = None
        if as_read is not None:
            metadata = as_read["metadata"]
            body = {"preconditions": {"uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]}}
        try:
            await self._request("DELETE", resource.path(namespace, name), body=body)
            API_WRITES.labels(verb="delete", kind=resource.kind).inc()
        except NotFound:
            return

    async def close(self) -> bool:
        """Wait for the requests in flight, which end in 3 s, then drop the connections; returns whether all of them have ended.

        Dry runs are not waited for: they write nothing.
        """
        self._executor.shutdown(wait=False, cancel_futures=True)
        running = list(self._in_flight)
        left = (await asyncio.to_thread(wait, running, REQUEST_TIMEOUT_SECONDS + 0.5)).not_done if running else set()
        self._client.close()  # type: ignore[no-untyped-call]
        return not left

    async def _request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        body: Manifest | None = None,
        content_type: str = "application/json",
    ) -> Manifest:
        call = self._executor.submit(self._request_blocking, method, path, query, body, content_type)
        self._in_flight.add(call)
        call.add_done_callback(self._in_flight.discard)
        return await asyncio.wrap_future(call)

    def _request_blocking(
        self, method: str, path: str, query: Mapping[str, str] | None, body: Manifest | None, content_type: str
    ) -> Manifest:
        status, raw, _ = self._call(method, path, query, body, content_type, REQUEST_TIMEOUT_SECONDS)
        if not 200 <= status <= 299:
            raise error_of(status, method, path, message_of(raw))
        return parse_object(method, path, raw)

    def _call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: Manifest | None,
        content_type: str,
        timeout_seconds: float,
    ) -> tuple[int, bytes, str]:
        """Status, body and warnings of an answer, whatever it says. Raises ApiError where there is none."""
        target = f"{path}?{urlencode(query)}" if query else path
        headers = {"Accept": "application/json", "Content-Type": content_type}
        _, url, signed_headers, _, _ = self._client.param_serialize(
            method, target, header_params=headers, auth_settings=["BearerToken"]
        )
        try:
            response = self._client.call_api(method, url, signed_headers, body, _request_timeout=timeout_seconds)
            raw = response.read()  # type: ignore[no-untyped-call]
        except ApiException as error:
            raise error_of(error.status or 0, method, path, str(error.reason)) from error
        except urllib3.exceptions.HTTPError as error:
            raise error_of(0, method, path, str(error)) from error
        return response.status, raw, str(response.headers.get("Warning", ""))
