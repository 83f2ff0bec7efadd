"""Builders of what a user writes: a namespace, a pool, a plain vLLM Deployment with its Service."""

from __future__ import annotations

from typing import Any

Manifest = dict[str, Any]

ENGINE_IMAGE = "localhost/vllm-cpu:0.32.0"
CONTROL_IMAGE = "localhost/spillway-control:dev"


def make_namespace(name: str, **labels: str) -> Manifest:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def make_pool(
    namespace: str,
    *,
    name: str = "chat",
    dram: str = "512Mi",
    nvme: str | None = "2Gi",
    host_path: str | None = None,
    **spec: Any,
) -> Manifest:
    """A pool with DRAM and, unless `nvme` is None, an NVMe tier on `host_path` or, without one, on an emptyDir."""
    tiers: Manifest = {"dram": {"capacity": dram}}
    if nvme is not None:
        volume: Manifest = {"type": "EmptyDir", "emptyDir": {"sizeLimit": "8Gi"}}
        if host_path is not None:
            volume = {"type": "HostPath", "hostPath": {"path": host_path}}
        tiers["nvme"] = {"capacity": nvme, "volume": volume, "io": {"deadline": "2s"}}
    # Four of a module's pods fit beside the demo's engine on two cores.
    sidecar = {"resources": {"requests": {"cpu": "50m"}}}
    return {
        "apiVersion": "spillway.dev/v1alpha1",
        "kind": "KVCachePool",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"tiers": tiers, "sidecar": sidecar, **spec},
    }


def make_engine(
    namespace: str,
    *,
    name: str = "vllm",
    pool: str | None = "chat",
    model: str = "tiny-llama",
    blocks: int = 512,
    max_model_len: int = 4096,
    block_size: int = 32,
    dtype: str = "float32",
    batched_tokens: int = 1024,
    extra_args: tuple[str, ...] = (),
    strategy: str = "Recreate",
) -> list[Manifest]:
    """A Deployment of one unmodified vLLM pod, and its Service. It knows of Spillway by one label."""
    labels = {"app": name}
    pod_labels = labels if pool is None else {**labels, "spillway.dev/pool": pool}
    arguments = [
        f"/models/{model}",
        *("--served-model-name", "model", "--host", "0.0.0.0", "--port", "8000"),
        *("--dtype", dtype, "--enforce-eager", "--block-size", str(block_size)),
        *("--max-model-len", str(max_model_len), "--num-gpu-blocks-override", str(blocks)),
        *("--max-num-batched-tokens", str(batched_tokens)),
        *extra_args,
    ]
    container: Manifest = {
        "name": "server",
        "image": ENGINE_IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "command": ["vllm", "serve"],
        "args": arguments,
        "env": [
            {"name": "HF_HUB_OFFLINE", "value": "1"},
            {"name": "VLLM_NO_USAGE_STATS", "value": "1"},
            # vLLM compiles its log probabilities with torch, and the image has no C++ compiler.
            {"name": "TORCHDYNAMO_DISABLE", "value": "1"},
            {"name": "VLLM_CPU_KVCACHE_SPACE", "value": "1"},
            {"name": "VLLM_CPU_OMP_THREADS_BIND", "value": "0-1"},
        ],
        "ports": [{"name": "http", "containerPort": 8000}],
        "readinessProbe": {"httpGet": {"path": "/health", "port": 8000}, "periodSeconds": 1, "failureThreshold": 600},
        "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}],
        "resources": {"requests": {"cpu": "50m", "memory": "2Gi"}},
    }
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "replicas": 1,
            "strategy": {"type": strategy},
            "progressDeadlineSeconds": 900,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": pod_labels},
                "spec": {
                    "terminationGracePeriodSeconds": 5,
                    # A Service named vllm would otherwise set VLLM_PORT, which vLLM takes for a setting of its own.
                    "enableServiceLinks": False,
                    "containers": [container],
                    "volumes": [{"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}}],
                },
            },
        },
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"selector": labels, "ports": [{"name": "http", "port": 80, "targetPort": 8000}]},
    }
    return [deployment, service]
