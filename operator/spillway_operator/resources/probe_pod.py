"""The pod by which the operator asks whether the webhook is called. It is created as a dry run and never stored.

It is as modest as a pod can be, so that little refuses it: who is refused has been through the webhook, and says so all the same.
"""

from __future__ import annotations

from typing import Any

from spillway_operator.api import names


def build_probe_pod(namespace: str, image: str) -> dict[str, Any]:
    """The manifest for one namespace; `image` is our own, which a policy of registries has to allow anyway."""
    container = {
        "name": "probe",
        "image": image,
        "resources": {"requests": {"cpu": "1m", "memory": "1Mi"}, "limits": {"cpu": "1m", "memory": "1Mi"}},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": "spillway-injection-probe-",
            "namespace": namespace,
            "labels": {names.POOL_LABEL: names.PROBE_POOL},
        },
        "spec": {
            "containers": [container],
            "automountServiceAccountToken": False,
            "restartPolicy": "Never",
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        },
    }
