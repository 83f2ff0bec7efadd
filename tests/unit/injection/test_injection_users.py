"""Under which user the containers run that injection adds."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

from golden_cases import load_case
from spillway_operator.api import Fault, Reason, SkipReason, names, pool_user
from spillway_operator.injection import inject

OURS = (names.CLIENT_CONTAINER, names.SIDECAR_CONTAINER)


def users_of(pod: dict[str, Any]) -> set[int]:
    ours = [container for container in pod["spec"]["initContainers"] if container["name"] in OURS]
    return {container["securityContext"]["runAsUser"] for container in ours}


def test_pool_that_names_no_user_gets_one_of_its_own() -> None:
    case = load_case("hostpath")
    assert case.facts.pool is not None
    user = pool_user(case.facts.pool)
    assert user >= names.FIRST_DERIVED_USER
    pod = case.run().pod
    assert users_of(pod) == {user}
    (disk,) = [one for one in pod["spec"]["initContainers"] if one["name"] == names.DISK_CONTAINER]
    assert disk["command"][-3:-1] == [str(user), str(names.SIDECAR_UID)]
    metadata = case.facts.pool.metadata.model_copy(update={"uid": "another"})
    other = replace(case.facts, pool=case.facts.pool.model_copy(update={"metadata": metadata}))
    assert users_of(inject(case.pod, other).pod).isdisjoint({user})


def test_user_that_a_pods_own_user_namespace_lacks_is_none_of_its_containers() -> None:
    """The kubelet maps 65536 ids there, and a sidecar that cannot start would keep the engine from starting."""
    case = load_case("burstable")
    pod = copy.deepcopy(case.pod)
    pod["spec"]["hostUsers"] = False
    assert users_of(inject(pod, case.facts).pod) == {names.SIDECAR_UID}
    named = load_case("pinned-image-and-user")
    pod = copy.deepcopy(named.pod)
    pod["spec"]["hostUsers"] = False
    assert users_of(inject(pod, named.facts).pod) == {1000}


def test_pod_of_a_pool_whose_user_is_anothers_starts_plain() -> None:
    case = load_case("burstable")
    taken = replace(case.facts, user_fault=Fault(Reason.RUN_AS_USER_TAKEN, "another pool uses user id 1000"))
    outcome = inject(case.pod, taken)
    assert outcome.skip is not None
    assert (outcome.skip.reason, outcome.skip.message) == (SkipReason.POOL_INVALID, "another pool uses user id 1000")
    assert outcome.pod["spec"] == case.pod["spec"]
