"""One vLLM pod behind its Service: its answers, its own counters, its sidecar's counters, and ways to end parts of it."""

from __future__ import annotations

import json
import random
import time
from dataclasses import dataclass
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.kit.kube import Kube
from tests.e2e.kit.manifests import Manifest
from tests.e2e.kit.waiting import wait_for

ENGINE_START_SECONDS = 420
VOCABULARY = range(10, 1000)


def make_prompts(count: int, tokens: int, seed: int) -> list[list[int]]:
    """`count` unrelated prompts of `tokens` token ids each."""
    source = random.Random(seed)
    return [[source.choice(VOCABULARY) for _ in range(tokens)] for _ in range(count)]


@dataclass(frozen=True)
class Answer:
    """What the engine said: token ids and each one's log probability."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]

    def same_as(self, other: Answer, tolerance: float = 1e-4) -> bool:
        """Equal tokens, log probabilities equal within `tolerance`."""
        return self.tokens == other.tokens and all(
            abs(mine - theirs) <= tolerance for mine, theirs in zip(self.logprobs, other.logprobs, strict=True)
        )


def scrape(url: str) -> dict[str, float]:
    """A Prometheus page as {"name{label=value,...}": value}, labels sorted."""
    text = httpx.get(url, timeout=10, trust_env=False).raise_for_status().text
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def total(samples: dict[str, float], name: str, *parts: str) -> float:
    """Sum of the samples of one metric whose labels contain every part, as `source=external_kv_transfer`."""
    return sum(
        value
        for key, value in samples.items()
        if (key == name or key.startswith(name + "{")) and all(part in key for part in parts)
    )


class Engine:
    """The one pod of a Deployment, followed through its lives."""

    def __init__(self, kube: Kube, namespace: str, name: str = "vllm") -> None:
        self.kube, self.namespace, self.name = kube, namespace, name

    def pods(self) -> list[Manifest]:
        found = self.kube.items("v1", "Pod", self.namespace, label_selector=f"app={self.name}")
        return [pod for pod in found if not pod["metadata"].get("deletionTimestamp")]

    def pod(self) -> Manifest:
        """The living pod, ready or not."""
        pods = self.pods()
        assert len(pods) == 1, f"expected one pod of {self.name}, there are {[p['metadata']['name'] for p in pods]}"
        return pods[0]

    def wait_ready(self, seconds: float = ENGINE_START_SECONDS) -> Manifest:
        """Wait until the pod is Ready and its engine answers through the Service."""

        def ready() -> Manifest | None:
            pod = self.pod()
            conditions = {c["type"]: c["status"] for c in pod.get("status", {}).get("conditions", [])}
            if conditions.get("Ready") != "True":
                raise AssertionError(self.kube.describe(pod))
            httpx.get(f"{self.service_url()}/health", timeout=5, trust_env=False).raise_for_status()
            return pod

        try:
            return wait_for(f"{self.namespace}/{self.name} to be Ready and to answer", ready, seconds, every=0.5)
        except AssertionError as error:
            tail = self.kube.logs(self.namespace, self.pods()[0]["metadata"]["name"], "server") if self.pods() else ""
            raise AssertionError(f"{error}\nengine's log:\n{tail}") from None

    def service_url(self) -> str:
        service = self.kube.get("v1", "Service", self.name, self.namespace)
        assert service is not None
        return f"http://{service['spec']['clusterIP']}"

    def ask(self, prompt: list[int], max_tokens: int = 16) -> Answer:
        """Greedy completion of a prompt of token ids, on a connection of its own."""
        body = {
            "model": "model",
            "prompt": prompt,
            "max_tokens": max_tokens,
            "temperature": 0,
            "logprobs": 1,
            "ignore_eos": True,
            "return_token_ids": True,
        }
        answer = httpx.post(f"{self.service_url()}/v1/completions", json=body, timeout=300, trust_env=False)
        choice = answer.raise_for_status().json()["choices"][0]
        return Answer(tuple(choice["token_ids"]), tuple(choice["logprobs"]["token_logprobs"]))

    def ask_all(self, prompts: list[list[int]], max_tokens: int = 16) -> list[Answer]:
        return [self.ask(prompt, max_tokens) for prompt in prompts]

    def time_to_first_token(self, prompt: list[int]) -> float:
        """Seconds from sending the prompt to the first token of a streamed answer."""
        body = {"model": "model", "prompt": prompt, "max_tokens": 1, "temperature": 0, "stream": True}
        started = time.monotonic()
        with httpx.stream(
            "POST", f"{self.service_url()}/v1/completions", json=body, timeout=600, trust_env=False
        ) as response:
            response.raise_for_status()
            for line in response.iter_lines():
                if line.startswith("data: ") and line != "data: [DONE]" and json.loads(line[6:])["choices"]:
                    return time.monotonic() - started
        raise AssertionError("the stream ended without a token")

    def pod_ip(self) -> str:
        """Raises AssertionError with what keeps the pod where it has no address yet."""
        pod = self.pod()
        address = pod.get("status", {}).get("podIP")
        if not address:
            raise AssertionError(self.kube.describe(pod))
        return str(address)

    def engine_metrics(self) -> dict[str, float]:
        return scrape(f"http://{self.pod_ip()}:8000/metrics")

    def sidecar_metrics(self) -> dict[str, float]:
        return scrape(f"http://{self.pod_ip()}:9464/metrics")

    def external_tokens(self) -> float:
        """Prompt tokens that vLLM itself counts as come from outside, in this life of the engine."""
        return total(self.engine_metrics(), "vllm:prompt_tokens_by_source_total", "source=external_kv_transfer")

    def restarts(self, container: str = "server") -> int:
        status = self.pod()["status"]
        every = [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]
        return next(int(c["restartCount"]) for c in every if c["name"] == container)

    def run(self, container: str, *command: str) -> str:
        return self.kube.run(self.namespace, self.pod()["metadata"]["name"], container, *command)

    def restart_engine(self) -> None:
        """End the engine's container; the kubelet starts it again in the same pod."""
        before = self.restarts()
        self.run("server", "python3", "-c", "import os, signal; os.kill(1, signal.SIGTERM)")
        wait_for("the engine's container to be restarted", lambda: self.restarts() > before, 120)
        self.wait_ready()

    def delete_pod(self) -> None:
        """Delete the pod and wait for its successor to be Ready."""
        old = self.pod()["metadata"]
        self.kube.delete("v1", "Pod", old["name"], self.namespace)
        wait_for(
            "another pod to take its place",
            lambda: all(p["metadata"]["uid"] != old["uid"] for p in self.pods()) and len(self.pods()) == 1,
            120,
        )
        self.wait_ready()

    def kill_daemon(self, signal_name: str = "SIGKILL") -> None:
        """A signal for the sidecar's daemon, not its supervisor."""
        script = (
            "import os, signal\n"
            "for entry in os.listdir('/proc'):\n"
            "    if entry.isdigit() and int(entry) not in (1, os.getpid()):\n"
            "        line = open(f'/proc/{entry}/cmdline').read()\n"
            f"        if 'spillway.daemon' in line: os.kill(int(entry), signal.{signal_name}); print('killed', entry)\n"
        )
        printed = self.run("spillway", "python3", "-c", script)
        assert "killed" in printed, f"no daemon to kill in {self.namespace}/{self.name}: {printed!r}"

    def wait_durable(self, chunks: int, seconds: float = 60) -> dict[str, float]:
        """Wait until at least `chunks` chunks lie on NVMe; returns the sidecar's metrics then."""

        def durable() -> dict[str, float] | None:
            samples = self.sidecar_metrics()
            found = total(samples, "spillway_tier_chunks", "tier=nvme")
            if found < chunks:
                raise AssertionError(f"{found:.0f} chunks on NVMe")
            return samples

        return wait_for(f"{chunks} chunks to lie on NVMe", durable, seconds)


def annotation(pod: Manifest, name: str) -> Any:
    """A JSON or plain annotation of a pod, None where absent."""
    text = (pod["metadata"].get("annotations") or {}).get(name)
    try:
        return None if text is None else json.loads(text)
    except json.JSONDecodeError:
        return text
