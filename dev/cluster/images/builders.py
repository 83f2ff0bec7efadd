"""Which program builds an image."""

from __future__ import annotations

from dev.cluster.commands import run
from dev.cluster.images import buildah
from dev.cluster.images.recipe import Recipe
from dev.cluster.settings import Settings


def build(settings: Settings, builder: str, recipe: Recipe) -> None:
    """Build one image under its name. Raises CommandError with the end of the build's output."""
    if builder == "buildah":
        buildah.build(settings, recipe)
        return
    base = {"BASE": settings.base_image} if settings.base_image and not recipe.from_scratch else {}
    arguments = [f"--build-arg={key}={value}" for key, value in {**recipe.arguments, **base}.items()]
    target = ["--target", recipe.target] if recipe.target else []
    run(
        builder, "build", *arguments, *target, "-f", recipe.dockerfile, "-t", recipe.name, recipe.context,
        environment={"DOCKER_BUILDKIT": "1"},
    )  # fmt: skip
