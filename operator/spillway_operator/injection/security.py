"""The security contexts of what is injected: Pod Security level restricted, whatever the pool says, but for one container.

That one exists only where a volume must change hands (disk_owner.py) and never in a namespace that enforces `restricted`.
"""

from __future__ import annotations

from typing import Any

from spillway_operator.injection.plan import Plan


def build_security_context(plan: Plan) -> dict[str, Any]:
    """A container security context with the pool's SELinux label, and its user and group unless the cluster assigns them."""
    chosen = plan.pool.spec.sidecar.security_context
    context: dict[str, Any] = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "privileged": False,
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        # A group without a user is an error to the container runtime.
        **({} if plan.user is None else {"runAsUser": plan.user, "runAsGroup": chosen.run_as_group}),
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    if chosen.se_linux_options is not None:
        context["seLinuxOptions"] = chosen.se_linux_options.model_dump(by_alias=True, exclude_none=True)
    return context


def build_disk_security_context(plan: Plan) -> dict[str, Any]:
    """That of spillway-disk: root, with the right to change owners and no other."""
    return {
        **build_security_context(plan),
        "capabilities": {"drop": ["ALL"], "add": ["CHOWN"]},
        "runAsNonRoot": False,
        "runAsUser": 0,
        "runAsGroup": 0,
    }
