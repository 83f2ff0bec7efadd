"""Command lines of the embedded cluster's processes, in the order in which they start."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from dev.cluster.embedded import certificates
from dev.cluster.embedded.addresses import API_PORT, NODE_NAME, Addresses
from dev.cluster.embedded.configuration import kubeconfig_of
from dev.cluster.embedded.paths import Paths

ETCD: Final = "etcd"
APISERVER: Final = "kube-apiserver"
CONTROLLERS: Final = "kube-controller-manager"
SCHEDULER: Final = "kube-scheduler"
CONTAINERD: Final = "containerd"
KUBELET: Final = "kubelet"
PROXY: Final = "kube-proxy"
ALL: Final = (ETCD, CONTAINERD, APISERVER, CONTROLLERS, SCHEDULER, KUBELET, PROXY)

Argv = tuple[str | Path, ...]


def command(name: str, paths: Paths, addresses: Addresses, tools: Path) -> Argv:
    """The command line of one component, to be run in the node's network; `tools` holds the compiled ones."""
    makers = {
        ETCD: _etcd,
        APISERVER: _apiserver,
        CONTROLLERS: _controllers,
        SCHEDULER: _scheduler,
        CONTAINERD: _containerd,
        KUBELET: _kubelet,
        PROXY: _proxy,
    }
    arguments = makers[name](paths, addresses)
    program: str | Path = name if name in (ETCD, CONTAINERD) else tools / name
    return (program, *arguments)


def _etcd(paths: Paths, _addresses: Addresses) -> Argv:
    return (
        f"--data-dir={paths.etcd}",
        # A test cluster that loses its machine is made again.
        "--unsafe-no-fsync",
    )


def _apiserver(paths: Paths, addresses: Addresses) -> Argv:
    pki = paths.pki
    return (
        "--etcd-servers=http://127.0.0.1:2379",
        f"--service-cluster-ip-range={addresses.service_network}",
        f"--secure-port={API_PORT}",
        f"--tls-cert-file={pki / 'apiserver.crt'}",
        f"--tls-private-key-file={pki / 'apiserver.key'}",
        f"--client-ca-file={pki / 'ca.crt'}",
        f"--service-account-key-file={pki / 'service-accounts.key'}",
        f"--service-account-signing-key-file={pki / 'service-accounts.key'}",
        "--service-account-issuer=https://kubernetes.default.svc",
        "--authorization-mode=Node,RBAC",
        f"--kubelet-client-certificate={pki / 'admin.crt'}",
        f"--kubelet-client-key={pki / 'admin.key'}",
        "--kubelet-preferred-address-types=InternalIP",
        "--allow-privileged",
        f"--advertise-address={addresses.node_ip}",
        "--enable-admission-plugins=NodeRestriction",
    )


def _controllers(paths: Paths, addresses: Addresses) -> Argv:
    return (
        f"--kubeconfig={kubeconfig_of(paths, certificates.CONTROLLERS)}",
        f"--service-account-private-key-file={paths.pki / 'service-accounts.key'}",
        f"--root-ca-file={paths.pki / 'ca.crt'}",
        f"--cluster-signing-cert-file={paths.pki / 'ca.crt'}",
        f"--cluster-signing-key-file={paths.pki / 'ca.key'}",
        "--use-service-account-credentials",
        "--allocate-node-cidrs",
        f"--cluster-cidr={addresses.pod_network}",
        "--bind-address=127.0.0.1",
        "--leader-elect=false",
        "--kube-api-qps=500",
        "--kube-api-burst=1000",
    )


def _scheduler(paths: Paths, _addresses: Addresses) -> Argv:
    return (
        f"--kubeconfig={kubeconfig_of(paths, certificates.SCHEDULER)}",
        "--bind-address=127.0.0.1",
        "--leader-elect=false",
        # The defaults place about 23 pods a second.
        "--kube-api-qps=1000",
        "--kube-api-burst=2000",
    )


def _containerd(paths: Paths, _addresses: Addresses) -> Argv:
    return ("--config", paths.config / "containerd.toml")


def _kubelet(paths: Paths, addresses: Addresses) -> Argv:
    return (
        f"--config={paths.config / 'kubelet.yaml'}",
        f"--kubeconfig={kubeconfig_of(paths, certificates.KUBELET)}",
        f"--root-dir={paths.kubelet}",
        f"--cert-dir={paths.kubelet / 'pki'}",
        f"--hostname-override={NODE_NAME}",
        f"--node-ip={addresses.node_ip}",
    )


def _proxy(paths: Paths, _addresses: Addresses) -> Argv:
    return (f"--config={paths.config / 'kube-proxy.yaml'}",)
