"""Whether a comparison of answers would notice wrong chunks at all: else equal answers prove nothing."""

from __future__ import annotations

from collections.abc import Sequence

from tests.e2e.kit.engine import Answer, Engine
from tests.e2e.kit.kube import Kube


def assert_swapped_chunks_are_noticed(
    kube: Kube, engine: Engine, prompts: Sequence[list[int]], cold: Sequence[Answer], swapping_image: str
) -> None:
    """Serve the prompts from NVMe by a sidecar that gives each verified chunk the payload of the one verified before it.

    Every prompt but the first then meets a chunk of the prompt before it. The first is only served its own chunks in
    another order, which attention cannot see: positions are rotated into the keys.
    """
    pool = {"spec": {"sidecar": {"image": swapping_image}}}
    kube.patch("spillway.dev/v1alpha1", "KVCachePool", "chat", engine.namespace, pool)
    engine.delete_pod()
    images = {c["name"]: c["image"] for c in engine.pod()["spec"]["initContainers"]}
    assert images["spillway"] == swapping_image
    for number, (prompt, expected) in enumerate(zip(prompts, cold, strict=True)):
        before = engine.external_tokens()
        answer = engine.ask(prompt)
        assert engine.external_tokens() > before, f"prompt {number} was not served from outside: it proves nothing"
        if number > 0:
            assert not answer.same_as(expected), f"prompt {number} is void: its answer stays with a foreign chunk in it"
