"""A Kubernetes of one node made of host processes: etcd, the control plane, containerd, kubelet, kube-proxy and CoreDNS.

The node is a network namespace of its own (`network`) with a cgroup of its own (`cgroups`), so that two of them, and
whatever the machine runs already, stand side by side. `machine` knows what a cluster changes, `teardown` undoes it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from dev.cluster import binaries, instance
from dev.cluster.commands import ClusterError, CommandError, run, succeeds, tail, wait_until
from dev.cluster.embedded import (
    certificates,
    cgroups,
    components,
    configuration,
    machine,
    network,
    packages,
    teardown,
)
from dev.cluster.embedded.addresses import NODE_NAME, Addresses
from dev.cluster.embedded.container_images import ContainerImages
from dev.cluster.embedded.paths import Paths
from dev.cluster.embedded.processes import Processes
from dev.cluster.instance import Instance
from dev.cluster.locking import only_one
from dev.cluster.progress import say, step
from dev.cluster.provider import become_root
from dev.cluster.settings import COREDNS_VERSION, Settings

__all__ = ["EmbeddedCluster"]

_READY_SECONDS: Final = 90.0


class EmbeddedCluster:
    """The provider that needs nothing but a Linux machine and root."""

    name: Final = "embedded"
    is_ours: Final = True

    def __init__(self, settings: Settings, instance: Instance) -> None:
        self._settings = settings
        self._addresses = Addresses(instance)
        self._paths = Paths(settings.state(instance))
        self._processes = Processes(self._paths)
        self._images = ContainerImages(self._paths)

    @staticmethod
    def exists(settings: Settings, instance: Instance) -> bool:
        """Whether it is up, or was not ended."""
        return Paths(settings.state(instance)).begun.exists()

    def kubeconfig(self) -> Path:
        return self._paths.kubeconfig

    def builder(self) -> str:
        return "buildah"

    def image_reference(self, name: str) -> str:
        return name

    def loaded_images(self) -> dict[str, str]:
        return self._images.loaded()

    def load(self, name: str, content_hash: str) -> None:
        from dev.cluster.images.buildah import exported

        become_root()
        with exported(self._settings, name) as layout:
            self._images.import_layout(name, layout, content_hash)

    def is_up(self) -> bool:
        """All processes run and the API server says that it is ready."""
        if not self._runs_whole():
            return False
        try:
            return self._kubectl("get", "--raw", "/readyz", timeout_seconds=5) == "ok"
        except CommandError:
            return False

    def _runs_whole(self) -> bool:
        return all(self._processes.is_running(name) for name in components.ALL)

    def up(self) -> None:
        if self.is_up():
            say("the embedded cluster is up")
            return
        become_root()
        packages.install_missing(packages.NODE)
        binaries.ensure(self._settings, (*binaries.CLIENTS, *binaries.NODE))
        with only_one(self._settings.cache, "cluster"):
            self._start_cluster()
        self._hand_over_to_caller()

    def _start_cluster(self) -> None:
        if self._paths.begun.exists() and not self._runs_whole():
            # After a reboot or a kill: what lies in its etcd would be taken up by processes that know nothing of it.
            say("an earlier cluster was not ended and does not run whole; ending it first")
            self._end()
        self._begin()
        with step("starting the cluster"):
            certificates.ensure(self._paths.pki, self._addresses)
            configuration.write_all(self._paths, self._addresses)
            cgroups.make(self._addresses.instance)
            network.make(self._paths, self._addresses)
            self._start_all()
            self._start_dns()

    def down(self) -> None:
        if not self._paths.begun.exists():
            say(f"no embedded cluster {self._addresses.instance.name} is up")
            return
        become_root()
        with only_one(self._settings.cache, "cluster"):
            self._end()

    def _end(self) -> None:
        before = None if self._others_exist() else self._machine_before
        teardown.tear_down(self._paths, self._addresses, self._settings.tools, before)
        if before is not None:
            before.unlink(missing_ok=True)
        self._paths.begun.unlink(missing_ok=True)

    def _begin(self) -> None:
        """Remember the machine as it was before the first of our clusters."""
        if self._paths.begun.exists():
            return
        if not self._others_exist():
            if machine.another_kubelet_runs():
                raise ClusterError(
                    "another Kubernetes runs its kubelet on this machine; name its kube context in SPILLWAY_CONTEXT, or "
                    "stop it first"
                )
            machine.observe().save(self._machine_before)
        self._addresses.check_free()
        self._paths.state.mkdir(parents=True, exist_ok=True)
        self._paths.begun.touch()

    @property
    def _machine_before(self) -> Path:
        return self._settings.clusters / "machine-before.json"

    def _others_exist(self) -> bool:
        own = self._addresses.instance
        return any(self.exists(self._settings, other) for other in instance.ALL if other != own)

    def _start(self, name: str) -> None:
        argv = components.command(name, self._paths, self._addresses, self._settings.tools)
        self._processes.start(name, *network.enter(self._paths), *argv)

    def _start_all(self) -> None:
        for name in (components.ETCD, components.CONTAINERD, components.APISERVER):
            self._start(name)
        self._wait(components.CONTAINERD, lambda: succeeds("ctr", "-a", self._paths.containerd_socket, "version"))
        teardown.forget_containers(self._paths, self._processes)
        self._load_node_images()
        self._wait(components.APISERVER, lambda: self._answers("/readyz"))
        for name in (components.CONTROLLERS, components.SCHEDULER, components.KUBELET, components.PROXY):
            self._start(name)
        self._wait(components.KUBELET, self._node_is_ready)

    def _load_node_images(self) -> None:
        from dev.cluster.images import node_images

        node_images.ensure(self._settings, self)

    def _start_dns(self) -> None:
        text = (Path(__file__).parent / "dns.yaml").read_text()
        text = text.replace("{{DNS_SERVICE_IP}}", self._addresses.dns_service_ip).replace(
            "{{VERSION}}", COREDNS_VERSION
        )
        self._kubectl("apply", "-f", "-", stdin=text)
        self._kubectl("-n", "kube-system", "rollout", "status", "deployment/coredns", "--timeout=90s")

    def _wait(self, name: str, condition: Callable[[], bool]) -> None:
        """Wait for a component; give up at once when its process ended."""

        def reached() -> bool:
            self._processes.check(name)
            return condition()

        wait_until(
            f"{name} to be ready", reached, seconds=_READY_SECONDS, last_state=lambda: tail(self._processes.log(name))
        )

    def _answers(self, path: str) -> bool:
        try:
            return bool(self._kubectl("get", "--raw", path, timeout_seconds=5))
        except CommandError:
            return False

    def _node_is_ready(self) -> bool:
        template = '{.status.conditions[?(@.type=="Ready")].status}'
        try:
            return self._kubectl("get", "node", NODE_NAME, "-o", f"jsonpath={template}") == "True"
        except CommandError:
            return False

    def _kubectl(self, *arguments: str, stdin: str | None = None, timeout_seconds: float = 120) -> str:
        kubectl = self._settings.tools / "kubectl"
        return run(
            kubectl, "--kubeconfig", self._paths.kubeconfig, *arguments, stdin=stdin, timeout_seconds=timeout_seconds
        )

    def _hand_over_to_caller(self) -> None:
        """Behind sudo, let the person who called us read the kubeconfig."""
        caller = os.environ.get("SUDO_UID")
        if caller:
            os.chown(self._paths.kubeconfig, int(caller), int(os.environ.get("SUDO_GID", caller)))
