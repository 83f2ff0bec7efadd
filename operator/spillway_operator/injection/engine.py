"""Find the inference engine among a pod's containers, by what is visible at admission."""

from __future__ import annotations

import re
from collections.abc import Sequence

from spillway_operator.api import SkipReason, image_repository
from spillway_operator.injection.facts import Container, Pod, Skip

# `vllm serve` as words of an argument list or inside a shell string, with or without a folder before it.
_SERVE = re.compile(r"""(?:^|[\s/"'`;&|(=])vllm\s+serve\b""")
_MODULE = re.compile(r"\bvllm\.entrypoints\b")


def looks_like_engine(container: Container) -> bool:
    """Whether image, command or args say that vLLM runs here."""
    words = " ".join(str(word) for word in [*(container.get("command") or []), *(container.get("args") or [])])
    return "vllm" in _image_path(container.get("image") or "") or bool(_SERVE.search(words) or _MODULE.search(words))


def find_engine(pod: Pod, wanted: str | None) -> int | Skip:
    """Index of the engine in spec.containers, or why it cannot be told. `wanted` is spec.engine.container of the pool."""
    containers = pod["spec"]["containers"]
    if wanted is not None:
        return _named(containers, wanted)
    found = [index for index, container in enumerate(containers) if looks_like_engine(container)]
    if len(found) == 1:
        return found[0]
    if found:
        return Skip(
            SkipReason.SEVERAL_ENGINES,
            f"containers {_names([containers[index] for index in found])} all look like vLLM: "
            "name the engine in the pool's spec.engine.container",
        )
    return Skip(
        SkipReason.ENGINE_NOT_RECOGNISED,
        f"none of the containers {_names(containers)} looks like vLLM by image, command or args: "
        "name the engine in the pool's spec.engine.container",
    )


def _named(containers: Sequence[Container], wanted: str) -> int | Skip:
    for index, container in enumerate(containers):
        if container["name"] == wanted:
            return index
    return Skip(
        SkipReason.ENGINE_NOT_RECOGNISED,
        f"the pool's spec.engine.container is {wanted!r}, and the pod has {_names(containers)}: correct the name",
    )


def _names(containers: Sequence[Container]) -> str:
    return ", ".join(repr(container["name"]) for container in containers)


def _image_path(image: str) -> str:
    """The repository in lower case without the registry's host, which says nothing about what runs."""
    repository = image_repository(image).lower()
    host, slash, path = repository.partition("/")
    is_host = bool(slash) and ("." in host or ":" in host or host == "localhost")
    return path if is_host else repository
