"""What `helm install` would create: the whole rendering against a golden file, and the promises one by one.

Rewrite the golden file with `SPILLWAY_REWRITE_GOLDEN=1 pytest tests/unit/chart` and read the diff.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from spillway_operator.api.names import INJECT_LABEL, POOL_LABEL
from spillway_operator.controller import certificates, settings, status_keys
from spillway_operator.controller.settings import OperatorSettings
from spillway_operator.webhook.settings import WebhookSettings

from dev.cluster.settings import PROJECT

Manifest = dict[str, Any]
GOLDEN = PROJECT / "tests" / "golden" / "chart" / "default.yaml"
SECRETS_OF_OURS = {certificates.CA_SECRET, certificates.SERVING_SECRET, status_keys.SECRET_NAME}


def find(manifests: list[Manifest], kind: str, name: str) -> Manifest:
    (found,) = [m for m in manifests if m["kind"] == kind and m["metadata"]["name"] == name]
    return found


def pod_specs(manifests: list[Manifest]) -> list[Manifest]:
    return [m["spec"]["template"]["spec"] for m in manifests if m["kind"] in ("Deployment", "Job")]


def rules_of(manifests: list[Manifest], account: str) -> list[Manifest]:
    roles = [m for m in manifests if m["kind"] in ("Role", "ClusterRole") and m["metadata"]["name"] == account]
    assert roles
    return [rule for role in roles for rule in role["rules"]]


def test_the_default_rendering_is_the_golden_one(render: Callable[..., str]) -> None:
    rendered = render()
    if os.environ.get("SPILLWAY_REWRITE_GOLDEN"):
        GOLDEN.parent.mkdir(parents=True, exist_ok=True)
        GOLDEN.write_text(rendered)
    assert rendered == GOLDEN.read_text()


def test_the_version_is_the_workspaces(chart: Path) -> None:
    stated = re.search(r'(?m)^version = "([^"]+)"', (PROJECT / "sidecar" / "core" / "Cargo.toml").read_text())
    assert stated is not None
    metadata = yaml.safe_load((chart / "Chart.yaml").read_text())
    assert (metadata["version"], metadata["appVersion"]) == (stated[1], stated[1])


def test_the_chart_carries_the_generated_crd(chart: Path) -> None:
    (crd,) = (chart / "crds").iterdir()
    assert crd.read_text() == (PROJECT / "crds" / crd.name).read_text()


def test_every_pod_meets_the_restricted_level(manifests: list[Manifest]) -> None:
    specs = pod_specs(manifests)
    assert len(specs) == 4
    for spec in specs:
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not any(spec.get(host) for host in ("hostNetwork", "hostPID", "hostIPC"))
        assert {next(iter(set(volume) - {"name"})) for volume in spec["volumes"]} <= {"emptyDir", "secret", "configMap"}
        for container in spec["containers"]:
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False
            assert security["readOnlyRootFilesystem"] is True
            assert security["capabilities"] == {"drop": ["ALL"]}


def test_the_webhook_can_never_keep_a_pod_from_starting(manifests: list[Manifest]) -> None:
    (webhook,) = find(manifests, "MutatingWebhookConfiguration", settings.WEBHOOK_CONFIGURATION)["webhooks"]
    assert webhook["failurePolicy"] == "Ignore"
    assert webhook["timeoutSeconds"] <= 5
    assert webhook["reinvocationPolicy"] == "IfNeeded"
    assert webhook["sideEffects"] == "None"
    assert webhook["rules"] == [
        {
            "apiGroups": [""],
            "apiVersions": ["v1"],
            "resources": ["pods"],
            "operations": ["CREATE"],
            "scope": "Namespaced",
        }
    ]


def test_the_webhook_sees_only_labelled_pods_outside_of_our_own_namespace(manifests: list[Manifest]) -> None:
    (webhook,) = find(manifests, "MutatingWebhookConfiguration", settings.WEBHOOK_CONFIGURATION)["webhooks"]
    assert webhook["objectSelector"]["matchExpressions"] == [
        {"key": POOL_LABEL, "operator": "Exists"},
        {"key": INJECT_LABEL, "operator": "NotIn", "values": ["false"]},
    ]
    (expression,) = webhook["namespaceSelector"]["matchExpressions"]
    assert expression["operator"] == "NotIn"
    assert {"spillway-system", "kube-system"} <= set(expression["values"])


def test_the_ca_bundle_is_never_rendered(render: Callable[..., str]) -> None:
    assert "caBundle:" not in render()


def test_the_path_that_only_the_api_server_is_told_is_never_rendered(manifests: list[Manifest]) -> None:
    (webhook,) = find(manifests, "MutatingWebhookConfiguration", settings.WEBHOOK_CONFIGURATION)["webhooks"]
    assert set(webhook["clientConfig"]["service"]) == {"name", "namespace", "port"}


def test_a_client_ca_reaches_the_webhook(render: Callable[..., str], manifests: list[Manifest]) -> None:
    pem = "-----BEGIN CERTIFICATE-----\nMII=\n-----END CERTIFICATE-----\n"
    rendered = [m for m in yaml.safe_load_all(render(f"webhook.clientCA={pem}")) if m]
    name = "spillway-webhook-client-ca"
    assert find(rendered, "ConfigMap", name)["data"]["ca.crt"].strip() == pem.strip()
    template = find(rendered, "Deployment", "spillway-webhook")["spec"]["template"]
    (container,) = template["spec"]["containers"]
    (path,) = [v["value"] for v in container["env"] if v["name"] == "SPILLWAY_CLIENT_CA_FILE"]
    (mount,) = [m for m in container["volumeMounts"] if path.startswith(m["mountPath"] + "/")]
    (volume,) = [v for v in template["spec"]["volumes"] if v["name"] == mount["name"]]
    assert volume["configMap"] == {"name": name}
    assert template["metadata"]["annotations"], "a replica reads it at its start only, so a change makes a new one"
    assert not [m for m in manifests if m["metadata"]["name"] == name]
    with pytest.raises(subprocess.CalledProcessError):
        render("webhook.clientCA=/etc/ca.crt")


def test_the_webhook_survives_the_loss_of_a_node(manifests: list[Manifest]) -> None:
    deployment = find(manifests, "Deployment", "spillway-webhook")
    assert deployment["spec"]["replicas"] == 2
    spread = deployment["spec"]["template"]["spec"]["topologySpreadConstraints"]
    assert spread[0]["topologyKey"] == "kubernetes.io/hostname"
    budget = find(manifests, "PodDisruptionBudget", "spillway-webhook")
    assert budget["spec"]["selector"] == deployment["spec"]["selector"]


def test_secrets_are_read_by_name_only(manifests: list[Manifest]) -> None:
    rules = [r for account in ("spillway-operator", "spillway-webhook") for r in rules_of(manifests, account)]
    secret_rules = [rule for rule in rules if "secrets" in rule["resources"] or "*" in rule["resources"]]
    assert [set(rule["resourceNames"]) for rule in secret_rules] == [SECRETS_OF_OURS]
    named = find(manifests, "Role", "spillway-operator")
    assert secret_rules[0] in named["rules"], "and in our own namespace only"


@pytest.mark.parametrize("account", ["spillway-operator", "spillway-webhook"])
def test_rights_that_nobody_gets(manifests: list[Manifest], account: str) -> None:
    for rule in rules_of(manifests, account):
        assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"]
        assert not {"pods/exec", "pods/attach", "pods/ephemeralcontainers", "networkpolicies"} & set(rule["resources"])
        if "pods" in rule["resources"]:
            assert not {"update", "patch"} & set(rule["verbs"])


def test_the_webhook_reads_and_asks_by_dry_runs(manifests: list[Manifest]) -> None:
    rules = rules_of(manifests, "spillway-webhook")
    assert {verb for rule in rules for verb in rule["verbs"]} == {"get", "list", "watch", "create"}
    (creates,) = [rule for rule in rules if "create" in rule["verbs"]]
    (policy,) = [
        m["spec"]
        for m in manifests
        if m["kind"] == "ValidatingAdmissionPolicy" and m["metadata"]["name"] == "spillway-webhook-dry-runs"
    ]
    (narrowed,) = policy["matchConstraints"]["resourceRules"]
    assert set(narrowed["resources"]) == set(creates["resources"])
    assert creates["verbs"] == ["create"]


def test_no_network_policy_is_created(manifests: list[Manifest]) -> None:
    assert not [m for m in manifests if m["kind"] == "NetworkPolicy"]


def test_every_policy_is_bound_and_denies(render: Callable[..., str]) -> None:
    rendered = [m for m in yaml.safe_load_all(render("hostPath.allowedPaths={/mnt/a}")) if m]
    policies = {m["metadata"]["name"]: m["spec"] for m in rendered if m["kind"] == "ValidatingAdmissionPolicy"}
    bindings = [m["spec"] for m in rendered if m["kind"] == "ValidatingAdmissionPolicyBinding"]
    assert all(spec["failurePolicy"] == "Fail" for spec in policies.values())
    assert {b["policyName"] for b in bindings} == set(policies)
    assert all(b["validationActions"] == ["Deny"] for b in bindings)


def test_the_operator_has_the_verbs_that_its_client_calls_and_no_more(manifests: list[Manifest]) -> None:
    """kube/resources.py names no other resources; a verb is here because the line after it needs it."""
    granted = {(resource, verb) for rule in rules_of(manifests, "spillway-operator")
               for resource in rule["resources"] for verb in rule["verbs"]}  # fmt: skip
    used = {
        "kvcachepools": {"list", "watch", "patch"},  # handlers.see_pool, disk.build_finalizer_manifest
        "kvcachepools/status": {"patch"},  # reconcile, deletion
        "kvcachepools/finalizers": {"update"},  # blockOwnerDeletion of config_map.build_config_map
        "pods": {"list", "watch", "get", "create", "delete"},  # handlers.see_pod, disk.DiskCleaner, stuck_pods
        "configmaps": {"get", "list", "watch", "create", "patch"},  # reconcile, status_keys
        "events": {"create", "list"},  # events.post_once, stuck_pods
        "nodes": {"get"},  # disk.DiskCleaner.clean
        "storageclasses": {"get"},  # reconcile
        "mutatingwebhookconfigurations": {"get", "patch"},  # certificates, webhook_health
        "secrets": {"get", "create", "patch"},  # certificates, status_keys
        "leases": {"get", "update", "create"},  # lease
        "endpointslices": {"list"},  # webhook_health
    }
    assert granted == {(resource, verb) for resource, verbs in used.items() for verb in verbs}


@pytest.mark.parametrize(
    ("deployment", "model"), [("spillway-operator", OperatorSettings), ("spillway-webhook", WebhookSettings)]
)
def test_the_process_understands_every_variable_it_gets(
    render: Callable[..., str],
    deployment: str,
    model: type[OperatorSettings | WebhookSettings],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rendered = render("hostPath.allowedPaths={/mnt/a,/mnt/b}", "image.allowedRepositories={r/x}", "logLevel=Debug")
    spec = find(list(filter(None, yaml.safe_load_all(rendered))), "Deployment", deployment)["spec"]["template"]["spec"]
    variables = {v["name"]: v.get("value", "from-the-pod") for v in spec["containers"][0]["env"]}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    parsed = model()
    assert {name.removeprefix("SPILLWAY_").lower() for name in variables} <= set(model.model_fields)
    assert parsed.allowed.host_paths == ("/mnt/a", "/mnt/b")
    assert parsed.allowed.repositories == ("localhost/spillway-sidecar", "r/x")
    assert parsed.log_level == "Debug"


@pytest.mark.parametrize(
    "value",
    [
        *(f"hostPath.allowedPaths={{{path}}}" for path in (
            "mnt/relative", "/", "/mnt/../etc", "/mnt/./x", "/mnt//x", "/mnt/x/", "/mnt", "/etc", "/etc/x", "/root", "/var/lib",
            "/var/lib/kubelet", "/var/lib/kubelet/pods", "/var/run/x", "/run/containerd", "/dev/shm", "/mnt/a'b",
        )),
        "webhook.timeoutSeconds=10", "logLevel=verbose", "webhok.replicas=3", "image.sidecar.pullPolicy=Sometimes",
        *(f"image.control.repository={name}" for name in (
            "registry.example/Spillway", "registry.example//spillway", "https://registry.example/spillway", "registry.example/spillway/",
            "registry.example/spillway:v1", "registry.example/spillway@sha256:" + 64 * "0", "a b",
        )),
        "image.sidecar.tag=v1@sha256:abc", "image.sidecar.tag=v1:2", "image.sidecar.tag=@sha256:" + 64 * "0",
        "image.allowedRepositories={r/x:v1}", 'image.allowedRepositories={r/x"y}', "image.allowedRepositories={r/x'}",
        "hostPath.exemptNamespaces={Team_A}", "webhook.excludedNamespaces={a.b}", f"webhook.excludedNamespaces={{{64 * 'a'}}}",
        "operator.replicas=0", "webhook.replicas=0", "operator.resources.limits.memory=512MB", "operator.resources.requests.cpu=-1",
        "webhook.resources.requests.cpu=50 m", "webhook.nodeSelector.zone=true", "operator.nodeSelector.zone=a/b",
        "operator.tolerations[0].effect=Never", "webhook.tolerations[0].operator=Equal",
    ],
)  # fmt: skip
def test_values_that_make_no_sense_are_refused(render: Callable[..., str], value: str) -> None:
    with pytest.raises(subprocess.CalledProcessError) as refused:
        render(value)
    assert value.partition("=")[0].split(".")[0] in refused.value.stderr


def test_values_that_make_sense_are_taken_as_they_are(render: Callable[..., str]) -> None:
    """What YAML would read as a number stays a name."""
    digest = "sha256:" + 64 * "a"
    rendered = render(
        "image.control.repository=registry.example:5000/team__a/spillway-control.x",
        f"image.control.tag=v1@{digest}",
        "image.allowedRepositories={localhost/x,r.example/a/b}",
        "webhook.excludedNamespaces={1e3}",
        "hostPath.exemptNamespaces={1e3}",
        "webhook.resources.limits.memory=1.5Gi",
        "webhook.resources.requests.cpu=1",
        "operator.tolerations[0].operator=Exists",
    )
    found = [m for m in yaml.safe_load_all(rendered) if m]
    (container,) = find(found, "Deployment", "spillway-operator")["spec"]["template"]["spec"]["containers"]
    assert container["image"] == f"registry.example:5000/team__a/spillway-control.x:v1@{digest}"
    (webhook,) = find(found, "MutatingWebhookConfiguration", settings.WEBHOOK_CONFIGURATION)["webhooks"]
    assert "1e3" in webhook["namespaceSelector"]["matchExpressions"][0]["values"]


def test_release_whose_names_look_like_numbers_is_installed(render: Callable[..., str]) -> None:
    """`helm install 1 -n 2`: both are names, and the API server takes no number for one."""
    found = [m for m in yaml.safe_load_all(render(release="1", namespace="2")) if m]
    metadata = [m["metadata"] for m in found]
    assert {m["namespace"] for m in metadata if "namespace" in m} == {"2"}
    assert {m["labels"]["app.kubernetes.io/instance"] for m in metadata if "labels" in m} == {"1"}
    subjects = [s for m in found for s in m.get("subjects", [])]
    assert {s["namespace"] for s in subjects} == {"2"}


def test_an_older_kubernetes_is_refused(render: Callable[..., str]) -> None:
    with pytest.raises(subprocess.CalledProcessError) as refused:
        render(kube_version="1.32.0")
    assert "1.33" in refused.value.stderr


def test_uninstalling_lets_pools_go_first_and_its_rights_last_no_longer(manifests: list[Manifest]) -> None:
    _assert_hooks(manifests, "spillway-uninstall", "pre-delete")
    job = find(manifests, "Job", "spillway-uninstall")
    # Helm's own patience is 300 s.
    assert job["spec"]["activeDeadlineSeconds"] < 300


def test_the_crd_is_upgraded_first_and_its_rights_last_no_longer(
    manifests: list[Manifest], render: Callable[..., str]
) -> None:
    _assert_hooks(manifests, "spillway-upgrade", "pre-install,pre-upgrade")
    (rule,) = find(manifests, "ClusterRole", "spillway-upgrade")["rules"]
    assert rule["resourceNames"] == ["kvcachepools.spillway.dev"]
    assert "spillway-upgrade" not in render("crds.upgrade=false")


def _assert_hooks(manifests: list[Manifest], name: str, when: str) -> None:
    hooks = [
        m for m in manifests if "helm.sh/hook" in m["metadata"].get("annotations", {}) and m["metadata"]["name"] == name
    ]
    assert {m["kind"] for m in hooks} >= {"ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Job"}
    for hook in hooks:
        annotations = hook["metadata"]["annotations"]
        assert annotations["helm.sh/hook"] == when
        assert set(annotations["helm.sh/hook-delete-policy"].split(",")) == {
            "before-hook-creation",
            "hook-succeeded",
            "hook-failed",
        }
    job = find(manifests, "Job", name)
    assert job["metadata"]["annotations"]["helm.sh/hook-weight"] == "1", "after the rights that it needs"


def test_a_listed_path_below_another_is_refused_with_the_way_out(render: Callable[..., str]) -> None:
    with pytest.raises(subprocess.CalledProcessError) as refused:
        render("hostPath.allowedPaths={/mnt/a,/mnt/ab,/mnt/a/b}")
    assert "/mnt/a/b lies below /mnt/a" in str(refused.value.stderr)
    assert "/mnt/ab" in render("hostPath.allowedPaths={/mnt/a,/mnt/ab}")
