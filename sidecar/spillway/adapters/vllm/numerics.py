"""Every setting of an engine that may change a byte of its KV cache, for the fingerprint.

vLLM itself says which of its environment variables change what it computes: what its compile cache is keyed by. Some that it
leaves out of that key change weights or inputs, so they are added; what only names a place or a time is taken out, so that
the pods of a pool share. A variable that vLLM does not know is read by something that nobody described, and makes the engine
cold; one that an earlier vLLM knew is read by nobody any more, stands in many manifests, and counts by its value.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from importlib import metadata
from typing import Any, Final

import torch

from spillway.adapters.vllm.exact import exact
from spillway.client.identity import IdentityUnknown

# Not in vLLM's compile key, as no graph depends on them; weights, kernels or inputs do.
_ADDED: Final = (
    "VLLM_CPU_MOE_PREPACK",
    "VLLM_ZENTORCH_WEIGHT_PREPACK",
    "VLLM_TUNED_CONFIG_FOLDER",
    "VLLM_FLASHINFER_AUTOTUNE_SKIP_OPS",
    "VLLM_TEST_FORCE_LOAD_FORMAT",
    "VLLM_MODEL_REDIRECT_PATH",
    "VLLM_USE_MODELSCOPE",
    "VLLM_VIDEO_LOADER_BACKEND",
    "VLLM_MAX_IMAGE_PIXELS",
    "VLLM_MEDIA_CONNECTOR",
)
# Read by vLLM past its own registry of variables, and by value in the fingerprint like the retired.
_UNREGISTERED: Final = frozenset({"VLLM_CUSTOM_ALLREDUCE_ALGO", "VLLM_CPU_SIM_MULTI_NUMA"})
# vLLM writes these for its own processes.
_OWN: Final = re.compile(r"VLLM_DIST_IDENT|VLLM_OMP_NUM_THREADS_SET_BY_VLLM|VLLM_SNAPSHOT_\w+")
# Where and when something runs, never what it computes.
_PLACES: Final = re.compile(
    r".*(_PORT|_HOST|_HOSTNAME|_IP|_IPS|_TIMEOUT|_TIMEOUT_S|_TIMEOUT_SECONDS)"
    r"|VLLM_DP_(RANK|RANK_LOCAL)|VLLM_PROCESS_NAME_PREFIX|VLLM_USAGE_SOURCE|VLLM_IMAGE_TAG|VLLM_BUILD_(URL|PIPELINE)"
    r"|VLLM_CPU_(OMP_THREADS_BIND|NUM_OF_RESERVED_CPU)"
)
# Kubernetes writes these into every pod for each Service of the namespace (a Service `vllm` gives VLLM_SERVICE_HOST).
_SERVICE_LINK: Final = re.compile(
    r"VLLM_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)
_RETIRED: Final = frozenset(
    {
        "VLLM_ALL2ALL_BACKEND",
        "VLLM_ATTENTION_BACKEND",
        "VLLM_FLASHINFER_FORCE_TENSOR_CORES",
        "VLLM_FLASHINFER_MOE_BACKEND",
        "VLLM_FLASH_ATTN_VERSION",
        "VLLM_FUSED_MOE_CHUNK_SIZE",
        "VLLM_NO_DEPRECATION_WARNING",
        "VLLM_TORCH_PROFILER_DIR",
        "VLLM_USE_CUDNN_PREFILL",
        "VLLM_USE_FLASHINFER_MOE_FP16",
        "VLLM_USE_FLASHINFER_MOE_FP4",
        "VLLM_USE_FLASHINFER_MOE_FP8",
        "VLLM_USE_RAY_COMPILED_DAG",
        "VLLM_USE_RAY_SPMD_WORKER",
        "VLLM_USE_TRITON_FLASH_ATTN",
        "VLLM_USE_TRTLLM_ATTENTION",
        "VLLM_USE_V1",
        "VLLM_V1_USE_PREFILL_DECODE_ATTENTION",
    }
)
# Read by the libraries below vLLM.
_LIBRARY_PREFIXES: Final = (
    "AITER_",
    "CUBLAS_",
    "CUDNN_",
    "DG_",
    "DNNL_",
    "FLASHINFER_",
    "FLASH_ATTENTION_",
    "HIPBLASLT_",
    "MIOPEN_",
    "NVIDIA_TF32_",
    "ONEDNN_",
    "TORCHINDUCTOR_",
    "TORCH_ALLOW_TF32",
    "TORCH_BLAS_",
)
_LIBRARIES: Final = (
    "torch",
    "triton",
    "transformers",
    "flashinfer-python",
    "flash-attn",
    "deep-gemm",
    "amd-aiter",
    "zentorch",
)
_COMPILATION: Final = ("mode", "backend", "custom_ops", "use_inductor_graph_partition", "cudagraph_mode", "pass_config")


def describe_environment(environ: Mapping[str, str] | None = None) -> dict[str, Any]:
    """vLLM's own variables with their defaults, and those of the libraries below it. Raises IdentityUnknown."""
    from vllm import envs

    environ = os.environ if environ is None else environ
    known = set(envs.environment_variables)
    by_value = {name: environ[name] for name in sorted((_RETIRED | _UNREGISTERED) - known) if name in environ}
    for name in sorted(set(environ) - known - set(by_value)):
        if name.startswith("VLLM_") and not _SERVICE_LINK.fullmatch(name) and not _OWN.fullmatch(name):
            raise IdentityUnknown(
                name, "vLLM does not know it, so whoever reads it may change outputs; unset or rename it"
            )
    factors = {name: value for name, value in envs.compile_factors().items() if not _PLACES.fullmatch(name)}
    factors |= {name: getattr(envs, name) for name in _ADDED if name in known}
    libraries = {name: value for name, value in environ.items() if name.startswith(_LIBRARY_PREFIXES)}
    return {"vllm": exact(factors, "environment"), "by_value": by_value, "libraries": libraries}


def describe_versions() -> dict[str, str | None]:
    """What computes, by version; None for what is not installed."""
    versions: dict[str, str | None] = {name: _version(name) for name in _LIBRARIES}
    return {**versions, "cuda": torch.version.cuda, "hip": torch.version.hip}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def describe_computation(vllm_config: Any) -> dict[str, Any]:
    """How the engine computes, from its configuration. Raises IdentityUnknown, AttributeError for a field that moved."""
    compilation = vllm_config.compilation_config
    return {
        # The longest context chooses between rope tables in some models, so engines of another length share nothing.
        "model": vllm_config.model_config.compute_hash(),
        "parallel": vllm_config.parallel_config.compute_hash(),
        "custom_all_reduce": not vllm_config.parallel_config.disable_custom_all_reduce,
        "eager": vllm_config.model_config.enforce_eager,
        "attention": exact(vllm_config.attention_config, "attention_config"),
        "kernel": exact(vllm_config.kernel_config, "kernel_config"),
        "compilation": {name: exact(getattr(compilation, name), f"compilation_config.{name}") for name in _COMPILATION},
        "load": exact(vllm_config.load_config.model_loader_extra_config, "model_loader_extra_config"),
        "lora": None if vllm_config.lora_config is None else vllm_config.lora_config.compute_hash(),
        "weight_transfer": exact(vllm_config.weight_transfer_config, "weight_transfer_config"),
        "additional": exact(vllm_config.additional_config, "additional_config"),
        "matmul_precision": torch.get_float32_matmul_precision(),
    }
