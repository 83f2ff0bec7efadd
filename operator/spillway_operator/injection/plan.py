"""What will be injected into one pod, decided before anything is changed."""

from __future__ import annotations

from dataclasses import dataclass

from spillway.config import SidecarConfig

from spillway_operator.api import KVCachePool, NvmeTier, names, pool_user, sidecar_image
from spillway_operator.injection.disk_owner import DiskOwner, decide_disk_owner, namespace_level
from spillway_operator.injection.engine import find_engine
from spillway_operator.injection.facts import Container, Facts, Pod, Skip
from spillway_operator.injection.http_port import choose_http_port
from spillway_operator.injection.mesh import Exclusion, find_exclusions
from spillway_operator.injection.qos import is_guaranteed
from spillway_operator.injection.revision import build_sidecar_config
from spillway_operator.injection.sizing import Sizing, size_sidecar


@dataclass(frozen=True)
class Plan:
    """Input of every mutator. `engine_index` points into spec.containers; `user` is None where the cluster assigns one."""

    pool: KVCachePool
    image: str
    pull_policy: str
    config: SidecarConfig
    engine_index: int
    user: int | None
    disk_owner: DiskOwner
    guaranteed: bool
    sizing: Sizing
    mesh_exclusions: tuple[Exclusion, ...] = ()

    @property
    def nvme(self) -> NvmeTier | None:
        """The NVMe tier of the pool, if it has one."""
        return self.pool.spec.tiers.nvme

    def engine(self, pod: Pod) -> Container:
        """The engine's container in `pod`, to be changed in place."""
        container: Container = pod["spec"]["containers"][self.engine_index]
        return container


def build_plan(pod: Pod, pool: KVCachePool, facts: Facts) -> Plan | Skip:
    """Plan the injection of a sidecar of `pool` into `pod`, or say why the engine cannot be told."""
    engine_index = find_engine(pod, pool.spec.engine.container)
    if isinstance(engine_index, Skip):
        return engine_index
    image = sidecar_image(pool, facts.allowed)
    config = build_sidecar_config(pool, image, facts.status_public_keys)
    # Not part of the revision: it is the pod's, not the pool's.
    config = config.model_copy(update={"http_port": choose_http_port(pod, facts)})
    guaranteed = is_guaranteed(pod)
    return Plan(
        pool=pool,
        image=image,
        pull_policy=facts.pull_policy,
        config=config,
        engine_index=engine_index,
        user=None if facts.is_user_assigned else _user(pod, pool),
        disk_owner=_disk_owner(pod, pool, facts),
        guaranteed=guaranteed,
        sizing=size_sidecar(pool.spec.sidecar, config, guaranteed=guaranteed),
        mesh_exclusions=find_exclusions(pod, facts.namespace_labels, facts.namespace_annotations),
    )


def _disk_owner(pod: Pod, pool: KVCachePool, facts: Facts) -> DiskOwner:
    """Whoever assigns users assigns the pod's fsGroup as well, and admits no root."""
    if facts.is_user_assigned:
        return DiskOwner.NOBODY
    return decide_disk_owner(pod, pool.spec.tiers.nvme, namespace_level(facts.namespace_labels))


def _user(pod: Pod, pool: KVCachePool) -> int:
    """The pool's user, but in a pod with a user namespace of its own: the kubelet gives it ids that no other pod has."""
    user = pool_user(pool)
    if pod["spec"].get("hostUsers") is False and user > names.LAST_NAMESPACED_USER:
        return names.SIDECAR_UID
    return user
