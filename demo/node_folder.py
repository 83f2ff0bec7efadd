"""A folder on the cluster's node, made and removed by a pod, because the node need not be this machine.

The pod has a namespace of its own: Spillway's may be gone when the folder is removed.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Final

from tests.e2e.kit.kube import Kube
from tests.e2e.kit.manifests import Manifest, make_namespace
from tests.e2e.kit.waiting import wait_for

_NAMESPACE: Final = "quickstart-node-folder"
_POD: Final = "node-folder"
_SECONDS: Final = 90
# As docs/adr/0001 asks the administrator to.
_MAKE: Final = (
    "import os, sys; path = sys.argv[1]; os.makedirs(path, exist_ok=True); "
    "os.chown(path, 0, 65532); os.chmod(path, 0o2755)"
)
_REMOVE: Final = "import os, shutil, sys; os.path.isdir(sys.argv[1]) and shutil.rmtree(sys.argv[1])"


def make(kube: Kube, image: str, folder: PurePosixPath) -> None:
    """Make the folder and prepare it as docs/adr/0001 asks the administrator to."""
    _run(kube, image, folder, _MAKE)


def remove(kube: Kube, image: str, folder: PurePosixPath) -> None:
    """Remove the folder with all that is in it."""
    _run(kube, image, folder, _REMOVE)


def _run(kube: Kube, image: str, folder: PurePosixPath, script: str) -> None:
    _drop_namespace(kube)
    # The pod mounts a folder of the node, which a stricter level would refuse.
    kube.apply(make_namespace(_NAMESPACE, **{"pod-security.kubernetes.io/enforce": "privileged"}))
    kube.apply(_pod(image, folder, script))

    def succeeded() -> bool:
        pod = kube.get("v1", "Pod", _POD, _NAMESPACE)
        assert pod is not None
        phase = pod.get("status", {}).get("phase")
        if phase != "Succeeded":
            log = kube.logs(_NAMESPACE, _POD, "script") if phase == "Failed" else ""
            raise AssertionError(f"{kube.describe(pod)} {log}")
        return True

    wait_for(f"the pod that prepares {folder}", succeeded, _SECONDS)
    _drop_namespace(kube)


def _drop_namespace(kube: Kube) -> None:
    kube.delete("v1", "Namespace", _NAMESPACE)
    wait_for(f"namespace {_NAMESPACE} to be gone", lambda: kube.get("v1", "Namespace", _NAMESPACE) is None, _SECONDS)


def _pod(image: str, folder: PurePosixPath, script: str) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": _POD, "namespace": _NAMESPACE},
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
