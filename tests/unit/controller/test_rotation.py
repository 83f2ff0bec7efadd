"""Five hours of a CA's rotation, and of its loss, minute by minute: at no moment does a real TLS client fail.

The replica serves what the kubelet brought it up to two minutes ago. The five hours end now, as a handshake judges by the machine's clock.
"""

from __future__ import annotations

import base64
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from handshake import shake_hands
from memory_api import MemoryApi
from spillway_operator.controller.certificates import (
    CA_LIFE,
    CA_SECRET,
    LEAF_LIFE,
    SERVING_SECRET,
    Pair,
    ensure_webhook_trust,
    make_ca,
    make_leaf,
)
from spillway_operator.kube.client import FieldManager
from spillway_operator.kube.resources import SECRETS, WEBHOOK_CONFIGURATIONS, Manifest, Resource

NAME = "spillway-webhook.spillway-system.svc"
CONFIGURATION = "spillway"
MINUTE = timedelta(minutes=1)
MINUTES = 300
KUBELET_MINUTES = 2


class Trust(MemoryApi):
    """Secrets are replaced, client configurations merged."""

    def __init__(self) -> None:
        super().__init__()
        webhook: Manifest = {"name": "inject.spillway.dev", "clientConfig": {}}
        self.put(WEBHOOK_CONFIGURATIONS, {"metadata": {"name": CONFIGURATION, "uid": "u"}, "webhooks": [webhook]})

    async def apply(self, manifest: Manifest, resource: Resource, manager: FieldManager, **_: Any) -> Manifest:
        if resource is not WEBHOOK_CONFIGURATIONS:
            return self.put(resource, manifest)
        stored = self.stored[resource.kind, CONFIGURATION]
        (patch,) = manifest["webhooks"]
        stored["webhooks"][0]["clientConfig"] |= patch["clientConfig"]
        return stored

    @property
    def bundle(self) -> str:
        config = self.stored[WEBHOOK_CONFIGURATIONS.kind, CONFIGURATION]["webhooks"][0]["clientConfig"]
        return base64.b64decode(config["caBundle"]).decode()

    @property
    def leaf(self) -> Pair:
        data = self.stored[SECRETS.kind, SERVING_SECRET]["data"]
        return Pair(base64.b64decode(data["tls.crt"]), base64.b64decode(data["tls.key"]))


def leave_alone(_: Trust) -> None:
    pass


def lose(secret: str) -> Callable[[Trust], None]:
    return lambda api: api.drop(SECRETS, secret)


def damage(secret: str, *names: str) -> Callable[[Trust], None]:
    def act(api: Trust) -> None:
        stored = api.stored[SECRETS.kind, secret]
        garbage = base64.b64encode(b"garbage").decode()
        api.put(SECRETS, {**stored, "data": stored["data"] | dict.fromkeys(names, garbage)})

    return act


def put_anothers(api: Trust) -> None:
    """A leaf that fits its key and names, of a CA that nobody trusts."""
    now = datetime.now(UTC) - timedelta(minutes=MINUTES)
    leaf = make_leaf(make_ca(now), (NAME,), now)
    stored = api.stored[SECRETS.kind, SERVING_SECRET]
    fields = {"tls.crt": leaf.certificate, "tls.key": leaf.key}
    api.put(SECRETS, {**stored, "data": stored["data"] | {n: base64.b64encode(v).decode() for n, v in fields.items()}})


@pytest.mark.parametrize(
    ("age", "at_minute", "act"),
    [
        pytest.param(CA_LIFE * 2 / 3, 0, leave_alone, id="a CA follows the other"),
        pytest.param(LEAF_LIFE * 2 / 3, 0, leave_alone, id="a leaf follows the other"),
        pytest.param(timedelta(days=1), 10, lose(CA_SECRET), id="the CA is lost"),
        pytest.param(timedelta(days=1), 10, damage(CA_SECRET, "ca-0.key"), id="the CA is damaged"),
        pytest.param(CA_LIFE * 2 / 3, 90, damage(CA_SECRET, "ca-1.crt"), id="the new CA is damaged when it signs"),
        pytest.param(
            CA_LIFE * 2 / 3, 20, damage(CA_SECRET, "ca-0.crt"), id="the old CA is damaged before the new one signs"
        ),
        pytest.param(timedelta(days=1), 10, lose(SERVING_SECRET), id="the leaf is lost"),
        pytest.param(timedelta(days=1), 10, damage(SERVING_SECRET, "tls.crt"), id="the leaf is damaged"),
    ],
)
async def test_no_client_fails(age: timedelta, at_minute: int, act: Callable[[Trust], None], tmp_path: Path) -> None:
    began = datetime.now(UTC).replace(microsecond=0) - MINUTES * MINUTE
    api = Trust()
    for moment in (began - age, began - min(age, timedelta(days=20))):
        await ensure_webhook_trust(api, "spillway-system", CONFIGURATION, (NAME,), moment)
    served, believed, leaves = deque([api.leaf], KUBELET_MINUTES + 1), deque([api.bundle], 2), {api.leaf}
    minute = changed_at = 0
    has_acted = False
    while minute < MINUTES:
        if not has_acted and minute >= at_minute:
            has_acted = True
            act(api)
        await ensure_webhook_trust(api, "spillway-system", CONFIGURATION, (NAME,), began + minute * MINUTE)
        if (api.leaf, api.bundle) != (served[-1], believed[-1]):
            changed_at = minute
        served.append(api.leaf)
        believed.append(api.bundle)
        leaves.add(api.leaf)
        if minute - changed_at <= KUBELET_MINUTES:
            # The kubelet may be slow or quick, but a caBundle is heard of before a Secret is brought.
            for leaf, bundle in {(served[0], believed[0]), *((leaf, believed[-1]) for leaf in served)}:
                shake_hands(leaf, bundle, NAME, tmp_path)
        # In calm hours every fifth minute does.
        minute += 1 if minute - changed_at <= KUBELET_MINUTES else 5
    shake_hands(api.leaf, api.bundle, NAME, tmp_path)
    assert len(leaves) > 1, "something was renewed"
    stored = api.stored[SECRETS.kind, CA_SECRET]["data"]
    assert api.bundle.count("BEGIN CERTIFICATE") == len(stored) // 2, "of a CA that is lost nothing stays in the end"


@pytest.mark.parametrize(
    "act", [lose(CA_SECRET), lose(SERVING_SECRET), put_anothers], ids=["CA", "leaf", "another's leaf"]
)
async def test_what_is_missing_or_belongs_to_another_is_made_anew(act: Callable[[Trust], None], tmp_path: Path) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    api = Trust()
    for moment in (now - timedelta(hours=2), now):
        await ensure_webhook_trust(api, "spillway-system", CONFIGURATION, (NAME,), moment)
        if moment < now:
            act(api)
    shake_hands(api.leaf, api.bundle, NAME, tmp_path)
