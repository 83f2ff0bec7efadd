"""Decide whether a pod gets a sidecar: a chain of small checks. The first that objects names the reason; the order of
`CHECKS` is the documentation. What concerns the pool comes first, then the pod, then what the two give together."""

from __future__ import annotations

from collections.abc import Callable

from spillway_operator.api import InjectionStatus, KVCachePool, SkipReason, find_fault, names
from spillway_operator.injection.disk_owner import namespace_level
from spillway_operator.injection.facts import Facts, Pod, Skip
from spillway_operator.injection.limit_range import find_violation
from spillway_operator.injection.plan import Plan, build_plan
from spillway_operator.injection.qos import all_containers

PodCheck = Callable[[Pod, KVCachePool, Facts], Skip | None]
PlanCheck = Callable[[Pod, Plan, Facts], Skip | None]


def decide(pod: Pod, facts: Facts) -> Plan | Skip:
    """The plan of the injection, or why there is none. Pure; `pod` is not changed."""
    if facts.pool is None:
        return _no_pool(pod, facts)
    for check in POD_CHECKS:
        if skip := check(pod, facts.pool, facts):
            return skip
    plan = build_plan(pod, facts.pool, facts)
    if isinstance(plan, Skip):
        return plan
    for plan_check in PLAN_CHECKS:
        if skip := plan_check(pod, plan, facts):
            return skip
    return plan


def _no_pool(pod: Pod, facts: Facts) -> Skip:
    if facts.pool_fault:
        return Skip(SkipReason.POOL_INVALID, facts.pool_fault)
    wanted = (pod["metadata"].get("labels") or {}).get(names.POOL_LABEL, "")
    return Skip(
        SkipReason.POOL_NOT_FOUND,
        f"no KVCachePool {wanted!r} in the pod's namespace: create it or correct the label {names.POOL_LABEL}",
    )


def check_pool_stays(pod: Pod, pool: KVCachePool, facts: Facts) -> Skip | None:
    """The pool is being deleted, and its folders on disks with it."""
    if pool.metadata.deletion_timestamp is None:
        return None
    return Skip(SkipReason.POOL_INVALID, f"KVCachePool {pool.metadata.name!r} is being deleted")


def check_pool_allowed(pod: Pod, pool: KVCachePool, facts: Facts) -> Skip | None:
    """The pool asks for what the administrator does not allow."""
    fault = find_fault(pool, facts.allowed)
    return Skip(SkipReason.POOL_INVALID, fault.message) if fault else None


def check_user_free(pod: Pod, pool: KVCachePool, facts: Facts) -> Skip | None:
    """The pool's user is another pool's."""
    return Skip(SkipReason.POOL_INVALID, facts.user_fault.message) if facts.user_fault else None


def check_pool_valid(pod: Pod, pool: KVCachePool, facts: Facts) -> Skip | None:
    """The operator found the pool invalid, and the pool has not changed since."""
    condition = pool.status.condition("ConfigValid")
    if condition is None or condition.status != "False":
        return None
    if condition.observed_generation not in (None, pool.metadata.generation):
        return None
    return Skip(SkipReason.POOL_INVALID, f"{condition.reason}: {condition.message}")


def check_host_ipc(pod: Pod, pool: KVCachePool, facts: Facts) -> Skip | None:
    """The pod shares the node's IPC namespace, where a sidecar would meet other pods."""
    if not pod["spec"].get("hostIPC"):
        return None
    return Skip(SkipReason.HOST_IPC, "spec.hostIPC is true: remove it to let the pod be injected")


def check_linux(pod: Pod, pool: KVCachePool, facts: Facts) -> Skip | None:
    """The pod asks for another operating system."""
    spec = pod["spec"]
    asked = (spec.get("os") or {}).get("name") or (spec.get("nodeSelector") or {}).get("kubernetes.io/os") or "linux"
    return (
        None if asked == "linux" else Skip(SkipReason.UNSUPPORTED_OS, f"the pod asks for {asked}; Spillway needs linux")
    )


