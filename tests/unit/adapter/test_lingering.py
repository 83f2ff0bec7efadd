"""Finished requests that are offered again: for how long, and when they give way."""

from __future__ import annotations

from spillway.adapters.vllm.lingering import Lingering

BLOCKS = {"a": [1, 2, 3], "b": [4, 5]}


def make() -> Lingering:
    return Lingering(BLOCKS.__getitem__)


def step(lingering: Lingering, finished: list[str], unmet: set[str], allocated: set[int]) -> tuple[list[str], set[str]]:
    """One step: (offered, forgotten)."""
    lingering.begin_step(finished)
    lingering.give_way(allocated)
    offered = lingering.offered()
    lingering.end_step(unmet, allocated)
    ending = set(lingering.ending)
    lingering.ending.clear()
    return offered, ending


def test_request_whose_chunks_have_slots_ends_with_its_first_offer() -> None:
    lingering = make()
    assert step(lingering, ["a"], set(), set()) == (["a"], {"a"})
    assert not lingering.waiting


def test_request_is_offered_until_its_chunks_have_slots() -> None:
    lingering = make()
    assert step(lingering, ["a"], {"a"}, set()) == (["a"], set())
    assert step(lingering, ["b"], {"a"}, set()) == (["a", "b"], {"b"})
    assert step(lingering, [], set(), {9}) == (["a"], {"a"})
    assert step(lingering, [], set(), set()) == ([], set())


def test_blocks_given_away_in_the_step_of_the_first_offer_end_it_after_that_offer() -> None:
    """The copies of that offer are waited for by vLLM before the blocks are written; what had no slot is lost."""
    assert step(make(), ["a"], {"a"}, {2}) == (["a"], {"a"})


def test_blocks_given_away_later_are_not_offered() -> None:
    lingering = make()
    step(lingering, ["a", "b"], {"a", "b"}, set())
    assert step(lingering, [], {"a", "b"}, {5}) == (["a"], {"b"})


def test_name_taken_by_another_request_is_not_forgotten() -> None:
    lingering = make()
    step(lingering, ["a"], {"a"}, set())
    assert lingering.drop("a")
    assert not lingering.drop("a")
    assert step(lingering, [], set(), set()) == ([], set())


def test_forgotten_between_steps_is_named_in_the_next() -> None:
    lingering = make()
    step(lingering, ["a"], {"a"}, set())
    lingering.forget()
    assert not lingering.waiting
    assert step(lingering, ["b"], {"b"}, set()) == (["b"], {"a"})
