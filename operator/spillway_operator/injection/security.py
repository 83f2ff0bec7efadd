"""The security context of what is injected: Pod Security level restricted, whatever the pool says."""

from __future__ import annotations

from typing import Any

from spillway_operator.api import SidecarSpec


def build_security_context(sidecar: SidecarSpec) -> dict[str, Any]:
    """A container security context with the pool's user, group and SELinux label."""
    chosen = sidecar.security_context
    context: dict[str, Any] = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "privileged": False,
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "runAsUser": chosen.run_as_user,
        "runAsGroup": chosen.run_as_group,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    if chosen.se_linux_options is not None:
        context["seLinuxOptions"] = chosen.se_linux_options.model_dump(by_alias=True, exclude_none=True)
    return context
