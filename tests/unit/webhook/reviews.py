"""Admission reviews as the API server sends them, and their answers read back."""

from __future__ import annotations

import base64
import copy
import json
from typing import Any

from spillway_operator.api import names
from spillway_operator.injection import Pod


def make_pod(**spec: Any) -> Pod:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"generateName": "chat-", "labels": {names.POOL_LABEL: "chat"}},
        "spec": {"containers": [{"name": "server", "image": "vllm/vllm-openai:v0.32.0"}], **spec},
    }


def make_review(pod: Any, uid: str = "4b1d", *, dry_run: bool = True) -> bytes:
    request = {"uid": uid, "namespace": "team-a", "operation": "CREATE", "dryRun": dry_run, "object": pod}
    return json.dumps({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}).encode()


def patched(pod: Pod, response: dict[str, Any]) -> Pod:
    """`pod` with the response's JSON patch applied, for the operations that the webhook uses."""
    result = copy.deepcopy(pod)
    if "patch" not in response:
        return result
    assert response["patchType"] == "JSONPatch"
    for operation in json.loads(base64.b64decode(response["patch"])):
        _, part, field = operation["path"].split("/")
        assert (field in result[part]) == (operation["op"] != "add")
        if operation["op"] == "remove":
            del result[part][field]
        else:
            result[part][field] = operation["value"]
    return result
