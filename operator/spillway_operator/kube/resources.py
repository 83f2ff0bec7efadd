"""Which kinds Spillway reads or writes, and where they live in the API. Objects are dicts, as the API server speaks them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

Manifest = dict[str, Any]


@dataclass(frozen=True)
class Resource:
    """Where a kind lives in the API: `api_version` as in a manifest, `plural` as in its path."""

    api_version: str
    kind: str
    plural: str

    def path(self, namespace: str | None = None, name: str | None = None, subresource: str | None = None) -> str:
        """URL path of all objects, of those of a namespace, or of one where `name` is given."""
        root = f"/apis/{self.api_version}" if "/" in self.api_version else f"/api/{self.api_version}"
        parts = [root]
        if namespace:
            parts.append(f"namespaces/{quote(namespace, safe='')}")
        parts.append(self.plural)
        if name:
            parts.append(quote(name, safe=""))
        if subresource:
            parts.append(subresource)
        return "/".join(parts)


POOLS = Resource("spillway.dev/v1alpha1", "KVCachePool", "kvcachepools")
PODS = Resource("v1", "Pod", "pods")
NODES = Resource("v1", "Node", "nodes")
EVENTS = Resource("v1", "Event", "events")
SECRETS = Resource("v1", "Secret", "secrets")
NAMESPACES = Resource("v1", "Namespace", "namespaces")
CONFIG_MAPS = Resource("v1", "ConfigMap", "configmaps")
LIMIT_RANGES = Resource("v1", "LimitRange", "limitranges")
CLAIMS = Resource("v1", "PersistentVolumeClaim", "persistentvolumeclaims")
DEPLOYMENTS = Resource("apps/v1", "Deployment", "deployments")
CRDS = Resource("apiextensions.k8s.io/v1", "CustomResourceDefinition", "customresourcedefinitions")
LEASES = Resource("coordination.k8s.io/v1", "Lease", "leases")
ENDPOINT_SLICES = Resource("discovery.k8s.io/v1", "EndpointSlice", "endpointslices")
STORAGE_CLASSES = Resource("storage.k8s.io/v1", "StorageClass", "storageclasses")
WEBHOOK_CONFIGURATIONS = Resource(
    "admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration", "mutatingwebhookconfigurations"
)
