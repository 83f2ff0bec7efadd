"""The pod that removes a deleted pool's folder from one node's disk."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from spillway_operator.api.names import pool_folder

CLEANUP_LABEL = "spillway.dev/cleanup"
DEADLINE_SECONDS = 600
MOUNT_PATH = "/spillway/disk"
TERMINATION_LOG = "/dev/termination-log"


@dataclass(frozen=True)
class DiskCleanup:
    """What to clean where. `host_path` is the folder on the node that the admin provides and the pool names."""

    pool_namespace: str
    pool_name: str
    pool_uid: str
    host_path: str
    node: str

    @property
    def folder(self) -> str:
        """The pool's own folder on the node: what is removed."""
        return pool_folder(self.host_path, self.pool_namespace, self.pool_uid)


def cleanup_pod_name(pool_uid: str, node: str) -> str:
    """One name per pool and node, so that a second attempt meets the first."""
    digest = hashlib.sha256(f"{pool_uid}/{node}".encode()).hexdigest()[:16]
    return f"spillway-cleanup-{digest}"


def build_cleanup_pod(cleanup: DiskCleanup, *, release_namespace: str, image: str, pull_policy: str) -> dict[str, Any]:
    """Render the pod: 10 minutes, bound to its node, root with two rights, because a pool chooses its sidecar's user.

    The binding is by nodeName: no scheduler has a say, so that cordons, taints and full nodes do not keep tenants' data
    alive.
    """
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": cleanup_pod_name(cleanup.pool_uid, cleanup.node),
            "namespace": release_namespace,
            "labels": {
                "app.kubernetes.io/part-of": "spillway",
                "app.kubernetes.io/component": "disk-cleanup",
                CLEANUP_LABEL: cleanup.pool_uid,
            },
            "annotations": {"spillway.dev/cleans-for": f"{cleanup.pool_namespace}/{cleanup.pool_name}"},
        },
        "spec": {
            "nodeName": cleanup.node,
            "restartPolicy": "Never",
            "activeDeadlineSeconds": DEADLINE_SECONDS,
            "terminationGracePeriodSeconds": 5,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "tolerations": [{"operator": "Exists"}],
            "securityContext": {
                "runAsNonRoot": False,
                "runAsUser": 0,
                "runAsGroup": 0,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [_container(cleanup, image, pull_policy)],
            "volumes": [{"name": "disk", "hostPath": {"path": cleanup.host_path, "type": "Directory"}}],
        },
    }


def _container(cleanup: DiskCleanup, image: str, pull_policy: str) -> dict[str, Any]:
    return {
        "name": "cleanup",
        "image": image,
        "imagePullPolicy": pull_policy,
        "command": [
            "python3",
            "-m",
            "spillway_operator.cleanup",
            "--root",
            MOUNT_PATH,
            "--namespace",
            cleanup.pool_namespace,
            "--pool-uid",
            cleanup.pool_uid,
            "--termination-log",
            TERMINATION_LOG,
        ],
        # Whether the folder was there, or a failure's last lines, reach the operator through the container status.
        "terminationMessagePath": TERMINATION_LOG,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"], "add": ["DAC_OVERRIDE", "FOWNER"]},
        },
        # It asks for nothing: bound by nodeName, the kubelet of a full node would refuse it for a request.
        "resources": {"requests": {"cpu": "0", "memory": "0"}, "limits": {"cpu": "500m", "memory": "128Mi"}},
        "volumeMounts": [{"name": "disk", "mountPath": MOUNT_PATH}],
    }
