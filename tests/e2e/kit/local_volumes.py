"""Claims that are bound without a driver: local PersistentVolumes on folders of the node, of a StorageClass that makes none itself."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from tests.e2e.kit.host_path import ROOT
from tests.e2e.kit.kube import Kube
from tests.e2e.kit.manifests import Manifest

STORAGE_CLASS = "spillway-e2e-local"
HOSTNAME = "kubernetes.io/hostname"


@contextmanager
def local_volumes(kube: Kube, count: int, capacity: str) -> Iterator[str]:
    """`count` volumes on the first node while it lasts; yields the name of their StorageClass.

    A volume is taken by one claim in its life, and goes only after that: let its namespace end within. Each folder is root's, as a file
    system is when it was just made.
    """
    node = kube.items("v1", "Node")[0]["metadata"]["labels"][HOSTNAME]
    folder = ROOT / "local-volumes"
    _remove(kube)  # those of a run that was killed
    shutil.rmtree(folder, ignore_errors=True)
    kube.apply(_storage_class())
    for _ in range(count):
        name = f"{STORAGE_CLASS}-{uuid.uuid4().hex[:8]}"
        (folder / name).mkdir(parents=True, mode=0o755)
        kube.apply(_volume(name, str(folder / name), node, capacity))
    try:
        yield STORAGE_CLASS
    finally:
        _remove(kube)
        kube.delete("storage.k8s.io/v1", "StorageClass", STORAGE_CLASS)
        shutil.rmtree(folder, ignore_errors=True)


def _remove(kube: Kube) -> None:
    for volume in kube.items("v1", "PersistentVolume"):
        if volume["spec"].get("storageClassName") == STORAGE_CLASS:
            kube.delete("v1", "PersistentVolume", volume["metadata"]["name"])


def _storage_class() -> Manifest:
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": STORAGE_CLASS},
        "provisioner": "kubernetes.io/no-provisioner",
        "volumeBindingMode": "WaitForFirstConsumer",
    }


def _volume(name: str, path: str, node: str, capacity: str) -> Manifest:
    on_the_node = {"matchExpressions": [{"key": HOSTNAME, "operator": "In", "values": [node]}]}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "capacity": {"storage": capacity},
            "accessModes": ["ReadWriteOnce"],
            # Nobody could delete what nobody made.
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": STORAGE_CLASS,
            "local": {"path": path},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [on_the_node]}},
        },
    }
