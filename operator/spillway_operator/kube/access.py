"""Where the API server is and how to be believed there, without a client library."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


@dataclass(frozen=True)
class Access:
    """`token` is asked for each request: mounted ones rotate."""

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
