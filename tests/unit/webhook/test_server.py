"""The running webhook with an API server that is down: the state in which it must still harm nobody."""

from __future__ import annotations

import asyncio
import socket
import ssl
from pathlib import Path

import aiohttp
from certificates import common_name, write_certificate
from reviews import make_pod, make_review, patched
from spillway_operator.api import names
from spillway_operator.webhook.api_server import Access
from spillway_operator.webhook.server import serve
from spillway_operator.webhook.settings import WebhookSettings


def make_settings(folder: Path) -> WebhookSettings:
    write_certificate(folder / "tls", "first")
    return WebhookSettings(
        sidecar_image="registry.example/sidecar:1",
        port=0,
        http_port=0,
        tls_dir=folder / "tls",
        status_keys_dir=folder / "keys",
    )


def dead_access() -> Access:
    """An address where nobody listens: bound, never listened on, closed."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
    return Access(f"https://127.0.0.1:{port}", ssl.create_default_context(), token=lambda: "")


def trusting(folder: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(folder / "tls" / "tls.crt"))


async def test_pod_starts_plain_and_says_so(tmp_path: Path) -> None:
    pod = make_pod()
    async with serve(make_settings(tmp_path), dead_access()) as (port, http_port), aiohttp.ClientSession() as session:
        url = f"https://localhost:{port}/inject"
        async with session.post(url, data=make_review(pod), ssl=trusting(tmp_path)) as answered:
            response = (await answered.json())["response"]
        async with session.post(url, data=b"nonsense", ssl=trusting(tmp_path)) as answered:
            assert answered.status == 400
        async with session.get(f"http://localhost:{http_port}/healthz") as answered:
            assert answered.status == 200
        async with session.get(f"http://localhost:{http_port}/readyz") as answered:
            assert answered.status == 503
        async with session.get(f"http://localhost:{http_port}/metrics") as answered:
            assert 'spillway_webhook_errors_total{kind="api-server"}' in await answered.text()
    assert response["allowed"] is True
    assert patched(pod, response)["metadata"]["annotations"] == {names.SKIPPED_ANNOTATION: "injection-failed"}


async def test_new_certificate_is_served_without_a_restart(tmp_path: Path) -> None:
    async def served_name(port: int) -> str:
        blind = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        blind.check_hostname, blind.verify_mode = False, ssl.CERT_NONE
        _, writer = await asyncio.open_connection("localhost", port, ssl=blind)
        der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
        await writer.wait_closed()
        return common_name(der)

    async with serve(make_settings(tmp_path), dead_access(), poll_seconds=0.05) as (port, _):
        assert await served_name(port) == "first"
        write_certificate(tmp_path / "tls", "second")
        async with asyncio.timeout(10):
            while (name := await served_name(port)) != "second":
                assert name == "first"
