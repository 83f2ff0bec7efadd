"""The two images that the embedded node itself needs: the pause process of every pod, and CoreDNS."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from dev.cluster import binaries
from dev.cluster.commands import run
from dev.cluster.images.builders import build
from dev.cluster.images.recipe import Recipe
from dev.cluster.progress import step
from dev.cluster.provider import Provider
from dev.cluster.settings import COREDNS_VERSION, PROJECT, Settings

_SOURCES = PROJECT / "images"


def ensure(settings: Settings, provider: Provider) -> None:
    """Build and load those that are missing or stale."""
    for recipe in (_pause(settings), _coredns(settings)):
        if provider.loaded_images().get(recipe.name) == recipe.content_hash():
            continue
        with step(f"building and loading {recipe.name}"):
            recipe.prepare()
            build(settings, provider.builder(), recipe)
            provider.load(recipe.name, recipe.content_hash())


def _pause(settings: Settings) -> Recipe:
    context = settings.build / "pause"

    def compile_pause() -> None:
        context.mkdir(parents=True, exist_ok=True)
        run("gcc", "-static", "-O2", "-Wall", "-Werror", "-o", context / "pause", _SOURCES / "pause" / "pause.c")

    inputs = (_SOURCES / "pause" / "pause.c",)
    return _recipe("localhost/pause:1", "pause", context, inputs, compile_pause)


def _coredns(settings: Settings) -> Recipe:
    context = settings.build / "coredns"

    def copy_binary() -> None:
        context.mkdir(parents=True, exist_ok=True)
        shutil.copy2(binaries.COREDNS.path(settings), context / "coredns")

    inputs = (PROJECT / "dev" / "cluster" / "go" / "coredns",)
    return _recipe(f"localhost/coredns:{COREDNS_VERSION}", "coredns", context, inputs, copy_binary)


def _recipe(name: str, folder: str, context: Path, inputs: tuple[Path, ...], prepare: Callable[[], None]) -> Recipe:
    dockerfile = _SOURCES / folder / "Dockerfile"
    return Recipe(name, dockerfile, context, inputs, prepare=prepare, from_scratch=True)
