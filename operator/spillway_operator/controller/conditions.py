"""From facts to the six conditions of a pool. Pure; each function decides one condition."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Literal

from spillway_operator.api import Condition, InjectionStatus, Reason
from spillway_operator.api.status import ConditionStatus, ConditionType
from spillway_operator.controller.facts import MemberState, PoolFacts, Severity, summarise

Verdict = tuple[ConditionStatus, str, str]

STORAGE_TOPIC: Literal["StorageProvisioned"] = "StorageProvisioned"


def decide_conditions(facts: PoolFacts, members: Sequence[MemberState]) -> dict[ConditionType, Verdict]:
    """Status, reason and message of every condition of a pool that is not being deleted."""
    return {
        "Ready": decide_ready(facts, members),
        "Progressing": decide_progressing(facts, members),
        "Degraded": decide_degraded(facts, members),
        "ConfigValid": decide_config_valid(facts),
        "StorageProvisioned": decide_storage_provisioned(facts),
        "InjectionReady": decide_injection_ready(facts),
    }


def decide_config_valid(facts: PoolFacts) -> Verdict:
    if facts.fault is not None:
        return "False", facts.fault.reason, facts.fault.message
    return "True", Reason.VALID, "the specification can be used"


def decide_injection_ready(facts: PoolFacts) -> Verdict:
    if facts.fault is not None:
        return "False", facts.fault.reason, "new pods start without a sidecar until ConfigValid is True"
    if facts.webhook_problem:
        return "False", Reason.WEBHOOK_NOT_SERVING, f"new pods start without a sidecar: {facts.webhook_problem}"
    if facts.injection is not None and facts.injection.state != "Closed":
        return "False", Reason.SIDECARS_CANNOT_START, _breaker_words(facts.injection)
    return "True", Reason.WEBHOOK_SERVING, "new pods with the pool's label get a sidecar"


def _breaker_words(injection: InjectionStatus) -> str:
    begin = "new pods start without a sidecar" if injection.state == "Open" else "one new pod is tried with a sidecar"
    return f"{begin}, which kept others from starting ({injection.message})"


def decide_storage_provisioned(facts: PoolFacts) -> Verdict:
    if not facts.wants_nvme:
        return "True", Reason.DRAM_ONLY, "the pool asks for no NVMe tier"
    said = [
        (condition.is_fault, MemberState(pod, Severity.FAULT, condition.reason, condition.message))
        for pod, observation in facts.observations if observation is not None
        for condition in observation.report.conditions if condition.type == STORAGE_TOPIC
    ]  # fmt: skip
    failed = [state for is_fault, state in said if is_fault]
    if failed:
        return "False", failed[0].reason, summarise(failed, len(facts.injected))
    reported = [pod for pod, observation in facts.observations if observation is not None]
    if not facts.injected:
        return "Unknown", Reason.NO_PODS, "no pod has asked for its volume yet"
    if not reported:
        return "Unknown", Reason.SIDECARS_UNREACHABLE, "no sidecar has reported yet"
    if said:
        news = [state for _, state in said]
        return "True", news[0].reason, summarise(news, len(facts.injected))
    return (
        "True",
        Reason.PROVISIONED,
        f"{len(reported)} of {len(facts.injected)} sidecars report no fault of their NVMe",
    )


def decide_degraded(facts: PoolFacts, members: Sequence[MemberState]) -> Verdict:
    faults = [m for m in members if m.severity is Severity.FAULT]
    if not faults and facts.config_map_problem:
        return "True", Reason.CONFIG_MAP_TAKEN, facts.config_map_problem
    if not faults:
        return "False", Reason.NO_FAULTS, "no pod reports a fault"
    skipped = {pod.uid for pod in facts.skipped}
    if faults[0].pod.uid in skipped:
        return "True", Reason.PODS_SKIPPED, summarise(faults, len(facts.pods))
    return "True", faults[0].reason, summarise(faults, len(facts.pods))


def decide_progressing(facts: PoolFacts, members: Sequence[MemberState]) -> Verdict:
    starting = [m for m in members if m.severity is Severity.STARTING]
    if starting:
        return "True", Reason.PODS_NOT_READY, f"{len(starting)} of {len(facts.injected)} injected pods are starting"
    outdated = [m for m in members if m.reason == Reason.OUTDATED]
    if outdated:
        message = f"{len(outdated)} of {len(facts.injected)} pods run an earlier revision and change when re-created"
        return "False", Reason.PODS_OUTDATED, message
    return "False", Reason.RECONCILED, "nothing is under way"


def decide_ready(facts: PoolFacts, members: Sequence[MemberState]) -> Verdict:
    for status, reason, message in (decide_config_valid(facts), decide_injection_ready(facts)):
        if status == "False":
            return "False", reason, message
    injected = facts.injected
    ready = [pod for pod in injected if pod.ready]
    if not injected:
        return "True", Reason.NO_PODS, "the pool can take pods; none has joined"
    if len(ready) < len(injected):
        return "False", Reason.PODS_NOT_READY, f"{len(ready)} of {len(injected)} injected pods are ready"
    return "True", Reason.ALL_PODS_READY, f"{len(ready)} of {len(injected)} injected pods are ready"


def stamp_conditions(
    verdicts: dict[ConditionType, Verdict], previous: Iterable[Condition], generation: int, now: datetime
) -> tuple[Condition, ...]:
    """Turn verdicts into conditions; lastTransitionTime moves only where status changed."""
    known = {condition.type: condition for condition in previous}
    stamped = []
    for kind, (status, reason, message) in verdicts.items():
        before = known.get(kind)
        unchanged = before is not None and before.status == status
        stamped.append(Condition(
            type=kind, status=status, reason=reason_word(reason), message=message[:2000],
            observed_generation=generation,
            last_transition_time=before.last_transition_time if before is not None and unchanged else now,
        ))  # fmt: skip
    return tuple(stamped)


def reason_word(reason: str) -> str:
    """A reason in the form that the API demands, also where a sidecar or the kubelet chose it."""
    word = re.sub(r"[^A-Za-z0-9]", "", "".join(part[:1].upper() + part[1:] for part in re.split(r"[-_ ]", reason)))
    return (word if word[:1].isalpha() else f"R{word}")[:64]
