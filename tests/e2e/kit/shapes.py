"""Kinds of pods that carry the label: what controllers, platforms and people make of an engine's pod."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

Manifest = dict[str, Any]
Change = Callable[[Manifest], None]

SMALL: Manifest = {"cpu": "100m", "memory": "256Mi"}
LARGE: Manifest = {"cpu": "2", "memory": "4Gi"}


def base_pod(name: str = "shape") -> Manifest:
    """An engine's pod that meets the Pod Security level `restricted`."""
    container: Manifest = {
        "name": "server",
        "image": "registry.example/vllm/vllm-openai:v0.32.0",
        "args": ["--model", "/models/m"],
        "resources": {"requests": dict(SMALL), "limits": dict(LARGE)},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    security = {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {}, "annotations": {}},
        "spec": {"containers": [container], "securityContext": security},
    }


def owned(kind: str, api_version: str = "apps/v1", labels: Manifest | None = None, **spec: Any) -> Change:
    def change(pod: Manifest) -> None:
        owner = {
            "apiVersion": api_version,
            "kind": kind,
            "name": "owner",
            "uid": "7d1b5a52-6c3b-4a3e-9f3c-0a4b9d1c2e3f",
        }
        pod["metadata"]["ownerReferences"] = [{**owner, "controller": True}]
        pod["metadata"]["labels"] |= labels or {}
        pod["spec"] |= spec

    return change


def spec(**fields: Any) -> Change:
    return lambda pod: pod["spec"].update(copy.deepcopy(fields))


def engine(**fields: Any) -> Change:
    return lambda pod: pod["spec"]["containers"][0].update(copy.deepcopy(fields))


def beside(*containers: Manifest, init: bool = False) -> Change:
    def change(pod: Manifest) -> None:
        field = "initContainers" if init else "containers"
        mine = pod["spec"]["containers"][0]
        common = {
            "image": "registry.example/tool:1",
            "securityContext": mine["securityContext"],
            "resources": {"limits": SMALL},
        }
        pod["spec"].setdefault(field, []).extend(copy.deepcopy({**common, **container}) for container in containers)

    return change


def volume(source: Manifest, path: str = "/models") -> Change:
    def change(pod: Manifest) -> None:
        pod["spec"].setdefault("volumes", []).append({"name": "theirs", **copy.deepcopy(source)})
        mount = {"name": "theirs", "mountPath": path}
        pod["spec"]["containers"][0].setdefault("volumeMounts", []).append(mount)

    return change


def annotated(**annotations: str) -> Change:
    return lambda pod: pod["metadata"]["annotations"].update({k.replace("__", "/"): v for k, v in annotations.items()})


def together(*changes: Change) -> Change:
    def change(pod: Manifest) -> None:
        for one in changes:
            one(pod)

    return change


def _security(**fields: Any) -> Change:
    return lambda pod: pod["spec"]["securityContext"].update(fields)


