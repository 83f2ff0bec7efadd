"""Ask the API server: list, watch, get and dry runs over HTTP, without a client library.

The webhook reads three kinds and writes nothing; a few hundred lines of library and a third of its memory would be spent
on what it never does. Outside a cluster (tests) the kubeconfig is read by the `kubernetes` package.
"""

from __future__ import annotations

import json
import os
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

import aiohttp

GET_TIMEOUT_SECONDS = 1.0
LIST_TIMEOUT_SECONDS = 30.0
LIST_PAGE = 500
# The API server ends a watch after this long; it is then resumed where it ended.
WATCH_SECONDS = 300
# One line of a watch is one object: the API server's own limit of an object is 1.5 MiB (etcd), with room for escapes.
MAX_EVENT_BYTES = 4 * 1024 * 1024

_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")

Manifest = dict[str, Any]


class ApiServerError(Exception):
    """The API server could not be reached in time or refused; the message says which request."""


class WatchExpired(Exception):
    """The watch cannot be resumed: list again."""


@dataclass(frozen=True)
class Kind:
    """A resource: its plural, its path prefix, whether it is namespaced."""

    plural: str
    prefix: str
    namespaced: bool = True

    def path(self, namespace: str = "", name: str = "") -> str:
        """URL path of the collection, or of one object where `name` is given."""
        scope = f"/namespaces/{quote(namespace)}" if self.namespaced and namespace else ""
        return f"{self.prefix}{scope}/{self.plural}" + (f"/{quote(name)}" if name else "")


POOLS = Kind("kvcachepools", "/apis/spillway.dev/v1alpha1")
NAMESPACES = Kind("namespaces", "/api/v1", namespaced=False)
LIMIT_RANGES = Kind("limitranges", "/api/v1")
PODS = Kind("pods", "/api/v1")
CLAIMS = Kind("persistentvolumeclaims", "/api/v1")
# An answer to a creation that says nothing about the object: asked too often, not allowed to ask, a name that is in use.
_NO_VERDICT = frozenset({401, 404, 408, 409, 429})


@dataclass(frozen=True)
class Access:
    """Where the API server is and how to be believed there. `token` is asked for each request: mounted ones rotate."""

    url: str
    tls: ssl.SSLContext
    token: Callable[[], str]


def find_access() -> Access:
    """Access as the pod's ServiceAccount, else by kubeconfig (KUBECONFIG or the default path)."""
    host = os.environ.get("KUBERNETES_SERVICE_HOST")
    if host is None:
        return _kubeconfig_access()
    host = f"[{host}]" if ":" in host else host
    return Access(
        url=f"https://{host}:{os.environ['KUBERNETES_SERVICE_PORT']}",
        tls=ssl.create_default_context(cafile=str(_ACCOUNT / "ca.crt")),
        token=lambda: (_ACCOUNT / "token").read_text(encoding="ascii").strip(),
    )


def _kubeconfig_access() -> Access:
    from kubernetes import client, config  # only here: its import alone costs 60 MiB

    settings = client.Configuration()
    # Asked for now: the client remembers the variable as it was when it was imported.
    named = os.environ.get("KUBECONFIG")
    config.load_kube_config(config_file=named, client_configuration=settings)  # type: ignore[no-untyped-call]
    tls = ssl.create_default_context(cafile=settings.ssl_ca_cert)
    if settings.cert_file:
        tls.load_cert_chain(settings.cert_file, settings.key_file)

    def token() -> str:
        return str(settings.get_api_key_with_prefix("authorization") or "").removeprefix("Bearer ")

    return Access(url=settings.host.rstrip("/"), tls=tls, token=token)


