"""Spillway itself on a cluster: installed from charts/spillway as a user would, and taken off again.

What is there already and was not installed from here belongs to somebody: it is refused, never changed or removed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from dev.cluster import binaries
from dev.cluster.commands import ClusterError, CommandError, run
from dev.cluster.instance import Instance
from dev.cluster.progress import say, step
from dev.cluster.provider import Provider, choose_provider
from dev.cluster.settings import PROJECT, Settings

NAMESPACE: Final = "spillway-system"
RELEASE: Final = "spillway"
MADE_BY_LABEL: Final = "spillway.dev/made-by"
_CHART: Final = PROJECT / "charts" / "spillway"
_CRD: Final = "kvcachepools.spillway.dev"
_INSTALL_SECONDS: Final = 180
_REMOVE_SECONDS: Final = 120
_HOW_TO_REMOVE: Final = {"demo": "`make demo-down`", "e2e": "`make cluster-down`"}


class Installation:
    """Spillway on the cluster of one instance."""

    def __init__(self, settings: Settings, instance: Instance, provider: Provider) -> None:
        self._settings = settings
        self._instance = instance
        self._provider = provider

    @classmethod
    def of(cls, instance: Instance) -> Installation:
        """On the instance's cluster as the environment chooses it."""
        settings = Settings.from_environment()
        return cls(settings, instance, choose_provider(settings, instance))

    def kubeconfig(self) -> str:
        """Path of the running cluster's kubeconfig. Raises ClusterError when none is up."""
        path = self._provider.kubeconfig()
        if not path.exists():
            raise ClusterError(f"no cluster {self._instance.name} is up; run `make cluster-up`")
        return str(path)

    def kubectl(self) -> Path:
        """The kubectl that belongs to the cluster's version."""
        return binaries.tool(self._settings, binaries.KUBECTL)

    def install(self, host_paths: Sequence[str] = (), values: Mapping[str, Any] | None = None) -> None:
        """Install or upgrade Spillway from the working tree's chart and images, and wait until it serves.

        Raises ClusterError where somebody else's Spillway is there.
        """
        self._refuse_others()
        merged: dict[str, Any] = {
            "image": {
                "control": self._image("localhost/spillway-control:dev"),
                "sidecar": self._image("localhost/spillway-sidecar:dev"),
            },
            "hostPath": {"allowedPaths": list(host_paths)},
            **(values or {}),
        }
        with step(f"installing Spillway in namespace {NAMESPACE}"):
            self._mark_namespace()
            # One that is there is the chart's to upgrade.
            if self._get("crd", _CRD) is None:
                self._apply_crd()
            try:
                self._helm(
                    "upgrade", "--install", RELEASE, _CHART, "--namespace", NAMESPACE,
                    "--values", "-", "--wait", "--timeout", f"{_INSTALL_SECONDS}s", stdin=json.dumps(merged),
                )  # fmt: skip
            except CommandError as error:
                pods, events = (self._list(kind, NAMESPACE) for kind in ("pods", "events"))
                raise ClusterError("\n".join([str(error), *describe_unready(pods, events)])) from error

    def install_crd(self) -> None:
        """Only the CRD of this tree, served when this returns. Raises ClusterError where somebody else's Spillway is."""
        self._refuse_others()
        self._apply_crd()

    def uninstall(self) -> None:
        """Remove the release, its namespace and the CRD with every pool, each only where it was made from here.

        Takes each away whether the others are there or not. Raises ClusterError naming what stays.
        """
        failed: list[str] = []
        with step("uninstalling Spillway"):
            for what in (self.remove_release, self._remove_namespace, self._remove_crd):
                try:
                    what()
                except CommandError as error:
                    failed.append(str(error))
        if failed:
            raise ClusterError("\n".join(failed))

    def remove_release(self) -> str:
        """`helm uninstall`, which says what stays on which node. The namespace and the CRD stay too."""
        if self.made_by().get(f"namespace {NAMESPACE}", self._instance.name) != self._instance.name:
            say(f"namespace {NAMESPACE} is not ours: its release stays")
            return ""
        said = self._helm(
            "uninstall", RELEASE, "--namespace", NAMESPACE, "--ignore-not-found", "--wait",
            "--timeout", f"{2 * _REMOVE_SECONDS}s",
        )  # fmt: skip
        for line in said.splitlines():
            say(f"  helm: {line}")
        return said

    def made_by(self) -> dict[str, str]:
        """For each of namespace and CRD that is there: who made it, empty for somebody else.

        The chart's cluster-scoped objects are not asked for: Helm itself refuses those of another release or namespace.
        """
        found = {}
        for kind, name in (("namespace", NAMESPACE), ("crd", _CRD)):
            manifest = self._get(kind, name)
            if manifest is not None:
                found[f"{kind} {name}"] = manifest["metadata"].get("labels", {}).get(MADE_BY_LABEL, "")
        return found

    def _refuse_others(self) -> None:
        for what, maker in self.made_by().items():
            if maker == self._instance.name:
                continue
            if maker:
                raise ClusterError(
                    f"`{maker}` has installed Spillway on this cluster ({what}) and `{self._instance.name}` would take it "
                    f"away; {_HOW_TO_REMOVE[maker]} removes it, or name another cluster in SPILLWAY_CONTEXT"
                )
            raise ClusterError(
                f"Spillway is installed on this cluster already ({what}), and not by `{self._instance.name}`, which would "
                "change and then remove it; name another cluster in SPILLWAY_CONTEXT, or uninstall it first"
            )

    def _apply_crd(self) -> None:
        self._kubectl("apply", "--server-side", "--force-conflicts", "-f", str(_CHART / "crds"))
        self._kubectl("label", "crd", _CRD, f"{MADE_BY_LABEL}={self._instance.name}", "--overwrite")
        self._kubectl("wait", "--for=condition=Established", f"crd/{_CRD}", "--timeout=60s")

    def _mark_namespace(self) -> None:
        # Disk-cleanup pods mount a folder of the node, which a stricter level would refuse.
        labels = {MADE_BY_LABEL: self._instance.name, "pod-security.kubernetes.io/enforce": "privileged"}
        manifest = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": labels}}
        self._kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=json.dumps(manifest))

    def _remove_namespace(self) -> None:
        self._delete_ours("namespace", NAMESPACE)

    def _remove_crd(self) -> None:
        self._delete_ours("crd", _CRD)

    def _delete_ours(self, kind: str, name: str) -> None:
        maker = self.made_by().get(f"{kind} {name}")
        if maker is None:
            return
        if maker != self._instance.name:
            say(f"{kind} {name} is not ours and stays")
            return
        self._kubectl("delete", kind, name, "--ignore-not-found", f"--timeout={_REMOVE_SECONDS}s")

    def _image(self, name: str) -> dict[str, str]:
        repository, tag = self._provider.image_reference(name).rsplit(":", 1)
        return {"repository": repository, "tag": tag}

    def _get(self, kind: str, name: str) -> dict[str, Any] | None:
        text = self._kubectl("get", kind, name, "--ignore-not-found", "-o", "json")
        return dict(json.loads(text)) if text.strip() else None

    def _list(self, kind: str, namespace: str) -> list[dict[str, Any]]:
        return list(json.loads(self._kubectl("get", kind, "--namespace", namespace, "-o", "json"))["items"])

    def _helm(self, *arguments: str | Path, stdin: str | None = None) -> str:
        helm = binaries.tool(self._settings, binaries.HELM)
        # What hooks say comes on stderr.
        return run(helm, *arguments, environment={"KUBECONFIG": self.kubeconfig()}, stdin=stdin, with_stderr=True)

    def _kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        return run(self.kubectl(), "--kubeconfig", self.kubeconfig(), *arguments, stdin=stdin)


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
