"""One review in, one answer out; the answer is always "allowed"."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from reviews import make_pod, make_review, patched
from spillway_operator.api import Allowed, InjectionStatus, PoolStatus, names, parse_pool
from spillway_operator.injection import Facts, inject
from spillway_operator.kube.errors import ApiError
from spillway_operator.webhook.metrics import REGISTRY
from spillway_operator.webhook.patch import build_patch
from spillway_operator.webhook.review import MAX_WARNING_CHARACTERS, UnreadableReview, answer
from spillway_operator.webhook.trials import Trials

POOL = parse_pool(
    {"metadata": {"name": "chat", "namespace": "team-a", "uid": "u"}, "spec": {"tiers": {"dram": {"capacity": "1Gi"}}}}
)
FACTS = Facts(pool=POOL, allowed=Allowed("registry.example/sidecar:1"))


async def known(namespace: str, pool: str) -> Facts:
    assert (namespace, pool) == ("team-a", "chat")
    return FACTS


async def unreachable(namespace: str, pool: str) -> Facts:
    raise ApiError(0, "GET", "/apis", "timed out")


async def broken(namespace: str, pool: str) -> Facts:
    raise ZeroDivisionError


async def never(namespace: str, pool: str) -> Facts:
    raise AssertionError("nothing needs to be known about this pod")


async def admissible(namespace: str, injected: Any, plain: Any) -> None:
    return None


async def never_asked(namespace: str, injected: Any, spent_seconds: float) -> bool:
    raise AssertionError("there is no second choice for this pod")


async def refused(namespace: str, injected: Any, plain: Any) -> str:
    assert namespace == "team-a"
    assert injected == inject(plain, FACTS).pod
    return 'pods "chat-x" is forbidden: exceeded quota: small'


def counted(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


async def respond(
    pod: Any,
    gather: Any,
    find_refusal: Any = admissible,
    trials: Trials | None = None,
    *,
    is_admitted: Any = never_asked,
    dry_run: bool = False,
) -> dict[str, Any]:
    review = await answer(make_review(pod, dry_run=dry_run), gather, find_refusal, is_admitted, trials or Trials())
    response: dict[str, Any] = review["response"]
    assert response["uid"] == "4b1d"
    assert response["allowed"] is True
    return response


async def test_injects_by_patch() -> None:
    pod = make_pod()
    response = await respond(pod, known)
    assert patched(pod, response) == inject(pod, FACTS).pod
    assert "warnings" not in response


async def test_probe_is_answered_by_annotation_and_warning_and_looked_up_as_any_pod() -> None:
    pod = make_pod()
    pod["metadata"]["labels"][names.POOL_LABEL] = names.PROBE_POOL

    async def absent(namespace: str, pool: str) -> Facts:
        assert pool == names.PROBE_POOL
        return Facts(pool=None, allowed=FACTS.allowed)

    response = await respond(pod, absent)
    assert patched(pod, response)["metadata"]["annotations"] == {names.PROBED_ANNOTATION: "true"}
    assert response["warnings"] == [names.PROBE_ANSWER]
    cut_off = await respond(pod, unreachable)
    assert patched(pod, cut_off)["metadata"]["annotations"][names.SKIPPED_ANNOTATION] == "injection-failed"


async def test_pod_that_calls_itself_probed_is_a_pod_like_any() -> None:
    pod = make_pod()
    pod["metadata"]["annotations"] = {names.PROBED_ANNOTATION: "true"}
    before = counted("spillway_webhook_reviews_total", outcome="injected")
    response = await respond(pod, known)
    assert patched(pod, response) == inject(pod, FACTS).pod
    assert "warnings" not in response
    assert counted("spillway_webhook_reviews_total", outcome="injected") == before + 1


async def test_second_call_changes_nothing() -> None:
    injected = inject(make_pod(), FACTS).pod
    assert "patch" not in await respond(injected, never)


async def test_mesh_that_came_between_two_calls_leaves_the_sidecars_port_alone() -> None:
    injected = inject(make_pod(), FACTS).pod
    injected["spec"]["containers"].append({"name": "linkerd-proxy"})
    before = counted("spillway_webhook_reviews_total", outcome="injected")
    after = patched(injected, await respond(injected, never))
    assert after["metadata"]["annotations"]["config.linkerd.io/skip-inbound-ports"] == "9464"
    assert after["spec"] == injected["spec"]
    assert "patch" not in await respond(after, never)
    assert counted("spillway_webhook_reviews_total", outcome="injected") == before, "it was injected once"


async def test_pod_that_opted_out_is_not_looked_at() -> None:
    pod = make_pod()
    pod["metadata"]["labels"][names.INJECT_LABEL] = "false"
    assert "patch" not in await respond(pod, never)


async def test_skip_is_annotated_warned_of_and_counted() -> None:
    before = counted("spillway_webhook_skips_total", reason="host-ipc")
    pod = make_pod(hostIPC=True)
    response = await respond(pod, known)
    after = patched(pod, response)
    assert after["metadata"]["annotations"] == {
        names.SKIPPED_ANNOTATION: "host-ipc",
        names.SKIPPED_MESSAGE_ANNOTATION: "spec.hostIPC is true: remove it to let the pod be injected",
    }
    assert after["spec"] == pod["spec"]
    assert response["warnings"][0].startswith("no Spillway sidecar (host-ipc): spec.hostIPC is true")
    assert counted("spillway_webhook_skips_total", reason="host-ipc") == before + 1


async def test_pod_that_the_api_server_refuses_because_of_us_starts_plain_with_its_words() -> None:
    pod = make_pod()
    response = await respond(pod, known, refused)
    after = patched(pod, response)
    assert after["metadata"]["annotations"][names.SKIPPED_ANNOTATION] == "not-admissible"
    assert "exceeded quota: small" in after["metadata"]["annotations"][names.SKIPPED_MESSAGE_ANNOTATION]
    assert after["spec"] == pod["spec"]
    assert "exceeded quota: small" in response["warnings"][0]


# As an SCC of OpenShift with MustRunAsRange says it, which is asked about the pool's user first.
OUT_OF_RANGE = "unable to validate against any security context constraint: .runAsUser: Invalid value: 1207959552"
UID_RANGE = {"openshift.io/sa.scc.uid-range": "1000650000/10000"}


def assigning(**spec: Any) -> tuple[Any, Any]:
    """How to gather facts, and to refuse by them, in a namespace that has a range of users. `spec` is the pool's."""
    stored = {
        "metadata": POOL.metadata.model_dump(by_alias=True),
        "spec": {"tiers": {"dram": {"capacity": "1Gi"}}, **spec},
    }
    facts = replace(FACTS, pool=parse_pool(stored), namespace_annotations=UID_RANGE)

    async def gather(namespace: str, pool: str) -> Facts:
        return facts

    async def refuse(namespace: str, injected: Any, plain: Any) -> str:
        assert injected == inject(plain, facts).pod
        return OUT_OF_RANGE

    return gather, refuse