class ApiServer:
    """Reads as coroutines. Use it as an async context manager."""

    def __init__(self, access: Access) -> None:
        self._access = access
        connector = aiohttp.TCPConnector(ssl=access.tls, limit=64)
        self._session = aiohttp.ClientSession(
            base_url=access.url,
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=None),
            read_bufsize=MAX_EVENT_BYTES,
        )

    async def __aenter__(self) -> ApiServer:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def get(self, kind: Kind, name: str, namespace: str = "") -> Manifest | None:
        """The object, None if there is none. Gives up after 1 s. Raises ApiServerError."""
        return await self._read(kind.path(namespace, name), {}, GET_TIMEOUT_SECONDS, absent_is_none=True)

    async def list(self, kind: Kind) -> tuple[list[Manifest], str]:
        """All objects of a kind and the resource version to watch from. Raises ApiServerError."""
        items: list[Manifest] = []
        query = {"limit": str(LIST_PAGE)}
        while True:
            page = await self._read(kind.path(), query, LIST_TIMEOUT_SECONDS) or {}
            items += page.get("items") or []
            metadata = page.get("metadata") or {}
            if not metadata.get("continue"):
                return items, str(metadata.get("resourceVersion", ""))
            query["continue"] = metadata["continue"]

    async def watch(self, kind: Kind, resource_version: str) -> AsyncIterator[tuple[str, Manifest]]:
        """Changes after `resource_version` as (type, object), bookmarks included, until the server ends the watch.

        Raises WatchExpired when the version is too old, ApiServerError when the connection breaks.
        """
        query = {
            "watch": "1",
            "resourceVersion": resource_version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(WATCH_SECONDS),
        }
        # Longer than the server's own limit: it fires only if the connection died without a word.
        timeout = aiohttp.ClientTimeout(total=WATCH_SECONDS + 30, sock_connect=5)
        path = kind.path()
        try:
            async with self._session.get(path, params=query, headers=self._headers(), timeout=timeout) as response:
                if response.status == 410:
                    raise WatchExpired
                if response.status != 200:
                    raise ApiServerError(f"watch {path}: status {response.status}")
                try:
                    async for line in response.content:
                        event = json.loads(line)
                        if event["type"] == "ERROR":
                            raise WatchExpired
                        yield event["type"], event["object"]
                finally:
                    _abort(response)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise ApiServerError(f"watch {path}: {error!r}") from error

    async def dry_run(self, kind: Kind, namespace: str, manifest: Manifest) -> str | None:
        """Why a creation of the object would be refused, in the API server's own words; None: it would not. Stores nothing.

        Raises ApiServerError where the answer is neither: the account may not ask, an admission webhook takes no dry runs.
        The caller bounds the time.
        """
        path = kind.path(namespace)
        try:
            async with self._session.post(
                path, params={"dryRun": "All"}, headers=self._headers(), json=manifest
            ) as response:
                if response.status < 300:
                    return None
                status = await response.json()
                words = str(status.get("message", "")) if isinstance(status, dict) else ""
                if response.status in _NO_VERDICT or response.status >= 500 or _asker_is_refused(words):
                    raise ApiServerError(f"dry run of {path}: status {response.status}: {words}")
                return words
        except (aiohttp.ClientError, ValueError) as error:
            raise ApiServerError(f"dry run of {path}: {error!r}") from error

    async def _read(
        self, path: str, query: Mapping[str, str], timeout_seconds: float, *, absent_is_none: bool = False
    ) -> Manifest | None:
        timeout = aiohttp.ClientTimeout(total=timeout_seconds)
        try:
            async with self._session.get(path, params=query, headers=self._headers(), timeout=timeout) as response:
                if response.status == 404 and absent_is_none:
                    return None
                if response.status != 200:
                    raise ApiServerError(f"get {path}: status {response.status}")
                document: Manifest = await response.json()
                return document
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise ApiServerError(f"get {path}: {error!r}") from error

    def _headers(self) -> dict[str, str]:
        token = self._access.token()
        return {"Accept": "application/json", **({"Authorization": f"Bearer {token}"} if token else {})}


def _asker_is_refused(words: str) -> bool:
    """RBAC, and admission webhooks that take no dry runs, refuse the question; the status is the one of a refused object."""
    return "cannot create resource" in words or "does not support dry run" in words


def _abort(response: aiohttp.ClientResponse) -> None:
    """Drop the connection of a stream that is left unread: its orderly end would wait for the other side's, past our own."""
    connection = response.connection
    if connection is not None and connection.transport is not None:
        connection.transport.abort()
