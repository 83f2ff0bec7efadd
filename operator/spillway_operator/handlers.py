"""kopf's decorators. No logic here.

kopf starts and ends the operator and tells its own parts apart from ours; it watches nothing (docs/adr/0004), and writes no annotation, no
finalizer and no Event on any object.
"""

from __future__ import annotations

from typing import Any

import kopf

registry = kopf.OperatorRegistry()


@kopf.on.startup(registry=registry)
async def configure(settings: kopf.OperatorSettings, **_: Any) -> None:
    """No peers, no Events, and no look at which kinds and namespaces there are."""
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.peering.standalone = True


@kopf.on.login(registry=registry)
async def log_in(**kwargs: Any) -> kopf.ConnectionInfo | None:
    """By service account in a pod, by kubeconfig elsewhere."""
    return kopf.login_with_service_account(**kwargs) or kopf.login_with_kubeconfig(**kwargs)