def tiers(volume: dict[str, Any]) -> dict[str, Any]:
    return {"dram": {"capacity": "1Gi"}, "nvme": {"capacity": "1Gi", "volume": volume}}


@pytest.mark.parametrize("volume", [{"type": "Ephemeral"}, {"type": "EmptyDir", "emptyDir": {"sizeLimit": "2Gi"}}])
async def test_cluster_that_takes_no_user_of_ours_may_choose_one(volume: dict[str, Any]) -> None:
    async def takes_what_names_none(namespace: str, injected: Any, spent_seconds: float) -> bool:
        assert namespace == "team-a" and 0 <= spent_seconds < 1
        contexts = [container["securityContext"] for container in injected["spec"]["initContainers"]]
        return not any({"runAsUser", "runAsGroup"} & context.keys() for context in contexts)

    # By the time that we are called the SCC has given the pod its fsGroup; where none has, none is ours to give.
    for security in ({}, {"fsGroup": 1000650000}):
        pod = make_pod(securityContext=security)
        gather, refuse = assigning(tiers=tiers(volume))
        response = await respond(pod, gather, refuse, is_admitted=takes_what_names_none)
        after = patched(pod, response)
        assert [container["name"] for container in after["spec"]["initContainers"]] == ["spillway-client", "spillway"]
        assert all(c["securityContext"]["runAsNonRoot"] for c in after["spec"]["initContainers"])
        assert after["spec"]["securityContext"] == security
        assert "warnings" not in response
        assert "patch" not in await respond(after, never)


async def test_pod_that_is_refused_with_a_user_of_the_clusters_choice_too_starts_plain() -> None:
    async def takes_none(namespace: str, injected: Any, spent_seconds: float) -> bool:
        return False

    pod = make_pod()
    after = patched(pod, await respond(pod, *assigning(), is_admitted=takes_none))
    assert after["spec"] == pod["spec"]
    assert OUT_OF_RANGE in after["metadata"]["annotations"][names.SKIPPED_MESSAGE_ANNOTATION]


