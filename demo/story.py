"""What happens to the engine, and the same conversations after each of it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import yaml

from demo import chat
from demo.conversations import conversations, warm_up
from demo.report import Phase, Report
from dev.cluster.progress import say, step
from tests.e2e.kit.engine import Engine, total
from tests.e2e.kit.kube import Kube
from tests.e2e.kit.waiting import wait_for

NAMESPACE: Final = "quickstart"
_EXAMPLE: Final = Path(__file__).resolve().parent.parent / "examples" / "quickstart.yaml"
_DURABLE_SECONDS: Final = 120


class Story:
    """The quickstart example on a cluster where Spillway is installed. `image_of` maps an image's name to the cluster's."""

    def __init__(self, kube: Kube, images: dict[str, str]) -> None:
        self._kube = kube
        self._images = images
        self._engine = Engine(kube, NAMESPACE)
        # Read once: they quote the documents of this tree, which may change while the demo runs.
        self._conversations = conversations()

    def tell(self) -> Report:
        """Apply the example and hold the conversations cold, after an engine restart and after the pod's deletion."""
        self._apply_example()
        with step("waiting for the engine (it loads its model; a minute or two)"):
            self._engine.wait_ready()
        cold = self._hold("cold")
        with step("restarting the engine's container; the sidecar stays"):
            self._engine.restart_engine()
        restarted = self._hold("restarted, from DRAM")
        with step("waiting until all chunks lie on NVMe"):
            self._wait_durable()
        with step("deleting the pod; its successor adopts the folder on the node"):
            self._engine.delete_pod()
        replaced = self._hold("in a new pod, from NVMe")
        return Report(cold, restarted, replaced)

    def _apply_example(self) -> None:
        text = _EXAMPLE.read_text()
        for name, reference in self._images.items():
            text = text.replace(f"image: {name}", f"image: {reference}")
        with step(f"kubectl apply -f examples/{_EXAMPLE.name}"):
            self._kube.apply(*[document for document in yaml.safe_load_all(text) if document])

    def _hold(self, name: str) -> Phase:
        url = self._engine.service_url()
        chat.hold(url, warm_up())
        before = self._engine.external_tokens()
        held = []
        with step(f"talking to the engine ({name})"):
            for conversation in self._conversations:
                held.append(chat.hold(url, conversation))
                first = held[-1][0]
                say(
                    f"  {conversation.name}: {first.prompt_tokens} tokens, first token after {first.ttft_seconds:.2f} s"
                )
        return Phase(name, held, int(self._engine.external_tokens() - before))

    def _wait_durable(self) -> None:
        def durable() -> bool:
            samples = self._engine.sidecar_metrics()
            in_dram = total(samples, "spillway_tier_chunks", "tier=dram")
            on_nvme = total(samples, "spillway_tier_chunks", "tier=nvme")
            if not 0 < in_dram <= on_nvme:
                raise AssertionError(f"{on_nvme:.0f} chunks on NVMe, {in_dram:.0f} in DRAM")
            return True

        wait_for("NVMe to hold what DRAM holds", durable, _DURABLE_SECONDS)
