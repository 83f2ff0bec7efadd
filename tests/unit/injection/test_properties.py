"""What holds for every pod."""

from __future__ import annotations

import copy
from typing import Any

from golden_cases import load_case
from hypothesis import given
from hypothesis import strategies as st
from spillway_operator.api import names
from spillway_operator.injection import MAX_MESSAGE_CHARACTERS, Facts, inject, is_injected
from spillway_operator.injection.qos import is_guaranteed

POOLS = {name: load_case(name).facts for name in ("besteffort", "burstable", "guaranteed", "hostpath")}

env_name = st.sampled_from(["PYTHONPATH", "VLLM_PLUGINS", "SPILLWAY_CONFIG", "HOME", "CUDA_VISIBLE_DEVICES"])
variable = st.one_of(
    st.fixed_dictionaries({"name": env_name, "value": st.sampled_from(["", "a", "a,spillway", "/opt/lib:/more"])}),
    st.fixed_dictionaries({"name": env_name, "valueFrom": st.just({"configMapKeyRef": {"name": "c", "key": "k"}})}),
)
amounts = st.sampled_from(["1", "500m", "2"])
memory = st.sampled_from(["1Gi", "2Gi"])
resources = st.fixed_dictionaries(
    {},
    optional={
        "requests": st.fixed_dictionaries({}, optional={"cpu": amounts, "memory": memory}),
        "limits": st.fixed_dictionaries({}, optional={"cpu": amounts, "memory": memory, "ephemeral-storage": memory}),
    },
)
mount = st.fixed_dictionaries(
    {"name": st.just("models"), "mountPath": st.sampled_from(["/models", "/spillway/x", "/spill"])}
)


def container(name: str, image: st.SearchStrategy[str]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {"name": st.just(name), "image": image},
        optional={
            "env": st.lists(variable, max_size=4),
            "envFrom": st.just([{"configMapRef": {"name": "c"}}]),
            "args": st.lists(st.sampled_from(["--model", "vllm serve", "--kv-transfer-config", "{}"]), max_size=3),
            "resources": resources,
            "volumeMounts": st.lists(mount, max_size=1),
        },
    )


engine = container("server", st.just("vllm/vllm-openai:v1"))
neighbour = container("proxy", st.sampled_from(["envoyproxy/envoy:v1", "vllm/router:1"]))
init = container("download", st.just("registry.example/download:1"))
pods = st.fixed_dictionaries(
    {
        "metadata": st.fixed_dictionaries(
            {"labels": st.just({names.POOL_LABEL: "chat"})},
            optional={"annotations": st.dictionaries(st.sampled_from([names.STATUS_ANNOTATION, "a"]), st.just("{}"))},
        ),
        "spec": st.fixed_dictionaries(
            {"containers": st.tuples(engine) .map(list) | st.tuples(engine, neighbour).map(list)},
            optional={
                "initContainers": st.tuples(init).map(list),
                "hostNetwork": st.booleans(),
                "hostIPC": st.booleans(),
                "terminationGracePeriodSeconds": st.integers(0, 600),
                "volumes": st.just([{"name": "models", "persistentVolumeClaim": {"claimName": "models"}}]),
            },
        ),
    }
)  # fmt: skip
facts = st.sampled_from(list(POOLS.values()))


@given(pods, facts)
def test_injecting_twice_is_injecting_once(pod: dict[str, Any], facts: Facts) -> None:
    once = inject(pod, facts)
    assert inject(once.pod, facts).pod == once.pod


@given(pods, facts)
def test_what_the_user_wrote_stays(pod: dict[str, Any], facts: Facts) -> None:
    before = copy.deepcopy(pod)
    after = inject(pod, facts).pod
    assert pod == before, "the input is not changed"
    for field in ("hostNetwork", "hostIPC"):
        assert after["spec"].get(field) == before["spec"].get(field)
    for part in ("initContainers", "containers", "volumes"):
        theirs = before["spec"].get(part) or []
        ours = (after["spec"].get(part) or [])[: len(theirs)]
        for old, new in zip(theirs, ours, strict=True):
            assert_kept(old, new)


def assert_kept(old: dict[str, Any], new: dict[str, Any]) -> None:
    for field, value in old.items():
        if field == "volumeMounts":
            assert new[field][: len(value)] == value
        elif field != "env":
            assert new[field] == value
    kept = {variable["name"]: variable for variable in new.get("env") or []}
    for variable in {variable["name"]: variable for variable in old.get("env") or []}.values():
        assert_variable_kept(variable, kept)


def assert_variable_kept(old: dict[str, Any], new: dict[str, dict[str, Any]]) -> None:
    name = old["name"]
    if old == new[name]:
        return
    assert name in ("PYTHONPATH", "VLLM_PLUGINS"), f"{name} is the user's"
    if "valueFrom" in old:
        assert new[f"SPILLWAY_USER_{name}"]["valueFrom"] == old["valueFrom"]
        assert f"$(SPILLWAY_USER_{name})" in new[name]["value"]
    else:
        assert old["value"] in new[name]["value"]


@given(pods, facts)
def test_qos_class_is_never_lowered(pod: dict[str, Any], facts: Facts) -> None:
    outcome = inject(pod, facts)
    assert is_guaranteed(outcome.pod) == is_guaranteed(pod)


@given(pods, facts)
def test_pod_is_injected_or_says_why_not(pod: dict[str, Any], facts: Facts) -> None:
    outcome = inject(pod, facts)
    if outcome.skip is None:
        assert is_injected(outcome.pod)
        assert names.SKIPPED_ANNOTATION not in outcome.pod["metadata"]["annotations"]
        added = outcome.pod["spec"]["initContainers"][-2:]
        assert all(set(c["resources"]["limits"]) >= {"cpu", "memory"} for c in added), "limits are always set"
    else:
        assert outcome.pod["spec"] == pod["spec"]
        assert outcome.pod["metadata"]["annotations"][names.SKIPPED_ANNOTATION] == outcome.skip.reason
        said = outcome.pod["metadata"]["annotations"][names.SKIPPED_MESSAGE_ANNOTATION]
        assert said == outcome.skip.message[:MAX_MESSAGE_CHARACTERS]