SHAPES: dict[str, Change] = {
    "bare": together(),
    # By owner.
    "replica-set": owned("ReplicaSet"),
    "stateful-set": owned("StatefulSet", labels={"apps.kubernetes.io/pod-index": "0"}, hostname="chat-0", subdomain="chat"),
    "daemon-set": owned("DaemonSet"),
    "job": owned("Job", "batch/v1", {"job-name": "batch"}, restartPolicy="Never"),
    "job-on-failure": owned("Job", "batch/v1", restartPolicy="OnFailure", activeDeadlineSeconds=600),
    "leader-worker-set": owned("StatefulSet", labels={"leaderworkerset.sigs.k8s.io/name": "chat"}, subdomain="chat"),
    "kserve": together(
        owned("ReplicaSet", labels={"serving.kserve.io/inferenceservice": "chat", "component": "predictor"}),
        engine(name="kserve-container", args=["--model", "/mnt/models"]),
        beside({"name": "storage-initializer", "args": ["s3://m", "/mnt/models"]}, init=True),
        volume({"emptyDir": {}}, "/mnt/models"),
    ),
    "llm-d": together(
        owned("ReplicaSet", labels={"llm-d.ai/inferenceServing": "true", "llm-d.ai/role": "decode"}),
        beside({"name": "routing-proxy", "restartPolicy": "Always", "ports": [{"containerPort": 8000}]}, init=True),
    ),
    "gated": spec(schedulingGates=[{"name": "kueue.x-k8s.io/admission"}]),
    "mirror": lambda pod: pod["metadata"]["annotations"].update({"kubernetes.io/config.mirror": "x"}),
    # By what it shares with its node and within.
    "host-network": spec(hostNetwork=True),
    "host-network-port": together(
        spec(hostNetwork=True), engine(ports=[{"containerPort": 9464, "hostPort": 9464, "protocol": "TCP"}])
    ),
    "host-pid": spec(hostPID=True),
    "host-ipc": spec(hostIPC=True),
    "share-process-namespace": spec(shareProcessNamespace=True),
    "own-user-namespace": spec(hostUsers=False),
    # By operating system, architecture and runtime.
    "windows": together(
        spec(os={"name": "windows"}, securityContext={}, nodeSelector={"kubernetes.io/os": "windows"}),
        engine(securityContext={}),
    ),
    "linux": spec(os={"name": "linux"}),
    "arm64": spec(nodeSelector={"kubernetes.io/arch": "arm64"}),
    # By quality of service.
    "guaranteed": engine(resources={"requests": LARGE, "limits": LARGE}),
    "best-effort": engine(resources={}),
    "limits-only": engine(resources={"limits": LARGE}),
    "gpu": engine(resources={"limits": {"nvidia.com/gpu": "1"}}),
    "pod-level-resources": spec(resources={"limits": {"cpu": "4", "memory": "8Gi"}}),
    "resize-policy": engine(resizePolicy=[{"resourceName": "cpu", "restartPolicy": "NotRequired"}]),
    "vpa": annotated(vpaUpdates="Pod resources updated by chat: container 0: cpu request, memory request"),
    "ephemeral-storage": engine(resources={"requests": SMALL, "limits": {**LARGE, "ephemeral-storage": "1Gi"}}),
    # By its containers.
    "own-native-sidecar": beside({"name": "logs", "restartPolicy": "Always"}, init=True),
    "own-init": beside({"name": "download"}, init=True),
    "neighbour": beside({"name": "proxy"}),
    "neighbour-on-9464": beside({"name": "otel", "ports": [{"containerPort": 9464}]}),
    "two-engines": beside({"name": "second", "image": "registry.example/vllm/vllm-openai:v0.32.0"}),
    "no-engine": engine(image="registry.example/tool:1"),
    "own-name": beside({"name": "spillway"}),
    # By its volumes.
    "own-claim": volume({"persistentVolumeClaim": {"claimName": "models"}}),
    "own-ephemeral": volume({"ephemeral": {"volumeClaimTemplate": {"spec": {
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}}}),
    "key": volume({"secret": {"secretName": "ssh", "defaultMode": 0o400}}, "/keys"),
    "own-host-path": volume({"hostPath": {"path": "/models"}}),
    "own-memory": volume({"emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}}, "/dev/shm"),
    # By who it runs as.
    "fs-group": _security(fsGroup=2000),
    "root": lambda pod: pod["spec"].update(securityContext={"runAsUser": 0}),
    "random-uid": _security(runAsUser=1000650000, fsGroup=1000650000),
    "no-service-links": spec(enableServiceLinks=False, automountServiceAccountToken=False),
    "short-grace": spec(terminationGracePeriodSeconds=1),
    "tolerations": spec(tolerations=[{"key": "nvidia.com/gpu", "operator": "Exists"}], runtimeClassName=None),
}  # fmt: skip


def shaped(name: str) -> Manifest:
    """The pod of that kind, named after it."""
    pod = base_pod(name)
    SHAPES[name](pod)
    return pod
