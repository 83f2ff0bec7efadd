"""Stable reasons: what annotation, event, condition and metric say. Renaming one breaks somebody's alert."""

from __future__ import annotations

from enum import StrEnum
from typing import Self


class SkipReason(StrEnum):
    """Why a labelled pod was started without a sidecar; value of the annotation spillway.dev/skipped."""

    meaning: str

    def __new__(cls, value: str, meaning: str) -> Self:
        """A word for machines and one sentence for people, which Events and conditions carry beside it."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member

    POOL_NOT_FOUND = "pool-not-found", "no KVCachePool of the name in the label exists in the pod's namespace"
    POOL_INVALID = "pool-invalid", "the pool exists but cannot be used; its condition ConfigValid says why"
    ENGINE_NOT_RECOGNISED = (
        "engine-not-recognised",
        "no container looks like vLLM, or the one named by spec.engine.container does not exist",
    )
    SEVERAL_ENGINES = (
        "several-engines",
        "more than one container looks like vLLM and spec.engine.container does not choose",
    )
    HOST_IPC = "host-ipc", "the pod shares the node's IPC namespace"
    UNSUPPORTED_OS = "unsupported-os", "the pod asks for another operating system than Linux"
    NAMESPACE_FORBIDS_VOLUME = (
        "namespace-forbids-volume",
        "the namespace enforces a Pod Security level that refuses the volume the pool asks for",
    )
    POD_LEVEL_RESOURCES = (
        "pod-level-resources",
        "the pod has spec.resources; another container's requests could make it inadmissible",
    )
    LIMIT_RANGE = (
        "limit-range",
        "a LimitRange of the namespace would refuse the pod with the sidecar's requests and limits",
    )
    WOULD_CHANGE_QOS = "would-change-qos", "the pod is Guaranteed and the pool's resources would make it Burstable"
    VOLUME_NOT_GIVEN = (
        "volume-not-given",
        "a container mounts a volume of a name that begins with spillway-, which only Spillway's own containers and the "
        "engine are given",
    )
    SIDECAR_UNAVAILABLE = (
        "sidecar-unavailable",
        "sidecars of the pool keep pods from starting, so new pods start without one until a trial succeeds; the pool's "
        "condition InjectionReady says what is wrong",
    )
    NAME_TAKEN = "name-taken", "the pod already has a container, volume or mount path of a name that Spillway needs"
    NOT_ADMISSIBLE = (
        "not-admissible",
        "the API server would refuse the pod with the sidecar and takes it without; the annotation "
        "spillway.dev/skipped-message has its words",
    )
    INJECTION_FAILED = (
        "injection-failed",
        "the webhook met an error of its own; its log and the counter spillway_webhook_errors say which",
    )

    @classmethod
    def explain(cls, word: str) -> str:
        """The meaning of an annotation's value, empty for one that another version wrote."""
        return next((reason.meaning for reason in cls if reason == word), "")


class Reason(StrEnum):
    """Reasons of conditions and events of a KVCachePool."""

    RECONCILED = "Reconciled"
    """All that the pool asks for has been applied."""
    VALID = "Valid"
    """The specification can be used."""
    SPEC_UNREADABLE = "SpecUnreadable"
    """The stored specification does not fit the models of this operator: CRD and operator differ in version."""
    IMAGE_NOT_ALLOWED = "ImageNotAllowed"
    """spec.sidecar.image is in no repository that the administrator allowed."""
    HOST_PATH_NOT_ALLOWED = "HostPathNotAllowed"
    """spec.tiers.nvme.volume.hostPath.path is no path that the administrator allowed."""
    RUN_AS_USER_TAKEN = "RunAsUserTaken"
    """spec.sidecar.securityContext.runAsUser is the user id of a pool that was made before."""
    STORAGE_CLASS_NOT_FOUND = "StorageClassNotFound"
    """spec.tiers.nvme.volume.ephemeral.storageClassName does not exist."""
    CONFIG_MAP_TAKEN = "ConfigMapTaken"
    """A ConfigMap of the name that the pool's live overrides need is not the pool's; it is left alone."""
    NO_PODS = "NoPods"
    """No pod carries the pool's label."""
    ALL_PODS_READY = "AllPodsReady"
    """Every injected pod is ready."""
    PODS_NOT_READY = "PodsNotReady"
    """Some injected pods are not ready yet."""
    PODS_SKIPPED = "PodsSkipped"
    """Some labelled pods started without a sidecar; the annotation spillway.dev/skipped says why."""
    PODS_OUTDATED = "PodsOutdated"
    """Some pods run an earlier revision of the sidecar; they change when they are re-created."""
    SIDECARS_UNREACHABLE = "SidecarsUnreachable"
    """No sidecar's status could be read lately."""
    ENGINE_NEVER_ATTACHED = "EngineNeverAttached"
    """A pod has been ready for 10 minutes and its engine has not attached to the sidecar."""
    DISK_IN_USE = "DiskInUse"
    """The pool is being deleted; pods that were injected for it have not ended and may write to their nodes' disks."""
    DISK_CLEANUP_RUNNING = "DiskCleanupRunning"
    """The pool is being deleted; its folders on the nodes' disks are being removed."""
    DISK_ORPHANS = "DiskOrphans"
    """A node's folder could not be removed; the message names node and path."""
    DISK_FOLDER_ABSENT = "DiskFolderAbsent"
    """A node that pods of the deleted pool ran on has no folder of it: never made, removed, or its disk not mounted."""
    UNINSTALLED = "Uninstalled"
    """Spillway was uninstalled and the pool's data stays on disks of nodes; the message names folder and nodes."""
    WEBHOOK_SERVING = "WebhookServing"
    """The API server trusts the webhook and a replica is ready."""
    WEBHOOK_NOT_SERVING = "WebhookNotServing"
    """New pods start without a sidecar, because the webhook cannot be called; running pods are not touched."""
    SIDECARS_CANNOT_START = "SidecarsCannotStart"
    """Sidecars kept pods from starting, so new pods start without; status.injection says which pod and why."""
    VOLUME_NOT_PROVISIONED = "VolumeNotProvisioned"
    """An injected pod waits for the NVMe volume that its pool asks for."""
    VOLUME_NOT_ATTACHED = "VolumeNotAttached"
    """An injected pod waits on its node for a volume that Spillway added."""
    DOES_NOT_FIT = "DoesNotFit"
    """On some node an injected pod lacks nothing but what its sidecar asks for as well: memory, CPU, ephemeral storage."""
    PROVISIONED = "Provisioned"
    """Every sidecar that reports has its NVMe volume."""
    DRAM_ONLY = "DramOnly"
    """The pool asks for no NVMe tier."""
    NO_FAULTS = "NoFaults"
    """No sidecar reports a fault."""
    SIDECAR_UNREACHABLE = "SidecarUnreachable"
    """A running sidecar has not answered for a minute; its figures are as old as observedAt says."""
    NOT_READY = "NotReady"
    """An injected pod is not ready yet."""
    OUTDATED = "Outdated"
    """A pod runs an earlier revision of the sidecar than a new pod would get."""
    NOT_INJECTED = "NotInjected"
    """A labelled pod has neither sidecar nor skip reason: the webhook was not called when the pod was created."""
