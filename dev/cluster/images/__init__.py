"""Images for the cluster: what there is (`catalog`), how it is built (`buildah`, `container_engine`), when it is stale.

An image is built again only when what it is made of changed: its content hash is compared with the cluster's record.
"""

from __future__ import annotations

from dev.cluster.images import catalog
from dev.cluster.images.builders import build
from dev.cluster.images.recipe import Recipe
from dev.cluster.locking import only_one
from dev.cluster.progress import say, step
from dev.cluster.provider import Provider
from dev.cluster.settings import Settings

__all__ = ["ensure"]


def ensure(settings: Settings, provider: Provider, names: list[str]) -> None:
    """Build and load what is missing or stale. `names` empty: everything. Raises ClusterError for an unknown name."""
    for recipe in catalog.select(settings, names):
        # Images of one context share its prepared parts.
        with only_one(settings.build, f"images-of-{recipe.context.name}"):
            _ensure_one(settings, provider, recipe)


def _ensure_one(settings: Settings, provider: Provider, recipe: Recipe) -> None:
    wanted = recipe.content_hash()
    if provider.loaded_images().get(provider.image_reference(recipe.name)) == wanted:
        say(f"{recipe.name} is up to date")
        return
    with step(f"building {recipe.name}"):
        recipe.prepare()
        build(settings, provider.builder(), recipe)
    with step(f"loading {recipe.name} into the cluster"):
        provider.load(recipe.name, wanted)
