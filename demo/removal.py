"""Taking the demo off a cluster that stays: each step for itself, so that one that cannot be done hinders no other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Final

from kubernetes.client.exceptions import ApiException
from kubernetes.dynamic.exceptions import ResourceNotFoundError

from demo import node_folder
from demo.story import NAMESPACE
from dev.cluster.commands import ClusterError
from dev.cluster.installation import NAMESPACE as SPILLWAY_NAMESPACE
from dev.cluster.installation import Installation
from dev.cluster.progress import say, step
from tests.e2e.kit.kube import Kube, Manifest
from tests.e2e.kit.waiting import wait_for

_POOL_KIND: Final = ("spillway.dev/v1alpha1", "KVCachePool")
_CLEANED_SECONDS: Final = 60
_GONE_SECONDS: Final = 120


class Removal:
    """What `make demo` made on a cluster: the example's namespace, its folder on the node, and Spillway.

    `image` runs the pod that removes the folder.
    """

    def __init__(self, kube: Kube, installation: Installation, image: str, folder: PurePosixPath) -> None:
        self._kube = kube
        self._installation = installation
        self._image = image
        self._folder = folder
        self._undone: list[str] = []

    def run(self) -> list[str]:
        """Remove all of it, from whatever state. Returns what could not be done, in words; empty when nothing is left."""
        self.remove_example()
        self._attempt("Spillway", self._installation.uninstall)
        return self._undone

    def remove_example(self) -> list[str]:
        """The same without Spillway itself."""
        if self._kube.get("v1", "Namespace", NAMESPACE) is not None:
            self._attempt("the engine", self._remove_engine)
            self._attempt("the pool", self._remove_pools)
            self._attempt(f"namespace {NAMESPACE}", self._remove_namespace)
        self._attempt(f"the node's folder {self._folder}", self._remove_folder)
        return self._undone

    def _attempt(self, what: str, how: Callable[[], None]) -> None:
        try:
            with step(f"removing {what}"):
                how()
        except (AssertionError, ApiException, ClusterError) as error:
            self._undone.append(f"{what}: {error}")

    def _remove_engine(self) -> None:
        self._kube.delete("apps/v1", "Deployment", "vllm", NAMESPACE)

    def _remove_pools(self) -> None:
        """By the operator, which cleans the node; by hand where it is gone or does not come to an end."""
        for pool in self._pools():
            self._kube.delete(*_POOL_KIND, pool["metadata"]["name"], NAMESPACE)
        if self._operator_is_available():
            try:
                wait_for("the operator to let the pool go", lambda: not self._pools(), _CLEANED_SECONDS)
            except AssertionError as error:
                say(f"{error}; letting it go without the operator")
        for pool in self._pools():
            name = pool["metadata"]["name"]
            say(
                f"pool {NAMESPACE}/{name}: no operator could be asked to clean its node; its folder goes with {self._folder}"
            )
            self._kube.patch(*_POOL_KIND, name, NAMESPACE, {"metadata": {"finalizers": None}})
        wait_for("the pool to be gone", lambda: not self._pools(), _GONE_SECONDS)

    def _pools(self) -> list[Manifest]:
        try:
            return self._kube.items(*_POOL_KIND, NAMESPACE)
        except ResourceNotFoundError:  # the kind is not served: its definition is gone, and all pools with it
            return []
        except ApiException as error:
            if error.status == 404:
                return []
            raise

    def _operator_is_available(self) -> bool:
        deployment = self._kube.get("apps/v1", "Deployment", "spillway-operator", SPILLWAY_NAMESPACE)
        return bool(deployment and deployment.get("status", {}).get("availableReplicas"))

    def _remove_namespace(self) -> None:
        self._kube.delete("v1", "Namespace", NAMESPACE)
        wait_for(
            "the namespace to be gone", lambda: self._kube.get("v1", "Namespace", NAMESPACE) is None, _GONE_SECONDS
        )

    def _remove_folder(self) -> None:
        node_folder.remove(self._kube, self._image, self._folder)
