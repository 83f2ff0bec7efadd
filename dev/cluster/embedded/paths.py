"""Files of the embedded cluster below its state folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Paths:
    """Of these only `containerd` (images), `pki` and `logs` stay after `down`."""

    state: Path

    @property
    def pki(self) -> Path:
        return self.state / "pki"

    @property
    def config(self) -> Path:
        return self.state / "config"

    @property
    def kubeconfig(self) -> Path:
        return self.state / "kubeconfig"

    @property
    def etcd(self) -> Path:
        return self.state / "etcd"

    @property
    def containerd(self) -> Path:
        return self.state / "containerd"

    @property
    def containerd_run(self) -> Path:
        return self.state / "run" / "containerd"

    @property
    def containerd_socket(self) -> Path:
        return self.state / "run" / "containerd.sock"

    @property
    def bundles(self) -> Path:
        """A folder for each container that has run and was not removed, named by its id."""
        return self.containerd / "io.containerd.runtime.v2.task" / "k8s.io"

    def containers(self) -> list[str]:
        """Ids of the containers that were not removed."""
        return [path.name for path in self.bundles.iterdir()] if self.bundles.is_dir() else []

    @property
    def kubelet(self) -> Path:
        return self.state / "kubelet"

    @property
    def pod_logs(self) -> Path:
        return self.state / "pod-logs"

    @property
    def network(self) -> Path:
        """CNI's own bookkeeping of addresses."""
        return self.state / "network"

    @property
    def logs(self) -> Path:
        return self.state / "logs"

    @property
    def processes(self) -> Path:
        return self.state / "processes"

    @property
    def namespace(self) -> Path:
        """Where the node's network namespace is mounted."""
        return self.state / "run" / "node-network"

    @property
    def begun(self) -> Path:
        """Its presence means that this cluster is up or was not ended."""
        return self.state / "begun"

    @property
    def images(self) -> Path:
        """Content hash of every image that was loaded."""
        return self.state / "images.json"

    def gone_after_down(self) -> tuple[Path, ...]:
        return (self.etcd, self.kubelet, self.pod_logs, self.network, self.processes, self.state / "run", self.config)
