"""Resolve, wait, claim and store against a real plane; the test is the sidecar's loop and the engine's scheduler."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from spillway import _core
from spillway.client import Group, Link, LoadTokens, RankLink, Verdict
from spillway.client.stores import STARVED_SECONDS, STARVED_STEP_SECONDS
from spillway.client.waits import UNKNOWN_WAIT_SECONDS, WAITING_TICKETS

from tests.unit.client.conftest import CHUNK_TOKENS, Side
from tests.unit.core.pod import Pod, key_of

N = range(4)


def test_everything_misses_and_no_store_is_taken_before_the_identity_is_known(pod: Pod) -> None:
    side = Side(pod)
    side.rank.poll()
    pod.until("the session's attachment", side.link.attachment)
    assert side.resolve("a", N) is Verdict.GO
    assert side.hits("a", N) == [False] * 4
    assert side.session.stores.offer("a", side.offers(N)) == []
    side.session.close()
    side.rank.close()


def test_missing_run_folder_is_not_yet_and_never_an_exception(tmp_path: Path) -> None:
    link = Link(str(tmp_path / "absent"), bytes(16), 1, 1)
    rank = RankLink(str(tmp_path / "absent"), bytes(16), 1, 0, [1])
    assert link.attachment() is None
    assert not rank.poll()
    assert link.problem is None


def test_stored_chunks_are_hits_that_can_be_claimed(side: Side) -> None:
    side.store("a", N)
    assert side.resolve("b", N) is Verdict.GO
    assert side.hits("b", N) == [True] * 4
    claim = side.session.loads.claim("b", [key_of(number) for number in N])
    side.session.step_ended()
    assert claim is not None and len(claim[0]) == 1 and len(claim[1]) == 16
    assert side.attachment().open_tickets() == 1
    side.rank.ack(claim[0][0])
    side.pod.until("the release", lambda: side.attachment().open_tickets() == 0)
    assert side.counter("loaded_chunks") == 4
    assert side.counter("hit_keys") == 4


def test_chunks_that_cannot_be_pinned_leave_no_ticket(side: Side) -> None:
    side.store("a", range(2))
    side.resolve("b", N)
    assert side.session.loads.claim("b", [key_of(number) for number in N]) is None
    assert side.attachment().open_tickets() == 0
    side.session.step_ended()


def test_known_and_pending_chunks_are_not_stored_again(side: Side) -> None:
    side.store("a", range(2))
    second = side.session.stores.offer("b", side.offers(N))
    assert second is not None and [offer.key for offer, _ in second] == [key_of(2), key_of(3)]
    assert side.session.stores.offer("c", side.offers(N)) == []


def test_request_waits_for_what_is_being_stored_for_50_ms_once(side: Side) -> None:
    side.pod.until("leases", lambda: side.session.stores.offer("a", side.offers(N)))
    assert side.resolve("b", N) is Verdict.WAIT
    side.clock.now += 0.049
    assert side.resolve("b", N) is Verdict.WAIT
    side.clock.now += 0.002
    assert side.resolve("b", N) is Verdict.GO
    assert side.hits("b", N) == [False] * 4
    side.session.step_ended()


def test_request_waits_for_nvme_and_loads_what_came(side: Side) -> None:
    side.store("a", N)
    side.demote(N)
    assert side.resolve("b", N) is Verdict.WAIT
    side.session.step_ended()
    wanted = side.pod.until("the wish", lambda: len(side.pod.seen(_core.Promote)) == 4)
    assert wanted and side.pod.plane.read([side.pod.key16(number) for number in N]) == [True] * 4

    def resolved() -> bool:
        verdict = side.resolve("b", N)
        if verdict is Verdict.WAIT:
            side.session.step_ended()
        return verdict is Verdict.GO

    side.pod.until("the promotion", resolved)
    assert side.hits("b", N) == [True] * 4
    assert side.session.loads.was_promoted("b", key_of(0))
    assert side.session.loads.claim("b", [key_of(number) for number in N]) is not None
    side.session.step_ended()


def tokens(side: Side) -> dict[str, int]:
    names = ("looked_up", "loaded_dram", "loaded_nvme", "loaded_other")
    return {name: side.counter(f"{name}_tokens") for name in names}


def test_tokens_count_once_a_request_is_scheduled_and_its_load_is_good(side: Side) -> None:
    side.store("a", N)
    for _ in range(3):  # it waits for room on the device, and asks again
        side.resolve("b", N)
        side.session.step_ended()
    assert tokens(side) == {"looked_up": 0, "loaded_dram": 0, "loaded_nvme": 0, "loaded_other": 0}
    side.session.loads.scheduled("b", LoadTokens(dram=256, nvme=512, other=128))
    assert tokens(side) == {"looked_up": 1024, "loaded_dram": 0, "loaded_nvme": 0, "loaded_other": 0}
    side.session.loads.loaded("b")
    side.session.loads.scheduled("b")  # vLLM says so once more when the load is over
    side.session.loads.loaded("b")
    assert tokens(side) == {"looked_up": 1024, "loaded_dram": 256, "loaded_nvme": 512, "loaded_other": 128}


def test_what_a_failed_load_did_not_bring_is_looked_up_and_not_loaded(side: Side) -> None:
    side.store("a", N)
    side.resolve("b", N)
    side.session.loads.scheduled("b", LoadTokens(dram=1024))
    side.session.loads.failed("b")
    side.session.loads.loaded("b")
    side.resolve("b", N)
    side.session.loads.scheduled("b")
    assert tokens(side) == {"looked_up": 1024, "loaded_dram": 0, "loaded_nvme": 0, "loaded_other": 0}


def test_preempted_request_that_returns_is_looked_up_and_loaded_again(side: Side) -> None:
    side.store("a", N)
    for _ in range(2):
        side.resolve("b", N)
        side.session.loads.scheduled("b", LoadTokens(dram=1024))
        side.session.loads.loaded("b")
    assert tokens(side) == {"looked_up": 2048, "loaded_dram": 2048, "loaded_nvme": 0, "loaded_other": 0}


def test_what_the_device_has_and_what_fills_no_chunk_of_every_group_is_not_looked_up(side: Side) -> None:
    keys = [key_of(number) for number in range(8)]
    groups = [Group(keys[:4], 256, None), Group(keys[4:6], 512, None)]
    side.session.loads.resolve("b", groups, computed_tokens=300, total_tokens=1200)
    side.session.loads.scheduled("b")
    assert tokens(side)["looked_up"] == 1024 - 300


def test_stalled_promotion_offers_the_leading_part_and_stays_settled(side: Side) -> None:
    side.store("a", N)
    side.demote(range(2, 4))
    assert side.resolve("b", N) is Verdict.WAIT
    assert side.attachment().open_tickets() == 1  # what is there already stays there
    side.clock.now += 0.26
    assert side.resolve("b", N) is Verdict.GO
    assert side.hits("b", N) == [True, True, False, False]
    side.session.step_ended()
    assert side.resolve("b", N) is Verdict.GO
    side.session.step_ended()
    side.pod.until("the release", lambda: side.attachment().open_tickets() == 0)


def test_plan_reserves_at_most_half_of_the_arena(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    side.store("a", N)
    side.demote(N)
    geometry = side.link.geometry
    assert geometry is not None
    monkeypatch.setattr("spillway.client.waits.RESERVED_RATIO", 3 * geometry[0].stride_bytes / (64 << 20))
    assert side.resolve("b", N) is Verdict.WAIT
    side.session.step_ended()
    side.pod.until("the wishes", lambda: len(side.pod.seen(_core.Promote)) == 3)
    assert side.resolve("c", N) is Verdict.GO  # first come, first served
    side.session.finished("b", [])
    assert side.resolve("d", N) is Verdict.WAIT


def test_dead_sidecar_ends_the_wait_for_nvme(side: Side) -> None:
    side.store("a", range(2))
    side.demote(range(1, 2))
    assert side.resolve("b", range(2)) is Verdict.WAIT
    side.session.step_ended()
    side.pod.plane.close()
    deadline = time.monotonic() + 5  # the core judges the heartbeat by the real clock
    while side.resolve("b", range(2)) is Verdict.WAIT:
        side.session.step_ended()
        assert time.monotonic() < deadline, "waited 5 s for the session to notice that the heartbeat stopped"
    assert side.hits("b", range(2)) == [True, False]
    side.session.step_ended()


def test_failed_load_denies_the_request_until_it_ends(side: Side) -> None:
    side.store("a", N)
    side.session.loads.failed("b")
    assert side.resolve("b", N) is Verdict.GO
    assert side.hits("b", N) == [False] * 4
    side.session.finished("b", [])
    side.resolve("b", N)
    assert side.hits("b", N) == [True] * 4
    side.session.step_ended()


def test_reset_forgets_what_was_stored_and_what_is_under_way(side: Side) -> None:
    side.store("a", range(2))
    taken = side.pod.until("leases", lambda: side.session.stores.offer("b", side.offers(range(2, 4))))
    side.session.sent()
    side.session.reset()
    side.session.stored([offer.key for offer, _slot in taken], failed=False)
    side.session.stores.abandon([(offer.group, slot) for offer, slot in taken])
    side.session.step_ended()
    side.resolve("c", N)
    assert side.hits("c", N) == [False] * 4
    assert side.session.stores.offer("b", side.offers(N)) == []  # computed with the old weights
    side.session.step_ended()


def test_store_takes_the_leading_run_and_the_rest_when_there_are_slots_again(side: Side) -> None:
    attachment = side.attachment()
    side.pod.until("grants", lambda: attachment.granted(0) >= 8)
    granted = attachment.granted(0)
    numbers = range(granted + 3)
    taken = side.session.stores.offer("a", side.offers(numbers))
    assert taken is not None and len(taken) == granted
    assert side.session.stores.take_cuts() == {"a": (granted + 1) * CHUNK_TOKENS}
    assert side.session.stores.take_cuts() == {}

    rest = side.offers(numbers)[granted:]
    again = side.pod.until("grants again", lambda: side.session.stores.offer("a", rest))
    accepted = [offer for offer, _slot in again]
    assert accepted == rest[: len(accepted)]
    assert side.counter("store_declined") == 0


def test_chunks_that_had_no_slot_when_their_request_ended_are_counted(side: Side) -> None:
    attachment = side.attachment()
    side.pod.until("grants", lambda: attachment.granted(0) >= 8)
    side.session.stores.offer("a", side.offers(range(attachment.granted(0) + 3)))
    side.session.finished("a", [])
    assert (side.counter("store_ended"), side.counter("store_declined")) == (3, 0)


def test_request_without_any_slot_offers_again_and_gives_up_in_the_end(side: Side) -> None:
    attachment = side.attachment()
    side.pod.until("grants", lambda: attachment.granted(0) >= 8)
    side.session.stores.offer("a", side.offers(range(attachment.granted(0))))
    for _ in range(int(STARVED_SECONDS / STARVED_STEP_SECONDS)):
        # However long the engine's steps are.
        assert side.session.stores.offer("b", side.offers(range(500, 502))) is None
        assert side.session.stores.take_unmet() == {"b"}
        side.clock.now += STARVED_SECONDS
    assert side.session.stores.offer("b", side.offers(range(500, 502))) == []
    assert side.session.stores.take_unmet() == set()
    assert side.counter("store_declined") == 2
    # Behind the hole nothing of it is of use.
    assert side.session.stores.offer("b", side.offers(range(502, 510))) == []
    assert side.session.stores.take_cuts() == {}


def test_situation_is_equal_while_nothing_changes_and_hits_can_be_claimed_then(side: Side) -> None:
    side.store("a", N)
    assert side.resolve("b", N) is Verdict.GO
    situation = side.session.loads.situation("b")
    assert situation is not None
    side.session.step_ended()
    assert side.session.loads.situation("b") == situation
    assert side.session.loads.repeat("b") is Verdict.GO
    assert side.session.loads.claim("b", [key_of(number) for number in N]) is not None
    side.session.step_ended()

    side.store("c", range(10, 12))
    assert side.session.loads.situation("b") != situation
    side.session.loads.failed("b")
    assert side.session.loads.situation("b") != situation


def test_burst_beyond_the_tickets_waits_for_the_first_loads_to_end(side: Side) -> None:
    side.store("a", N)
    keys = [key_of(number) for number in N]
    tickets: list[int] = []
    for number in range(_core.MAX_TICKETS):
        assert side.resolve(f"load-{number}", N) is Verdict.GO
        claim = side.session.loads.claim(f"load-{number}", keys)
        assert claim is not None
        tickets.extend(claim[0])
    side.session.sent()

    assert side.resolve("late", N) is Verdict.WAIT
    assert side.hits("late", N) == [False] * 4
    side.rank.ack(tickets[0])
    side.pod.until("a ticket", lambda: side.attachment().open_tickets() < _core.MAX_TICKETS)
    assert side.resolve("late", N) is Verdict.GO
    assert side.hits("late", N) == [True] * 4
    assert side.session.loads.claim("late", keys) is not None

    assert side.resolve("later", N) is Verdict.WAIT
    side.clock.now += UNKNOWN_WAIT_SECONDS
    assert side.resolve("later", N) is Verdict.GO  # whatever holds the tickets, nobody waits for ever
    assert side.hits("later", N) == [False] * 4
    assert side.counter("load_failures") == 0


def test_giving_up_keeps_no_pin_that_no_rank_knows_of(side: Side) -> None:
    side.store("a", N)
    side.demote(range(2, 4))
    assert side.resolve("waiting", N) is Verdict.WAIT
    side.resolve("claiming", range(2))
    assert side.session.loads.claim("claiming", [key_of(number) for number in range(2)]) is not None
    assert side.attachment().open_tickets() == 2

    side.session.give_up()
    side.pod.until("the release", lambda: side.attachment().open_tickets() == 0)
    assert side.counter("fail_open") == 1
    # No step is open either, or nothing could be recycled any more.
    assert side.pod.plane.evict_dram([side.pod.key16(0)]) == [True]
    side.pod.until("recycling", lambda: side.pod.plane.stats().recycling_slots == 0)


def test_giving_up_leaves_a_claim_to_the_ranks_that_were_told_of_it(side: Side) -> None:
    side.store("a", N)
    side.resolve("b", N)
    claim = side.session.loads.claim("b", [key_of(number) for number in N])
    side.session.sent()
    side.session.give_up()
    for _ in range(5):
        side.pod.turn()
    assert side.attachment().open_tickets() == 1
    assert claim is not None
    side.rank.ack(claim[0][0])
    side.pod.until("the release", lambda: side.attachment().open_tickets() == 0)


def leased(side: Side) -> int:
    """Slots that the engine has, without those that wait for it to take them."""
    return int(side.pod.plane.stats().leases_out) - side.attachment().granted(0)


def test_giving_up_returns_leases_but_not_those_that_ranks_may_write_to(side: Side) -> None:
    sent = side.pod.until("leases", lambda: side.session.stores.offer("a", side.offers(range(2))))
    side.session.sent()
    side.pod.until("more leases", lambda: side.session.stores.offer("b", side.offers(range(2, 4))))
    side.pod.until("the leases to be known", lambda: leased(side) == 4)

    side.session.give_up()
    side.pod.until("what was not sent to come back", lambda: leased(side) == 2)
    side.session.stores.abandon([(offer.group, slot) for offer, slot in sent])
    side.pod.until("the rest to come back", lambda: leased(side) == 0)
    assert side.states(N) == bytes([_core.MISS]) * 4


def test_those_that_wait_leave_tickets_to_those_that_load(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spillway.client.waits.RESERVED_RATIO", 100.0)  # all of them wait at once
    side.store("a", N)
    side.demote(range(3, 4))
    for number in range(_core.MAX_TICKETS):
        side.pod.turn()  # the sidecar lives
        assert side.resolve(f"waits-{number}", N) is Verdict.WAIT
    assert side.attachment().open_tickets() == WAITING_TICKETS
    assert side.resolve("loads", range(3)) is Verdict.GO
    assert side.session.loads.claim("loads", [key_of(number) for number in range(3)]) is not None
    side.session.step_ended()


def test_hit_counts_when_it_is_loaded_and_a_miss_when_the_request_is_scheduled(side: Side) -> None:
    side.store("a", range(2))
    for _ in range(3):
        side.resolve("b", N)
        side.session.step_ended()
    side.resolve("gone", N)
    side.session.step_ended()
    side.session.finished("gone", [])
    names = ("lookup_keys", "hit_keys", "nvme_keys", "miss_keys")
    assert [side.counter(name) for name in names] == [0, 0, 0, 0]

    side.resolve("b", N)
    assert side.session.loads.claim("b", [key_of(number) for number in range(2)]) is not None
    side.session.loads.scheduled("b", LoadTokens(dram=512))
    side.session.step_ended()
    assert [side.counter(name) for name in names] == [4, 2, 0, 2]


def used(side: Side) -> list[bytes]:
    return [event.key for event in side.pod.seen(_core.Used)]


def test_looked_up_hits_count_as_used_once_and_so_does_a_load(side: Side) -> None:
    side.store("a", N)
    keys = [side.pod.key16(number) for number in N]
    for _ in range(3):
        side.resolve("waits for blocks", N)
        side.session.step_ended()
    side.pod.until("the lookup to count", lambda: len(used(side)) >= 4)
    assert used(side) == keys[::-1]

    side.resolve("loads", range(2))
    assert side.session.loads.claim("loads", [key_of(number) for number in range(2)]) is not None
    side.session.step_ended()
    side.pod.until("the load to count", lambda: len(used(side)) >= 6)
    assert used(side) == keys[::-1] + keys[1::-1]


def test_thousand_loads_without_a_sidecar(side: Side) -> None:
    side.store("a", N)
    keys = [key_of(number) for number in N]
    side.pod.plane.close()
    for number in range(1_000):
        request = f"load-{number}"
        assert side.resolve(request, N) is Verdict.GO
        claim = side.session.loads.claim(request, keys)
        assert claim is not None, f"load {number} found no ticket"
        side.session.loads.scheduled(request, LoadTokens(dram=1024))
        side.session.sent()
        side.session.step_ended()
        side.rank.ack(claim[0][0])
        side.session.loads.loaded(request)
        side.session.finished(request, keys)
