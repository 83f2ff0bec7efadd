"""What injection changes in a pod, one file per concern. Each changes the pod that it is given and knows nothing of the
others; `MUTATORS` is the whole list."""

from __future__ import annotations

from collections.abc import Callable

from spillway_operator.injection.facts import Pod
from spillway_operator.injection.mutators import (
    autoscaler,
    client_container,
    disk_container,
    engine_env,
    engine_mounts,
    ephemeral_storage,
    filesystem_group,
    grace_period,
    marks,
    mesh_ports,
    sidecar_container,
    volumes,
)
from spillway_operator.injection.plan import Plan

MUTATORS: tuple[Callable[[Pod, Plan], None], ...] = (
    volumes.mutate,
    filesystem_group.mutate,
    disk_container.mutate,
    client_container.mutate,
    sidecar_container.mutate,
    ephemeral_storage.mutate,
    engine_mounts.mutate,
    engine_env.mutate,
    grace_period.mutate,
    autoscaler.mutate,
    mesh_ports.mutate,
    marks.mutate,
)
