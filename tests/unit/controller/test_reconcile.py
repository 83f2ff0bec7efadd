"""What a reconcile records of a living pool."""

from __future__ import annotations

import pytest
from rig import Rig


@pytest.mark.parametrize("phase", ["Pending", "Running", "Succeeded", "Failed"])
async def test_the_node_of_every_pod_seen_is_recorded(phase: str) -> None:
    """Also of one that ended while no operator ran: what it stored is still on the node's disk."""
    rig = Rig(nodes=("node-1",))
    rig.see_pod("chat-0", node="node-2", phase=phase)
    await rig.reconcile()
    assert rig.recorded_nodes == ("node-1", "node-2")


async def test_an_ended_pod_is_recorded_and_not_counted() -> None:
    rig = Rig()
    rig.see_pod("chat-0", phase="Succeeded")
    await rig.reconcile()
    assert rig.status.pods is not None
    assert (rig.status.pods.labelled, rig.status.pods.injected) == (0, 0)