@pytest.mark.parametrize(
    ("pool", "pod"),
    [
        ({"tiers": tiers({"type": "HostPath", "hostPath": {"path": "/mnt/nvme0"}})}, {}),
        ({"sidecar": {"securityContext": {"runAsUser": 1000}}}, {}),
        ({}, {"securityContext": {"runAsUser": 0}}),
    ],
    ids=["a store that users tell apart", "a user that the pool names", "root"],
)
async def test_user_is_never_left_to_the_cluster_where_it_matters(pool: dict[str, Any], pod: dict[str, Any]) -> None:
    gather, _ = assigning(**pool)

    async def refuse(namespace: str, injected: Any, plain: Any) -> str:
        return OUT_OF_RANGE

    async def with_path(namespace: str, name: str) -> Facts:
        return replace(
            await gather(namespace, name), allowed=Allowed("registry.example/sidecar:1", host_paths=("/mnt/nvme0",))
        )

    plain = make_pod(**pod)
    after = patched(plain, await respond(plain, with_path, refuse))
    assert after["metadata"]["annotations"][names.SKIPPED_ANNOTATION] == "not-admissible"


def half_open(pod: Any, since: str = "2026-11-24T12:00:00Z") -> Any:
    """Facts of a pool whose breaker is half open for the revision that `pod` would get."""
    assert FACTS.pool is not None
    revision = inject(pod, FACTS).pod["metadata"]["labels"][names.REVISION_LABEL]
    injection = InjectionStatus.model_validate(
        {"state": "Probing", "message": "pod chat-x: no image", "since": since, "revision": revision}
    )
    pool = FACTS.pool.model_copy(update={"status": PoolStatus(injection=injection)})

    async def gather(namespace: str, name: str) -> Facts:
        return replace(FACTS, pool=pool)

    return gather


async def skip_reason(*args: Any, **kwargs: Any) -> str | None:
    pod = make_pod()
    after = patched(pod, await respond(pod, *args, **kwargs))
    reason: str | None = (after["metadata"].get("annotations") or {}).get(names.SKIPPED_ANNOTATION)
    return reason


async def test_half_open_breaker_lets_one_pod_through() -> None:
    trials, pod = Trials(), make_pod()
    assert await skip_reason(half_open(pod), admissible, trials) is None
    assert await skip_reason(half_open(pod), admissible, trials) == "sidecar-unavailable"
    assert await skip_reason(half_open(pod, since="2026-11-24T12:05:00Z"), admissible, trials) is None


async def test_neither_a_dry_run_nor_a_refused_pod_is_a_trial() -> None:
    trials, pod = Trials(), make_pod()
    assert await skip_reason(half_open(pod), admissible, trials, dry_run=True) is None
    assert await skip_reason(half_open(pod), always_refused, trials) == "not-admissible"
    assert await skip_reason(half_open(pod), admissible, trials) is None


async def always_refused(namespace: str, injected: Any, plain: Any) -> str:
    return "exceeded quota: small"


@pytest.mark.parametrize(("gather", "kind"), [(unreachable, "api-server"), (broken, "unexpected")])
async def test_failure_of_ours_lets_the_pod_start_plain(gather: Any, kind: str) -> None:
    before = counted("spillway_webhook_errors_total", kind=kind)
    pod = make_pod()
    response = await respond(pod, gather)
    assert patched(pod, response)["metadata"]["annotations"][names.SKIPPED_ANNOTATION] == "injection-failed"
    assert len(response["warnings"][0]) <= MAX_WARNING_CHARACTERS
    assert counted("spillway_webhook_errors_total", kind=kind) == before + 1


@pytest.mark.parametrize(
    "pod", [{}, {"metadata": None}, {"metadata": {"labels": {names.POOL_LABEL: "chat"}}}, [], "x", None]
)
async def test_strange_pod_is_allowed(pod: Any) -> None:
    await respond(pod, known)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"{}", b'{"request": {}}', b'{"request": null}'])
async def test_what_is_no_review_is_told_so(body: bytes) -> None:
    with pytest.raises(UnreadableReview, match="no AdmissionReview"):
        await answer(body, never, admissible, never_asked, Trials())


def test_patch_of_equal_pods_is_empty() -> None:
    assert build_patch(make_pod(), make_pod()) == []


def test_patch_adds_replaces_and_removes() -> None:
    before = {"metadata": {"a": 1, "b": 1}, "spec": {"c": [1]}}
    after = {"metadata": {"b": 2, "d": 1}, "spec": {"c": [1]}}
    assert build_patch(before, after) == [
        {"op": "remove", "path": "/metadata/a"},
        {"op": "replace", "path": "/metadata/b", "value": 2},
        {"op": "add", "path": "/metadata/d", "value": 1},
    ]
