"""CPU and memory of what is injected. Limits are always set, so that no LimitRange default can shrink them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from spillway.config import MIB, SidecarConfig

from spillway_operator.api import SidecarSpec
from spillway_operator.api.quantity import format_millicores
from spillway_operator.api.spec import cpu_millicores

# Room for the bursts of recovery and prefaulting where the pool sets no limit.
DEFAULT_LIMIT_MILLICORES = 2000
# One interpreter that copies about 10 MB.
CLIENT_MILLICORES = 100
CLIENT_MEMORY_BYTES = 128 * MIB


@dataclass(frozen=True)
class Sizing:
    """Requests and limits of one container; memory is requested as it is limited."""

    cpu_request_millicores: int
    cpu_limit_millicores: int
    memory_bytes: int

    def render(self) -> dict[str, Any]:
        """The container's `resources`."""
        memory = f"{self.memory_bytes // MIB}Mi"
        return {
            "requests": {"cpu": format_millicores(self.cpu_request_millicores), "memory": memory},
            "limits": {"cpu": format_millicores(self.cpu_limit_millicores), "memory": memory},
        }


CLIENT_SIZING = Sizing(CLIENT_MILLICORES, CLIENT_MILLICORES, CLIENT_MEMORY_BYTES)


def sidecar_memory_bytes(config: SidecarConfig) -> int:
    """Arena, index and heap and 3 % for page tables and the kernel's own, rounded up to MiB.

    The pages of arena and index are charged to whoever touches them first, which is the sidecar. The heap includes what
    the daemon knows of each chunk; it caps itself there, as the arena's charge may stay with the pod when it restarts.
    """
    wanted = (config.dram.capacity_bytes + config.index_bytes + config.heap_bytes) * 103
    return -(-wanted // (100 * MIB)) * MIB


def size_sidecar(spec: SidecarSpec, config: SidecarConfig, *, guaranteed: bool) -> Sizing:
    """The sidecar's sizing; in a Guaranteed pod the CPU limit is the request where the pool states no limit."""
    request, limit = cpu_millicores(spec)
    if limit is None:
        limit = request if guaranteed else max(request, DEFAULT_LIMIT_MILLICORES)
    return Sizing(request, limit, sidecar_memory_bytes(config))
