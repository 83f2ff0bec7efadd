"""HTTP of the real daemon: who may read what."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from spillway.config import DramConfig, PoolIdentity, SidecarConfig
from spillway.daemon.http import listen
from spillway.daemon.metrics import METRICS
from spillway.status import SidecarStatus
from spillway_operator.controller.members import MemberReport

PORT = 19472
URL = f"http://127.0.0.1:{PORT}"
UID = "7f1c"


@dataclass
class Daemon:
    key: Ed25519PrivateKey

    def token(self, lifetime_seconds: int = 60, audience: str = UID, key: Ed25519PrivateKey | None = None) -> str:
        now = int(time.time())
        claims = {"aud": audience, "iat": now, "exp": now + lifetime_seconds}
        return jwt.encode(claims, key or self.key, algorithm="EdDSA")

    def status(self, token: str | None) -> httpx.Response:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        return httpx.get(f"{URL}/status", headers=headers, trust_env=False)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    root = tmp_path_factory.mktemp("root")
    for name in ("arena", "index", "run", "nvme"):
        (root / name).mkdir()
    key = Ed25519PrivateKey.generate()
    public = base64.b64encode(key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)).decode()
    config = SidecarConfig(
        pool=PoolIdentity(namespace="team", name="chat", uid="11111111-1111-1111-1111-111111111111"),
        revision="abc",
        dram=DramConfig(capacity_bytes=64 * 2**20),
        index_bytes=2**20,
        http_port=PORT,
        status_public_keys=(public,),
    )
    environment = {**os.environ, "SPILLWAY_ROOT": str(root), "SPILLWAY_CONFIG": config.render(), "POD_UID": UID}
    process = subprocess.Popen([sys.executable, "-m", "spillway.daemon"], env=environment)
    try:
        end = time.monotonic() + 20
        while True:
            try:
                if httpx.get(f"{URL}/healthz", trust_env=False).json()["state"] == "serving":
                    break
            except httpx.TransportError:
                pass
            assert time.monotonic() < end, "waited 20 s for the daemon to serve"
            time.sleep(0.05)
        yield Daemon(key)
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def test_status_is_complete_for_a_good_token(daemon: Daemon) -> None:
    status = SidecarStatus.model_validate(daemon.status(daemon.token()).json())
    assert (status.pool, status.revision, status.nvme, status.conditions) == ("chat", "abc", None, ())
    assert [(tier.name, tier.capacity_bytes) for tier in status.tiers] == [("dram", 64 * 2**20)]


def test_operator_reads_what_the_sidecar_answers(daemon: Daemon) -> None:
    """Two models of one JSON on purpose: the operator's bears older and newer sidecars. They must agree on what it reads."""
    answer = daemon.status(daemon.token()).text
    status, report = SidecarStatus.model_validate_json(answer), MemberReport.model_validate_json(answer)
    for told, read in zip(status.tiers, report.tiers, strict=True):
        assert read.model_dump(exclude={"percent_of_device"}) == told.model_dump()
    assert status.tokens is not None and report.tokens is not None
    assert report.tokens.model_dump() == status.tokens.model_dump()
    assert set(MemberReport.model_fields) <= set(SidecarStatus.model_fields)


@pytest.mark.parametrize("case", ["none", "another pod", "another key", "too long", "expired"])
def test_status_is_refused_with_a_reason(daemon: Daemon, case: str) -> None:
    token = {
        "none": None,
        "another pod": daemon.token(audience="other"),
        "another key": daemon.token(key=Ed25519PrivateKey.generate()),
        "too long": daemon.token(lifetime_seconds=3600),
        "expired": daemon.token(lifetime_seconds=-60),
    }[case]
    answer = daemon.status(token)
    assert answer.status_code == 401
    assert len(answer.json()["reason"]) > 10


@pytest.mark.usefixtures("daemon")
def test_every_metric_is_served_and_holds_no_name_of_a_tenant() -> None:
    text = httpx.get(f"{URL}/metrics", trust_env=False).text
    for declared in METRICS:
        assert f"# HELP {declared.name}" in text
    assert "team" not in text and "chat" not in text


def test_a_bad_configuration_is_said_and_survived() -> None:
    environment = {**os.environ, "SPILLWAY_CONFIG": json.dumps({"http_port": "x"})}
    process = subprocess.Popen(
        [sys.executable, "-m", "spillway.daemon"], env=environment, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        line = json.loads(process.stdout.readline())
        assert line["reason"] == "ConfigInvalid" and "SPILLWAY_CONFIG" in line["message"]
        assert process.poll() is None
        process.terminate()
        assert process.wait(10) == 0


@pytest.mark.parametrize("without_ipv6", [False, True])
def test_every_family_that_the_kernel_has_is_served(monkeypatch: pytest.MonkeyPatch, without_ipv6: bool) -> None:
    """A pod may have IPv6 addresses alone, and a node no IPv6 at all."""
    if without_ipv6:
        monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    loopbacks = ["127.0.0.1"]
    if not without_ipv6 and Path("/proc/net/if_inet6").read_text():
        loopbacks.append("::1")
    with listen(0) as listening:
        port = listening.getsockname()[1]
        for address in loopbacks:
            socket.create_connection((address, port), timeout=5).close()
        with pytest.raises(OSError, match="in use"):
            listen(port)
