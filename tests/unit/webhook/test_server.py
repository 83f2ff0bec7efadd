"""The running webhook with an API server that is down: the state in which it must still harm nobody."""

from __future__ import annotations

import asyncio
import socket
import ssl
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from certificates import TOKEN, common_name, write_certificate, write_token
from reviews import make_pod, make_review, patched
from spillway.config import ConfigError
from spillway_operator.api import names
from spillway_operator.kube.access import Access
from spillway_operator.webhook.server import serve
from spillway_operator.webhook.settings import WebhookSettings


def make_settings(folder: Path, **settings: Any) -> WebhookSettings:
    write_certificate(folder / "tls", "first")
    write_token(folder / "tls")
    return WebhookSettings(
        sidecar_image="registry.example/sidecar:1",
        port=0,
        http_port=0,
        tls_dir=folder / "tls",
        status_keys_dir=folder / "keys",
        **settings,
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
        url = f"https://localhost:{port}/inject/{TOKEN}"
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
    assert patched(pod, response)["metadata"]["annotations"][names.SKIPPED_ANNOTATION] == "injection-failed"


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


async def status_of(session: aiohttp.ClientSession, port: int, path: str, trust: ssl.SSLContext) -> int:
    async with session.post(f"https://localhost:{port}{path}", data=make_review(make_pod()), ssl=trust) as answered:
        await answered.read()
        return answered.status


@pytest.mark.parametrize(
    "path",
    ["/inject", "/inject/", "/", f"/inject/{TOKEN[:-1]}", f"/inject/{TOKEN}0", f"/inject/{'0' * 64}", "/inject/%C3%A9%00",
     f"/inject/{TOKEN.upper()}", f"/inject/{TOKEN}/more"],
)  # fmt: skip
async def test_stranger_learns_nothing(tmp_path: Path, path: str) -> None:
    async with serve(make_settings(tmp_path), dead_access()) as (port, _), aiohttp.ClientSession() as session:
        assert await status_of(session, port, path, trusting(tmp_path)) == 404
        assert await status_of(session, port, f"/inject/{TOKEN}", trusting(tmp_path)) == 200


async def test_tokens_change_without_a_restart_and_never_all_go(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    following = "f" * 64
    async with serve(settings, dead_access(), poll_seconds=0.05) as (port, _), aiohttp.ClientSession() as session:

        async def statuses() -> tuple[int, int]:
            trust = trusting(tmp_path)
            before = await status_of(session, port, f"/inject/{TOKEN}", trust)
            return before, await status_of(session, port, f"/inject/{following}", trust)

        async def until(expected: tuple[int, int]) -> None:
            async with asyncio.timeout(10):
                while await statuses() != expected:
                    await asyncio.sleep(0.02)

        assert await statuses() == (200, 404)
        write_token(settings.tls_dir, TOKEN, following)
        await until((200, 200))
        write_token(settings.tls_dir, following)
        await until((404, 200))
        write_token(settings.tls_dir, "damaged")
        for _ in range(10):
            assert await statuses() == (404, 200)
            await asyncio.sleep(0.02)


async def test_client_of_another_authority_gets_no_connection(tmp_path: Path) -> None:
    write_certificate(tmp_path / "client", "api-server")
    write_certificate(tmp_path / "stranger", "stranger")
    settings = make_settings(tmp_path, client_ca_file=tmp_path / "client" / "tls.crt")
    path = f"/inject/{TOKEN}"
    async with serve(settings, dead_access()) as (port, _), aiohttp.ClientSession() as session:
        known = trusting(tmp_path)
        known.load_cert_chain(tmp_path / "client" / "tls.crt", tmp_path / "client" / "tls.key")
        assert await status_of(session, port, path, known) == 200
        assert await status_of(session, port, "/inject/x", known) == 404
        unknown = trusting(tmp_path)
        unknown.load_cert_chain(tmp_path / "stranger" / "tls.crt", tmp_path / "stranger" / "tls.key")
        for trust in (unknown, trusting(tmp_path)):
            with pytest.raises((aiohttp.ClientError, ssl.SSLError)):
                await status_of(session, port, path, trust)


async def test_client_ca_that_is_none_is_said_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text("none")
    with pytest.raises(ConfigError, match=r"webhook\.clientCA"):
        async with serve(make_settings(tmp_path, client_ca_file=tmp_path / "ca.crt"), dead_access()):
            pass
