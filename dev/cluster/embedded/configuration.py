"""Configuration files of the embedded cluster's components."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import yaml

from dev.cluster.embedded import certificates, cgroups
from dev.cluster.embedded.addresses import NODE_NAME, POD_LINK, Addresses
from dev.cluster.embedded.paths import Paths

PAUSE_IMAGE: Final = "localhost/pause:1"


def write_all(paths: Paths, addresses: Addresses) -> None:
    """Write every file anew; the components read them at their start."""
    paths.config.mkdir(parents=True, exist_ok=True)
    for identity in certificates.CLIENTS:
        certificates.write_kubeconfig(paths.pki, addresses, identity, kubeconfig_of(paths, identity))
    certificates.write_kubeconfig(paths.pki, addresses, certificates.ADMIN, paths.kubeconfig)
    (paths.config / "containerd.toml").write_text(_containerd(paths))
    _write_yaml(paths.config / "kubelet.yaml", _kubelet(paths, addresses))
    _write_yaml(paths.config / "kube-proxy.yaml", _kube_proxy(paths, addresses))
    network = paths.config / "cni"
    network.mkdir(exist_ok=True)
    (network / "10-spillway.conflist").write_text(json.dumps(_pod_network(paths, addresses)))


def kubeconfig_of(paths: Paths, identity: certificates.Identity) -> Path:
    return paths.config / f"{identity.name}.kubeconfig"


def _write_yaml(path: Path, content: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(content))


def _containerd(paths: Paths) -> str:
    cri = 'plugins."io.containerd.grpc.v1.cri"'
    # restrict_oom_score_adj: where we may not lower the score, runc would fail without it.
    return f"""\
version = 2
root = "{paths.containerd}"
state = "{paths.containerd_run}"
[grpc]
address = "{paths.containerd_socket}"
[plugins."io.containerd.internal.v1.opt"]
path = "{paths.containerd_run}/opt"
[{cri}]
sandbox_image = "{PAUSE_IMAGE}"
restrict_oom_score_adj = true
# Not below /run, which other container runtimes share.
netns_mounts_under_state_dir = true
[{cri}.containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[{cri}.containerd.runtimes.runc.options]
SystemdCgroup = {str(cgroups.systemd_runs()).lower()}
[{cri}.cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{paths.config}/cni"
"""


def _pod_network(paths: Paths, addresses: Addresses) -> dict[str, Any]:
    allocation = {
        "type": "host-local",
        "dataDir": str(paths.network),
        "ranges": [[{"subnet": addresses.node_pod_network}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    # hairpinMode: without it a pod that calls a Service and is picked itself waits for ever.
    bridge = {
        "type": "bridge",
        "bridge": POD_LINK,
        "isGateway": True,
        "hairpinMode": True,
        "ipMasq": True,
        "ipam": allocation,
    }
    ports = {"type": "portmap", "capabilities": {"portMappings": True}}
    return {"cniVersion": "0.4.0", "name": addresses.host_link, "plugins": [bridge, ports]}


def _kubelet(paths: Paths, addresses: Addresses) -> dict[str, Any]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": False},
            "x509": {"clientCAFile": str(paths.pki / "ca.crt")},
            "webhook": {"enabled": True},
        },
        "authorization": {"mode": "Webhook"},
        "address": addresses.node_ip,
        # Another kubelet would take the pods below its root for its own orphans.
        "cgroupRoot": cgroups.root(addresses.instance),
        "cgroupDriver": "systemd" if cgroups.systemd_runs() else "cgroupfs",
        "containerRuntimeEndpoint": f"unix://{paths.containerd_socket}",
        "failSwapOn": False,
        "failCgroupV1": False,
        "clusterDNS": [addresses.dns_service_ip],
        "clusterDomain": "cluster.local",
        "resolvConf": "/etc/resolv.conf",
        "maxPods": 200,
        "podLogsDir": str(paths.pod_logs),
        "volumePluginDir": str(paths.kubelet / "volume-plugins"),
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        # Our images are nowhere to be pulled from again.
        "imageGCHighThresholdPercent": 100,
        "imageMaximumGCAge": "0s",
        # Tests restart containers on purpose.
        "featureGates": {"KubeletCrashLoopBackOffMax": True},
        "crashLoopBackOff": {"maxContainerRestartPeriod": "2s"},
    }


def _kube_proxy(paths: Paths, addresses: Addresses) -> dict[str, Any]:
    untouched = {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"}
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "clientConnection": {"kubeconfig": str(kubeconfig_of(paths, certificates.PROXY))},
        "clusterCIDR": addresses.pod_network,
        "hostnameOverride": NODE_NAME,
        # The default of 1 s makes the first call to a webhook that just became Ready fail.
        "iptables": {"minSyncPeriod": "100ms"},
        # Zeros and a node-port address keep kube-proxy from writing sysctls.
        "conntrack": untouched,
        "nodePortAddresses": [f"{addresses.node_ip}/32"],
    }
