"""Spillway itself on the cluster: installed from charts/spillway as a user would, and taken off again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tests.cluster import binaries
from tests.cluster.commands import ClusterError, CommandError, run
from tests.cluster.progress import step
from tests.cluster.provider import Provider, choose_provider
from tests.cluster.settings import PROJECT, Settings

NAMESPACE: Final = "spillway-system"
RELEASE: Final = "spillway"
_CHART: Final = PROJECT / "charts" / "spillway"
_CRD: Final = "kvcachepools.spillway.dev"
_INSTALL_SECONDS: Final = 180


def kubeconfig() -> str:
    """Path of the running cluster's kubeconfig. Raises ClusterError when none is up."""
    path = choose_provider(Settings.from_environment()).kubeconfig()
    if not path.exists():
        raise ClusterError("no cluster is up; run `make cluster-up`")
    return str(path)


def kubectl() -> Path:
    """The kubectl that belongs to the cluster's version."""
    return binaries.tool(Settings.from_environment(), binaries.KUBECTL)


def install(host_path_prefixes: Sequence[str] = (), values: Mapping[str, Any] | None = None) -> None:
    """Install or upgrade Spillway from the working tree's chart and images, and wait until it serves."""
    settings = Settings.from_environment()
    provider = choose_provider(settings)
    merged: dict[str, Any] = {
        "image": {
            "control": _image(provider, "localhost/spillway-control:dev"),
            "sidecar": _image(provider, "localhost/spillway-sidecar:dev"),
        },
        "hostPath": {"allowedPrefixes": list(host_path_prefixes)},
        **(values or {}),
    }
    with step(f"installing Spillway in namespace {NAMESPACE}"):
        # Helm installs what lies in crds/ once and never again, also on an upgrade.
        _kubectl(settings, "apply", "--server-side", "--force-conflicts", "-f", str(_CHART / "crds"))
        try:
            _helm(
                settings, "upgrade", "--install", RELEASE, _CHART, "--namespace", NAMESPACE, "--create-namespace",
                "--values", "-", "--wait", "--timeout", f"{_INSTALL_SECONDS}s", stdin=json.dumps(merged),
            )  # fmt: skip
        except CommandError as error:
            pods, events = (
                json.loads(_kubectl(settings, "get", kind, "--namespace", NAMESPACE, "-o", "json"))["items"]
                for kind in ("pods", "events")
            )
            raise ClusterError("\n".join([str(error), *describe_unready(pods, events)])) from error
        # Disk-cleanup pods mount a folder of the node, which a stricter level would refuse.
        level = "pod-security.kubernetes.io/enforce=privileged"
        _kubectl(settings, "label", "namespace", NAMESPACE, level, "--overwrite")


def describe_unready(pods: Sequence[Mapping[str, Any]], events: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line for each pod that is not ready: the last warning about it, else what its status waits for."""
    warnings = {event["involvedObject"].get("name"): event for event in events if event.get("type") == "Warning"}
    lines = []
    for pod in pods:
        status = pod.get("status", {})
        conditions = {condition["type"]: condition for condition in status.get("conditions", [])}
        if conditions.get("Ready", {}).get("status") == "True" or status.get("phase") == "Succeeded":
            continue
        waiting = [c["state"]["waiting"] for c in status.get("containerStatuses", []) if "waiting" in c["state"]]
        unmet = [condition for condition in conditions.values() if condition["status"] != "True"]
        name = pod["metadata"]["name"]
        warned = [warnings[name]] if name in warnings else []
        why = [f"{told.get('reason', '')} {told.get('message', '')}".strip() for told in [*warned, *waiting, *unmet]]
        lines.append(f"pod {name}: {next(filter(None, why), status.get('phase', 'unknown'))}")
    return lines


def uninstall() -> None:
    """Remove the release, the namespace and the CRD with every pool."""
    settings = Settings.from_environment()
    with step("uninstalling Spillway"):
        _kubectl(settings, "delete", "crd", _CRD, "--ignore-not-found", "--timeout=120s")
        _helm(
            settings,
            "uninstall",
            RELEASE,
            "--namespace",
            NAMESPACE,
            "--ignore-not-found",
            "--wait",
            "--timeout",
            "120s",
        )
        _kubectl(settings, "delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=120s")


def _image(provider: Provider, name: str) -> dict[str, str]:
    repository, tag = provider.image_reference(name).rsplit(":", 1)
    return {"repository": repository, "tag": tag}


def _helm(settings: Settings, *arguments: str | Path, stdin: str | None = None) -> str:
    helm = binaries.tool(settings, binaries.HELM)
    return run(helm, *arguments, environment={"KUBECONFIG": kubeconfig()}, stdin=stdin)


def _kubectl(settings: Settings, *arguments: str) -> str:
    kubectl = binaries.tool(settings, binaries.KUBECTL)
    return run(kubectl, "--kubeconfig", kubeconfig(), *arguments)