def check_names_free(pod: Pod, pool: KVCachePool, facts: Facts) -> Skip | None:
    """The pod has what we would add: the API server would refuse the second one of a name."""
    taken = [container["name"] for container in all_containers(pod) if container["name"] in names.CONTAINERS]
    volumes = [volume["name"] for volume in pod["spec"].get("volumes") or []]
    taken += [name for name in volumes if name.startswith(names.VOLUME_PREFIX)]
    for container in pod["spec"]["containers"]:
        paths = [mount["mountPath"] for mount in container.get("volumeMounts") or []]
        taken += [path for path in paths if f"{path.rstrip('/')}/".startswith(f"{names.MOUNT_ROOT}/")]
    if not taken:
        return None
    return Skip(
        SkipReason.NAME_TAKEN, f"the pod already has {', '.join(sorted(taken))}: rename, Spillway adds these itself"
    )


def check_no_container_mounts_ours(pod: Pod, pool: KVCachePool, facts: Facts) -> Skip | None:
    """A container mounts a volume that only injection would bring: it would see the cache of the whole pool.

    The API server validates after us, so that a name that nothing declares is no error to it once we have declared it.
    """
    for container in all_containers(pod):
        for kind in ("volumeMounts", "volumeDevices"):
            for mount in container.get(kind) or []:
                if mount["name"].startswith(names.VOLUME_PREFIX):
                    return Skip(
                        SkipReason.VOLUME_NOT_GIVEN,
                        f"container {container['name']!r} has {mount['name']!r} in its {kind}, and volumes of names that "
                        f"begin with {names.VOLUME_PREFIX} are Spillway's own: remove it there",
                    )
    return None


def check_pod_level_resources(pod: Pod, pool: KVCachePool, facts: Facts) -> Skip | None:
    """The pod's total is fixed in advance."""
    if not pod["spec"].get("resources"):
        return None
    return Skip(SkipReason.POD_LEVEL_RESOURCES, "spec.resources fixes the pod's total: state resources per container")


def check_namespace_admits_volume(pod: Pod, pool: KVCachePool, facts: Facts) -> Skip | None:
    """A hostPath volume in a namespace whose Pod Security level refuses it; an unknown level counts as restricted."""
    nvme = pool.spec.tiers.nvme
    level = namespace_level(facts.namespace_labels)
    if nvme is None or nvme.volume.type != "HostPath" or level == "privileged":
        return None
    return Skip(
        SkipReason.NAMESPACE_FORBIDS_VOLUME,
        f"the namespace enforces Pod Security level {level!r}, which refuses hostPath: use volume type Ephemeral or EmptyDir",
    )


def check_qos_kept(pod: Pod, plan: Plan, facts: Facts) -> Skip | None:
    """A Guaranteed pod would become Burstable and lose its exclusive CPUs."""
    request, limit = plan.sizing.cpu_request_millicores, plan.sizing.cpu_limit_millicores
    if not plan.guaranteed or request == limit:
        return None
    return Skip(
        SkipReason.WOULD_CHANGE_QOS,
        f"the pod is Guaranteed and the pool gives its sidecar {request}m CPU with a limit of {limit}m: make them equal or "
        "remove spec.sidecar.resources.limits.cpu",
    )


def check_sidecars_start(pod: Pod, plan: Plan, facts: Facts) -> Skip | None:
    """Sidecars of this revision kept pods from starting, and no trial has succeeded since."""
    injection = plan.pool.status.injection
    if injection is None or injection.state != "Open" or injection.revision != plan.config.revision:
        return None
    return sidecar_unavailable(injection)


def sidecar_unavailable(injection: InjectionStatus) -> Skip:
    """The skip of a pod that meets a breaker which is not closed."""
    return Skip(SkipReason.SIDECAR_UNAVAILABLE, f"sidecars of the pool keep pods from starting ({injection.message})")


def check_limit_ranges(pod: Pod, plan: Plan, facts: Facts) -> Skip | None:
    """A LimitRange would refuse the pod because of us."""
    violation = find_violation(pod, plan, facts.limit_ranges)
    return Skip(SkipReason.LIMIT_RANGE, f"{violation}: shrink the pool or widen the LimitRange") if violation else None


POD_CHECKS: tuple[PodCheck, ...] = (
    check_pool_stays,
    check_pool_allowed,
    check_user_free,
    check_pool_valid,
    check_host_ipc,
    check_linux,
    check_names_free,
    check_no_container_mounts_ours,
    check_pod_level_resources,
    check_namespace_admits_volume,
)
PLAN_CHECKS: tuple[PlanCheck, ...] = (check_sidecars_start, check_qos_kept, check_limit_ranges)
