"""The token in the webhook's path: at no moment of a rotation does a replica refuse what the API server calls."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_api import MemoryApi
from spillway_operator.controller.certificates import LEAF_LIFE, SERVING_SECRET, ensure_webhook_trust
from spillway_operator.controller.inject_tokens import (
    TOKEN_OVERLAP,
    called_word,
    make_token,
    parse_tokens,
    render_tokens,
)
from spillway_operator.controller.webhook_health import WebhookHealth
from spillway_operator.kube.client import FieldManager
from spillway_operator.kube.resources import SECRETS, WEBHOOK_CONFIGURATIONS, Manifest, Resource

BEGAN = datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC)
# What the kubelet takes to project a changed Secret, and the API server to hear of a changed configuration.
KUBELET_LAG = timedelta(minutes=5)
API_SERVER_LAG = timedelta(seconds=30)


class Trust(MemoryApi):
    """The webhook configuration as the chart renders it, and the Secrets."""

    def __init__(self) -> None:
        super().__init__()
        service = {"name": "spillway-webhook", "namespace": "spillway-system", "port": 443}
        webhook = {"name": "inject.spillway.dev", "clientConfig": {"service": service}}
        self.put(WEBHOOK_CONFIGURATIONS, {"metadata": {"name": "spillway", "uid": "u"}, "webhooks": [webhook]})
        self.writes: list[str] = []

    async def apply(self, manifest: Manifest, resource: Resource, manager: FieldManager, **_: Any) -> Manifest:
        self.writes.append(resource.kind)
        if resource is not WEBHOOK_CONFIGURATIONS:
            return self.put(resource, manifest)
        stored = self.stored[resource.kind, "spillway"]
        for own, given_one in zip(stored["webhooks"], manifest["webhooks"], strict=True):
            config = given_one["clientConfig"]
            own["clientConfig"] |= {name: value for name, value in config.items() if name != "service"}
            own["clientConfig"]["service"] |= config.get("service", {})
        return stored

    async def ensure(self, now: datetime) -> None:
        await ensure_webhook_trust(self, "spillway-system", "spillway", ("spillway-webhook.spillway-system.svc",), now)

    @property
    def admitted(self) -> tuple[str, ...]:
        data = self.stored["Secret", SERVING_SECRET]["data"]
        return tuple(t.word for t in parse_tokens({name: base64.b64decode(value) for name, value in data.items()}))

    @property
    def called(self) -> str | None:
        return called_word(self.path)

    @property
    def path(self) -> str | None:
        (webhook,) = self.stored[WEBHOOK_CONFIGURATIONS.kind, "spillway"]["webhooks"]
        path: str | None = webhook["clientConfig"]["service"].get("path")
        return path

    def call(self, path: str) -> None:
        (webhook,) = self.stored[WEBHOOK_CONFIGURATIONS.kind, "spillway"]["webhooks"]
        webhook["clientConfig"]["service"]["path"] = path


@dataclass(frozen=True)
class Round:
    """What stood from a moment on."""

    at: datetime
    admitted: tuple[str, ...]
    called: str | None


def assert_never_refused(rounds: list[Round]) -> None:
    """Every call that the API server may still make meets, at every replica, a Secret that admits it."""
    ends = [following.at for following in rounds[1:]] + [rounds[-1].at + timedelta(days=1)]
    for calling, called_until in zip(rounds, ends, strict=True):
        for admitting, admitted_until in zip(rounds, ends, strict=True):
            overlaps = calling.at < admitted_until + KUBELET_LAG and admitting.at < called_until + API_SERVER_LAG
            if overlaps:
                assert calling.called in admitting.admitted, (calling, admitting)


gaps = st.sampled_from(
    [
        timedelta(minutes=1),
        timedelta(minutes=30),
        TOKEN_OVERLAP,
        timedelta(hours=3),
        timedelta(days=10),
        LEAF_LIFE * 3 / 4,
    ]
)


@settings(deadline=None, max_examples=60)
@given(st.lists(gaps, min_size=1, max_size=14))
async def test_no_call_is_refused_however_the_operator_comes_and_goes(pauses: list[timedelta]) -> None:
    api, now, rounds = Trust(), BEGAN, []
    for pause in [*pauses, timedelta(0)]:
        await api.ensure(now)
        rounds.append(Round(now, api.admitted, api.called))
        assert len(api.admitted) <= 3
        now += pause
    assert_never_refused(rounds)


async def test_token_comes_with_the_certificate_and_the_one_before_goes_in_the_end() -> None:
    api = Trust()
    await api.ensure(BEGAN)
    (first,) = api.admitted
    assert api.called == first, "with one token there is nobody to wait for"
    api.writes.clear()
    await api.ensure(BEGAN + timedelta(days=1))
    assert api.writes == [], "quiet at rest"

    renewed = BEGAN + LEAF_LIFE * 3 / 4
    await api.ensure(renewed)
    second = api.admitted[-1]
    assert (api.admitted, api.called) == ((first, second), first), "admitted first"
    await api.ensure(renewed + TOKEN_OVERLAP - timedelta(minutes=1))
    assert api.called == first
    await api.ensure(renewed + TOKEN_OVERLAP)
    await api.ensure(renewed + TOKEN_OVERLAP + timedelta(minutes=1))
    assert (api.admitted, api.called) == ((first, second), second), "called an hour later"
    await api.ensure(renewed + 2 * TOKEN_OVERLAP)
    assert (api.admitted, api.called) == ((second,), second), "and alone after another"


@pytest.mark.parametrize("loss", ["deleted", "emptied", "garbage"])
async def test_lost_secret_keeps_the_token_that_replicas_know(loss: str) -> None:
    api = Trust()
    await api.ensure(BEGAN)
    called = api.called
    if loss == "deleted":
        api.drop(SECRETS, SERVING_SECRET)
    else:
        garbage = base64.b64encode(b"garbage").decode()
        stored = api.stored["Secret", SERVING_SECRET]
        api.put(SECRETS, {**stored, "data": {} if loss == "emptied" else dict.fromkeys(stored["data"], garbage)})
    await api.ensure(BEGAN + timedelta(days=1))
    assert api.called == called
    assert called in api.admitted


@pytest.mark.parametrize("path", ["/inject", "/", "/inject/" + "a" * 64, "/other/" + "a" * 64])
async def test_path_that_is_not_ours_is_set_right(path: str) -> None:
    api = Trust()
    await api.ensure(BEGAN)
    (own,) = api.admitted
    api.call(path)
    await api.ensure(BEGAN + timedelta(days=1))
    assert api.called == own


async def test_configuration_that_is_missing_keeps_the_secret_from_nothing() -> None:
    api = Trust()
    configuration = api.stored[WEBHOOK_CONFIGURATIONS.kind, "spillway"]
    api.drop(WEBHOOK_CONFIGURATIONS, "spillway")
    await api.ensure(BEGAN)
    (own,) = api.admitted
    api.put(WEBHOOK_CONFIGURATIONS, configuration)
    await api.ensure(BEGAN + timedelta(minutes=1))
    assert (api.admitted, api.called) == ((own,), own)


async def test_injection_is_not_ready_before_the_api_server_is_told_the_path() -> None:
    api = Trust()
    health = WebhookHealth(
        api,
        "spillway-system",
        "spillway-webhook",
        "spillway",
        "control:1",
        find_namespaces=lambda: (),
        on_change=lambda: None,
    )
    await api.ensure(BEGAN)
    await health.look()
    assert "no ready replica" in health.problem
    api.call("/inject")
    await health.look()
    assert "has no path with a token yet" in health.problem


def test_tokens_are_long_and_come_back_as_they_were() -> None:
    tokens = tuple(sorted(make_token(BEGAN + timedelta(seconds=second)) for second in range(3)))
    assert len({token.word for token in tokens}) == 3 and all(len(token.word) == 64 for token in tokens)
    assert parse_tokens(render_tokens(tokens)) == tokens
    assert parse_tokens({"inject-token-0": b"", "inject-token-1": b"1 short", "tls.crt": b"1 " + b"a" * 64}) == ()
