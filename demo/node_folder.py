"""A folder on the cluster's node, made and removed by a pod, because the node need not be this machine."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Final

from tests.cluster.installation import NAMESPACE
from tests.e2e.kit.kube import Kube, describe
from tests.e2e.kit.manifests import Manifest
from tests.e2e.kit.waiting import wait_for

_POD: Final = "node-folder"
_SECONDS: Final = 90
_MAKE: Final = "import os, sys; os.makedirs(sys.argv[1], exist_ok=True); os.chown(sys.argv[1], 65532, 65532)"
_REMOVE: Final = "import shutil, sys; shutil.rmtree(sys.argv[1], ignore_errors=True)"


def make(kube: Kube, image: str, folder: PurePosixPath) -> None:
    """Make the folder and give it to the sidecar's user."""
    _run(kube, image, folder, _MAKE)


def remove(kube: Kube, image: str, folder: PurePosixPath) -> None:
    """Remove the folder with all that is in it."""
    _run(kube, image, folder, _REMOVE)


def _run(kube: Kube, image: str, folder: PurePosixPath, script: str) -> None:
    kube.delete("v1", "Pod", _POD, NAMESPACE)
    wait_for("an earlier pod to be gone", lambda: kube.get("v1", "Pod", _POD, NAMESPACE) is None, _SECONDS)
    kube.apply(_pod(image, folder, script))

    def succeeded() -> bool:
        pod = kube.get("v1", "Pod", _POD, NAMESPACE)
        assert pod is not None
        phase = pod.get("status", {}).get("phase")
        if phase != "Succeeded":
            raise AssertionError(f"{describe(pod)} {kube.logs(NAMESPACE, _POD, 'script') if phase == 'Failed' else ''}")
        return True

    wait_for(f"the pod that prepares {folder}", succeeded, _SECONDS)
    kube.delete("v1", "Pod", _POD, NAMESPACE)


def _pod(image: str, folder: PurePosixPath, script: str) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": _POD, "namespace": NAMESPACE},
        "spec": {
            "restartPolicy": "Never",
            "containers": [
                {
                    "name": "script",
                    "image": image,
                    "imagePullPolicy": "IfNotPresent",
                    "command": ["python3", "-c", script, f"/node/{folder.name}"],
                    "securityContext": {"runAsUser": 0, "runAsGroup": 0},
                    "volumeMounts": [{"name": "parent", "mountPath": "/node"}],
                }
            ],
            "volumes": [{"name": "parent", "hostPath": {"path": str(folder.parent), "type": "Directory"}}],
        },
    }
