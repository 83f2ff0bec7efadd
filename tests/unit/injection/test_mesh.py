"""Which meshes are seen, and that they leave the sidecar's port alone whichever webhook is called first."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import pytest
from golden_cases import load_case
from spillway_operator.api import names
from spillway_operator.injection import inject, revisit

ISTIO = "traffic.sidecar.istio.io/excludeInboundPorts"
LINKERD = "config.linkerd.io/skip-inbound-ports"
ENABLED = {"istio-injection": "enabled"}


def injected(
    *,
    labels: dict[str, str] | None = None,
    annotations: dict[str, str] | None = None,
    namespace_labels: dict[str, str] | None = None,
    namespace_annotations: dict[str, str] | None = None,
    **spec: Any,
) -> dict[str, Any]:
    """The annotations of the golden pod `burstable` after injection, with these beside."""
    case = load_case("burstable")
    pod = copy.deepcopy(case.pod)
    pod["metadata"]["labels"] |= labels or {}
    pod["metadata"]["annotations"] = dict(annotations or {})
    pod["spec"] |= spec
    place = replace(
        case.facts, namespace_labels=namespace_labels or {}, namespace_annotations=namespace_annotations or {}
    )
    outcome = inject(pod, place)
    assert outcome.skip is None
    assert inject(outcome.pod, place).pod == outcome.pod, "twice is once"
    return dict(outcome.pod["metadata"]["annotations"])


def test_nothing_is_added_where_no_mesh_is_seen() -> None:
    annotations = injected(namespace_labels={"team": "a"}, namespace_annotations={LINKERD: "25"})
    assert ISTIO not in annotations and LINKERD not in annotations


@pytest.mark.parametrize(
    "signs",
    [
        {"labels": {"sidecar.istio.io/inject": "true"}},
        {"annotations": {"sidecar.istio.io/inject": "true"}},
        {"labels": {"istio.io/rev": "canary"}},
        {"namespace_labels": ENABLED},
        {"namespace_labels": {"istio.io/rev": "canary"}},
        {"initContainers": [{"name": "istio-proxy", "restartPolicy": "Always"}]},
    ],
)
def test_istio_is_told(signs: dict[str, Any]) -> None:
    annotations = injected(**signs)
    assert annotations[ISTIO] == "9464" and LINKERD not in annotations


@pytest.mark.parametrize(
    "signs",
    [
        {"labels": {"sidecar.istio.io/inject": "false"}, "namespace_labels": ENABLED},
        {"labels": {"sidecar.istio.io/inject": "true"}, "namespace_labels": {"istio-injection": "disabled"}},
        {"hostNetwork": True, "namespace_labels": ENABLED},
        {"annotations": {"traffic.sidecar.istio.io/includeInboundPorts": ""}, "namespace_labels": ENABLED},
        {"annotations": {"traffic.sidecar.istio.io/includeInboundPorts": "80,9464"}, "namespace_labels": ENABLED},
        {"annotations": {"linkerd.io/inject": "disabled"}, "namespace_annotations": {"linkerd.io/inject": "enabled"}},
        {"hostNetwork": True, "namespace_annotations": {"linkerd.io/inject": "enabled"}},
    ],
)
def test_mesh_that_stays_out_or_captures_listed_ports_is_told_nothing(signs: dict[str, Any]) -> None:
    annotations = injected(**signs)
    assert ISTIO not in annotations and LINKERD not in annotations


@pytest.mark.parametrize(
    "signs",
    [
        {"annotations": {"linkerd.io/inject": "enabled"}},
        {"annotations": {"linkerd.io/inject": "ingress"}},
        {"namespace_annotations": {"linkerd.io/inject": "enabled"}},
        {"initContainers": [{"name": "linkerd-proxy", "restartPolicy": "Always"}]},
    ],
)
def test_linkerd_is_told(signs: dict[str, Any]) -> None:
    annotations = injected(**signs)
    assert annotations[LINKERD] == "9464" and ISTIO not in annotations


@pytest.mark.parametrize(
    ("theirs", "both"),
    [
        ("", "9464"),
        ("8001", "8001,9464"),
        ("8001, 8002,", "8001,8002,9464"),
        ("9464", "9464"),
        ("9000-9500", "9000-9500"),
        ("9000-9100", "9000-9100,9464"),
        ("$(PORT)", "$(PORT),9464"),
    ],
)
def test_port_goes_behind_what_the_user_named_once(theirs: str, both: str) -> None:
    asked = {"linkerd.io/inject": "enabled", LINKERD: theirs}
    assert injected(annotations=asked)[LINKERD] == both


def test_pods_list_takes_the_place_of_the_namespaces() -> None:
    place = {"linkerd.io/inject": "enabled", LINKERD: "25,8125"}
    assert injected(namespace_annotations=place)[LINKERD] == "25,8125,9464"
    assert injected(namespace_annotations=place, annotations={LINKERD: "22"})[LINKERD] == "22,9464"


def test_port_that_was_moved_is_the_one_that_is_told() -> None:
    neighbour = {"name": "otel", "image": "otel:1", "ports": [{"containerPort": 9464}]}
    containers = [*load_case("burstable").pod["spec"]["containers"], neighbour]
    assert injected(namespace_labels=ENABLED, containers=containers)[ISTIO] == "9465"


@pytest.mark.parametrize("mesh", ["istio", "linkerd"])
def test_either_order_of_webhooks_comes_to_the_same(mesh: str) -> None:
    """The mesh's proxy and init container after us, without a sign before: the API server calls us once more."""
    before = load_case(f"mesh-{mesh}-before-us")
    with_mesh = before.run().pod
    plain = load_case("besteffort")
    late = inject(plain.pod, plain.facts).pod
    annotation = ISTIO if mesh == "istio" else LINKERD
    assert annotation not in late["metadata"]["annotations"]
    for part in ("initContainers", "containers"):
        theirs = [one for one in before.pod["spec"][part] if one["name"].startswith(mesh)]
        late["spec"][part] = [*theirs, *late["spec"][part]]
    unchanged = copy.deepcopy(late)
    again = revisit(late)
    assert late == unchanged, "the input is not changed"
    assert again["metadata"]["annotations"][annotation] == with_mesh["metadata"]["annotations"][annotation]
    (mine,) = [one for one in again["spec"]["initContainers"] if one["name"] == f"{mesh}-init"]
    (hers,) = [one for one in with_mesh["spec"]["initContainers"] if one["name"] == f"{mesh}-init"]
    assert mine == hers
    assert revisit(again) is again


@pytest.mark.parametrize("status", ["", "no JSON", "[]", "{}", '{"port": "9464"}', '{"port": true}', '{"port": 0}'])
def test_annotation_that_somebody_rewrote_costs_nothing(status: str) -> None:
    case = load_case("mesh-istio-before-us")
    pod = case.run().pod
    pod["metadata"]["annotations"][names.STATUS_ANNOTATION] = status
    assert revisit(pod) is pod


def test_init_container_without_the_flag_stays_as_it_is() -> None:
    case = load_case("mesh-istio-before-us")
    for arguments in (["istio-iptables", "-d"], ["istio-iptables"], None):
        pod = copy.deepcopy(case.pod)
        pod["spec"]["initContainers"][0]["args"] = arguments
        outcome = inject(pod, case.facts)
        assert outcome.pod["spec"]["initContainers"][0]["args"] == arguments
        assert json.loads(outcome.pod["metadata"]["annotations"][names.STATUS_ANNOTATION])["port"] == 9464
