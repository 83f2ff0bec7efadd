"""The webhook's certificates: a TLS client that trusts the bundle believes the leaf, at every moment of a rotation."""

from __future__ import annotations

import base64
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from handshake import shake_hands
from memory_api import MemoryApi
from spillway_operator.controller.certificates import (
    CA_LIFE,
    CA_OVERLAP,
    CA_SECRET,
    LEAF_LIFE,
    SERVING_SECRET,
    Authority,
    Pair,
    ensure_webhook_trust,
    leaf_serves,
    make_ca,
    make_leaf,
    renew_authority,
)
from spillway_operator.controller.status_keys import (
    CONFIG_MAP_NAME,
    PRIVATE_KEY,
    PUBLIC_KEY,
    SECRET_NAME,
    ensure_signer,
)
from spillway_operator.kube.client import FieldManager
from spillway_operator.kube.resources import SECRETS, Manifest, Resource

NAMES = ("spillway-webhook.spillway-system.svc",)
NOW = datetime.now(UTC).replace(microsecond=0)


def test_the_api_server_can_believe_the_leaf(tmp_path: Path) -> None:
    authority = renew_authority(None, NOW)
    leaf = make_leaf(authority.signer(NOW), NAMES, NOW)
    shake_hands(leaf, authority.bundle.decode(), NAMES[0], tmp_path)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(leaf, authority.bundle.decode(), "other.spillway-system.svc", tmp_path)


def test_a_fresh_authority_and_leaf_are_left_alone() -> None:
    authority = renew_authority(None, NOW)
    assert renew_authority(authority, NOW + CA_LIFE / 2) is authority
    leaf = make_leaf(authority.signer(NOW), NAMES, NOW)
    assert leaf_serves(leaf, authority.pairs[0], NAMES, NOW + LEAF_LIFE / 2)


@pytest.mark.parametrize("problem", ["old", "other authority", "other name", "absent"])
def test_a_leaf_that_does_not_serve_is_told(problem: str) -> None:
    ca = make_ca(NOW)
    leaf: Pair | None = make_leaf(make_ca(NOW) if problem == "other authority" else ca, NAMES, NOW)
    names = ("another.svc",) if problem == "other name" else NAMES
    now = NOW + LEAF_LIFE * 3 / 4 if problem == "old" else NOW
    assert not leaf_serves(None if problem == "absent" else leaf, ca, names, now)


def test_a_new_authority_is_trusted_before_it_signs(tmp_path: Path) -> None:
    old = Authority((make_ca(NOW - CA_LIFE * 3 / 4),))
    old_leaf = make_leaf(old.pairs[0], NAMES, NOW)
    renewed = renew_authority(old, NOW)
    assert len(renewed.pairs) == 2
    assert renewed.signer(NOW) == old.pairs[0], "no client may know the new one yet"
    later = NOW + CA_OVERLAP + timedelta(minutes=1)
    assert renewed.signer(later) == renewed.pairs[1]
    shake_hands(old_leaf, renewed.bundle.decode(), NAMES[0], tmp_path)
    shake_hands(make_leaf(renewed.signer(later), NAMES, NOW), renewed.bundle.decode(), NAMES[0], tmp_path)


def test_an_expired_authority_goes() -> None:
    old = Authority((make_ca(NOW - CA_LIFE - timedelta(days=1)),))
    renewed = renew_authority(old, NOW)
    assert len(renewed.pairs) == 1
    assert renewed.pairs != old.pairs


class Secrets(MemoryApi):
    """Server-side apply of a Secret replaces its data."""

    async def apply(self, manifest: Manifest, resource: Resource, manager: FieldManager, **_: Any) -> Manifest:
        return self.put(resource, manifest)


async def ensure(api: Secrets) -> None:
    await ensure_webhook_trust(api, "spillway-system", "spillway", NAMES)


def damaged(data: dict[str, str], how: str) -> dict[str, str]:
    garbage = base64.b64encode(b"garbage").decode()
    other = {name: base64.b64encode(make_leaf(make_ca(NOW), NAMES, NOW).key).decode() for name in data}
    return {
        "emptied": {},
        "blank": dict.fromkeys(data, ""),
        "garbage": dict.fromkeys(data, garbage),
        "certificate": {n: garbage if n.endswith(".crt") else v for n, v in data.items()},
        "key": {n: garbage if n.endswith(".key") else v for n, v in data.items()},
        "mismatched": {n: other[n] if n.endswith(".key") else v for n, v in data.items()},
    }[how]


@pytest.mark.parametrize("secret", [CA_SECRET, SERVING_SECRET])
@pytest.mark.parametrize("how", ["emptied", "blank", "garbage", "certificate", "key", "mismatched"])
async def test_a_damaged_secret_is_made_anew(secret: str, how: str, tmp_path: Path) -> None:
    api = Secrets()
    await ensure(api)
    stored = api.stored["Secret", secret]
    api.put(SECRETS, {**stored, "data": damaged(stored["data"], how)})
    await ensure(api)
    leaf, authority = (api.stored["Secret", name]["data"] for name in (SERVING_SECRET, CA_SECRET))
    certificate = Pair(base64.b64decode(leaf["tls.crt"]), base64.b64decode(leaf["tls.key"]))
    shake_hands(certificate, base64.b64decode(authority["ca-0.crt"]).decode(), NAMES[0], tmp_path)


@pytest.mark.parametrize("content", ["", "Z2FyYmFnZQ=="])
async def test_a_damaged_status_key_is_made_anew(content: str) -> None:
    api = Secrets()
    await ensure_signer(api, "spillway-system")
    api.put(SECRETS, {**api.stored["Secret", SECRET_NAME], "data": {PRIVATE_KEY: content}})
    signer = await ensure_signer(api, "spillway-system")
    assert api.stored["ConfigMap", CONFIG_MAP_NAME]["data"][PUBLIC_KEY] == signer.public_key()
