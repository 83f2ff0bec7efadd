"""kopf's decorators: what is watched and where it goes. No logic here.

Only `on.event`: it reads. kopf writes no annotation, no finalizer and no Event on any object.
"""

from __future__ import annotations

from typing import Any

import kopf

from spillway_operator.api.names import GROUP, PLURAL, POOL_LABEL, VERSION
from spillway_operator.controller.controller import Controller

registry = kopf.OperatorRegistry()


@kopf.on.startup(registry=registry)
async def configure(settings: kopf.OperatorSettings, **_: Any) -> None:
    """Nothing but watches; pods and ConfigMaps filtered by the API server."""
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.peering.standalone = True
    settings.watching.server_timeout = 300
    settings.watching.client_timeout = 330
    settings.watching.label_selectors["", "v1", "pods"] = POOL_LABEL
    settings.watching.label_selectors["", "v1", "configmaps"] = POOL_LABEL


@kopf.on.login(registry=registry)
async def log_in(**kwargs: Any) -> kopf.ConnectionInfo | None:
    """By service account in a pod, by kubeconfig elsewhere."""
    return kopf.login_with_service_account(**kwargs) or kopf.login_with_kubeconfig(**kwargs)


@kopf.on.event(GROUP, VERSION, PLURAL, registry=registry)
async def see_pool(event: kopf.RawEvent, memo: Controller, **_: Any) -> None:
    """A pool was listed, changed or deleted."""
    memo.see_pool(event)


@kopf.on.event("", "v1", "pods", labels={POOL_LABEL: kopf.PRESENT}, registry=registry)
async def see_pod(event: kopf.RawEvent, memo: Controller, **_: Any) -> None:
    """A pod with the pool label was listed, changed or deleted."""
    memo.see_pod(event)


@kopf.on.event("", "v1", "configmaps", labels={POOL_LABEL: kopf.PRESENT}, registry=registry)
async def see_config_map(event: kopf.RawEvent, memo: Controller, **_: Any) -> None:
    """A pool's ConfigMap was listed, changed or deleted."""
    memo.see_config_map(event)
