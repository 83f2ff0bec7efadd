"""An image is stale exactly when something that it is made of changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from dev.cluster.images.recipe import Recipe


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    (tmp_path / "sources" / "target").mkdir(parents=True)
    (tmp_path / "sources" / "main.py").write_text("print(1)")
    (tmp_path / "Dockerfile").write_text("FROM scratch")
    return tmp_path / "sources"


def make_recipe(sources: Path, **arguments: str) -> Recipe:
    return Recipe("localhost/a:1", sources.parent / "Dockerfile", sources, (sources,), arguments=arguments)


def test_same_content_gives_same_hash(sources: Path) -> None:
    assert make_recipe(sources).content_hash() == make_recipe(sources).content_hash()


def test_build_leftovers_do_not_count(sources: Path) -> None:
    before = make_recipe(sources).content_hash()
    (sources / "target" / "object.o").write_text("x")
    (sources / "module.so").write_text("x")
    assert make_recipe(sources).content_hash() == before


@pytest.mark.parametrize("change", ["content", "name", "argument", "dockerfile"])
def test_any_change_makes_it_stale(sources: Path, change: str) -> None:
    before = make_recipe(sources).content_hash()
    arguments = {"REVISION": "2"} if change == "argument" else {}
    if change == "content":
        (sources / "main.py").write_text("print(2)")
    elif change == "name":
        (sources / "main.py").rename(sources / "other.py")
    elif change == "dockerfile":
        (sources.parent / "Dockerfile").write_text("FROM scratch\nUSER 1")
    assert make_recipe(sources, **arguments).content_hash() != before
