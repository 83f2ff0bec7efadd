"""What the sidecar does in a turn: it hears what happened, is told the room there is, and says the moves.

Pure: no clock but the one it is given, no I/O, so that a trace replays to the same moves. Who carries them out says afterwards
what became of them, as the core may refuse any: events and room are older than it.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from spillway.policy.order import EvictionOrder
from spillway.policy.recency import Recency

# The order in which chunks leave either tier; what else was tried for DRAM is in docs/adr/0106-eviction.md.
EVICTION: Callable[[], EvictionOrder] = Recency

# A chunk's tiers as bits, and the bytes of an extent; the core's numbers.
DRAM, NVME = 1, 2
EXTENT_BYTES = 64 << 20

# Slots kept free per class so that a store never waits for a recycle: a tenth, bounded (the bounds are arbitrary).
FREE_SHARE, FREE_MIN, FREE_MAX = 10, 4, 64
# All engines together may have this share of the arena waiting for them in leases that nobody uses.
IDLE_LEASE_SHARE, IDLE_LEASE_MIN = 8, 2
# And engines may have no more than this share of a class's slots in leases of any kind, each engine its part of it: what is
# leased holds no chunk, and an engine that never gives back what it took must not take the cache.
LEASE_CAP_SHARE = 2
# An engine that took no lease for so long is idle: this part of its share of idle leases stays with it, the rest comes back as
# soon as its class would have to evict for somebody else. The figures are arbitrary.
IDLE_ENGINE_SECONDS, IDLE_ENGINE_PART = 10.0, 4
# Promotions may fill this share of a class's slots at a time, so that two long prefixes cannot push each other out for ever;
# and no more than it is kept for the requests that wait, so that stores always find a chunk to evict.
PROMOTION_SHARE = 2
# Writes in flight at a time: enough for eight threads, little enough that hashing them (on the plane's thread, as they are
# submitted) stays below 100 ms a turn. The figures are arbitrary.
MAX_WRITES, MAX_WRITE_BYTES = 64, 256 << 20
# And no more than this share of a class's DRAM slots, which cannot be evicted meanwhile.
WRITE_SHARE = 4
# What is being read or written stays on NVMe, so some more of the oldest are tried where all were refused.
SPARE_VICTIMS = 8
# An extent changes hands only after all the index was searched for what lies in it, so several do at once ...
MAX_EXTENTS, DONOR_WINDOW = 16, 256
# ... and searching takes at most a tenth of the time.
SEARCH_SHARE = 10
# DRAM extents that a class gets at a time, and how long it evicts nothing of its own meanwhile: until they are empty every engine
# must have ended its step, which takes milliseconds.
MAX_DRAM_EXTENTS, VACATE_SECONDS = 4, 0.5
# A class that an engine uses and that got an extent keeps it for so long: of few extents one is a large part, and the class that
# gave it may be the poorer one from then on. What it would get back costs all that lies in it (the figure is arbitrary).
KEEP_EXTENT_SECONDS = 60.0
# So many chunks leave in a turn because too many are known: more than a turn tells of, so that a scan cannot outrun it.
MAX_FORGOTTEN = 2048
# Where it brought nothing, something in the extent was being read or written.
SEARCH_AGAIN_SECONDS = 1.0
# A class that got none of the extents that were vacated for it asks for no others so soon: what could not leave these, as the leases of
# an engine that stands still, may lie in any.
VACATE_AGAIN_SECONDS = 60.0


class Room(Protocol):
    """Slots of one class in both tiers, those of extents that it could still draw included; dram_to_come: of extents that are
    being vacated for it."""

    @property
    def class_id(self) -> int: ...
    @property
    def stride_bytes(self) -> int: ...
    @property
    def dram_free(self) -> int: ...
    @property
    def dram_total(self) -> int: ...
    @property
    def dram_to_come(self) -> int: ...
    @property
    def nvme_free(self) -> int: ...


class Account(Protocol):
    """A group of an engine that can be granted to; idle: slots that it was granted and has not taken; leased: slots of the class
    that the engine leases in all."""

    @property
    def tag(self) -> int: ...
    @property
    def group(self) -> int: ...
    @property
    def class_id(self) -> int: ...
    @property
    def idle(self) -> int: ...
    @property
    def leased(self) -> int: ...


@dataclass(frozen=True)
class Donation:
    """Extents of a class that shall become another's: the first `extents` in which `oldest` lie, with everything in them."""

    to_class: int
    oldest: list[bytes]
    extents: int


@dataclass(frozen=True)
class Moves:
    """One turn, to be carried out in this order. Keys are 16 bytes."""

    promote: list[bytes] = field(default_factory=list)  # NVMe -> DRAM
    recall: list[tuple[int, int, int]] = field(
        default_factory=list
    )  # (tag, group, slots) that its engine has not taken
    evict: list[bytes] = field(default_factory=list)  # from DRAM
    grant: list[tuple[int, int, int]] = field(default_factory=list)  # (tag, group, slots)
    drop: list[bytes] = field(default_factory=list)  # from NVMe, for what is written next
    write: list[bytes] = field(default_factory=list)  # DRAM -> NVMe
    vacate: list[Donation] = field(default_factory=list)  # in DRAM, chunk by chunk
    donate: list[Donation] = field(default_factory=list)  # on NVMe


class Planner:
    """Knows which chunks lie where and in which order they were used, what is on its way, and who waits."""

    def __init__(
        self,
        arena_bytes: int,
        max_granted: int,
        nvme_configured: bool = False,
        nvme_usable: bool = False,
        order: Callable[[], EvictionOrder] = EVICTION,
        max_records: int | None = None,
    ) -> None:
        """max_records: how many chunks may be known, one that is in several orders counted in each; None: any number."""
        self._max_records = max_records
        self._arena_bytes, self._max_granted = arena_bytes, max_granted
        self._nvme_configured, self.nvme_usable = nvme_configured, nvme_usable
        self._dram, self._nvme = order(), order()
        # Written oldest first, whatever the order of eviction. No more than DRAM holds, and empty without a tier.
        self._unwritten = Recency()
        self._writing: dict[bytes, tuple[int, int]] = {}  # key -> (class, stride)
        self._writes: Counter[int] = Counter()  # of those, by class
        self._write_bytes = 0
        self._failed: set[bytes] = set()
        # First come, first served. By key: requests that share a prefix ask for one chunk several times, and it is read once.
        self._waiting: dict[bytes, tuple[int, float]] = {}  # key -> (class, deadline)
        self._reading: dict[bytes, tuple[int, float]] = {}
        # Promoted for a request that has not used it yet: key -> (class, deadline), in order of arrival.
        self._awaited: OrderedDict[bytes, tuple[int, float]] = OrderedDict()
        self._leaving: Counter[int] = Counter()
        self._search_at = self._vacate_at = self._patient_until = 0.0
        self._got_at: dict[int, float] = {}  # class -> when it was given an extent
        self._receiving: dict[int, int] = {}  # class -> its slots before extents were vacated for it
        self._totals: dict[int, int] = {}
        self._took_at: dict[tuple[int, int], float] = {}  # (tag, group) -> when its engine took or missed a lease
        self.dram_evictions = self.nvme_evictions = self.unwritten_evictions = 0

    @property
    def unwritten(self) -> int:
        """Chunks that wait for being written."""
        return len(self._unwritten)

    @property
    def is_writing(self) -> bool:
        """Whether a write is in flight."""
        return bool(self._writing)

    # What happened. `tiers`: where the chunk lies now, by the core's word.

    def found(self, key: bytes, class_id: int, tiers: int) -> None:
        """A chunk was inserted, adopted, scanned or read: it was said to be somewhere, and is where `tiers` says."""
        if tiers & NVME:
            if key not in self._nvme:
                self._nvme.add(key, class_id)
            self._unwritten.discard(key)
        if tiers & DRAM:
            self._dram.add(key, class_id)
            if self._nvme_configured and not tiers & NVME and key not in self._writing:
                self._unwritten.add(key, class_id)

    def used(self, key: bytes) -> None:
        """A chunk was used, in whichever tier."""
        self._awaited.pop(key, None)
        self._dram.touch(key)
        self._nvme.touch(key)

    def promotion_wanted(self, key: bytes, class_id: int, deadline: float) -> None:
        """An engine waits for a chunk on NVMe, until `deadline`. That is a use."""
        self._nvme.touch(key)
        if key in self._reading:
            self._reading[key] = class_id, max(deadline, self._reading[key][1])
        else:
            self._waiting[key] = class_id, max(deadline, self._waiting.get(key, (0, deadline))[1])

    def read_ended(self, key: bytes, class_id: int, tiers: int) -> None:
        """A promotion ended, well or not."""
        _, deadline = self._reading.pop(key, (class_id, 0.0))
        self.found(key, class_id, tiers)
        if tiers & DRAM:
            self._awaited[key] = class_id, deadline

    def write_ended(self, key: bytes, class_id: int, tiers: int, device_failed: bool) -> None:
        """A write ended. One that the device failed is tried once more: after the breaker, which lets go of all that is queued."""
        self._end_write(key)
        if tiers & NVME:
            self._failed.discard(key)
            self._nvme.add(key, class_id)
        elif device_failed and tiers & DRAM and key not in self._failed:
            self._failed.add(key)
            self._unwritten.add(key, class_id)

    def lies(self, key: bytes, tiers: int) -> None:
        """A chunk was found damaged, or could not be moved: it lies nowhere but where `tiers` says."""
        if not tiers & NVME:
            self._nvme.discard(key)
        if not tiers & DRAM:
            self._dram.discard(key)
            self._left_dram(key)

    def freed(self, class_id: int, count: int) -> None:
        """Evicted slots can be used again."""
        self._leaving[class_id] = max(self._leaving[class_id] - count, 0)

    def leases_wanted(self, tag: int, group: int, now: float) -> None:
        """An engine took leases of a group, or found none."""
        self._took_at[tag, group] = now

    # What became of the moves. What the core refused is told by `lies`.

    def evicted(self, keys: Iterable[bytes]) -> None:
        """Chunks left DRAM; their slots are free once no reader can hold them."""
        dram, nvme = self._dram, self._nvme
        for key in keys:
            class_id = dram.class_of(key)
            if class_id is not None:
                dram.discard(key)
                self._leaving[class_id] += 1
            self._left_dram(key)
            self.dram_evictions += 1
            if self._nvme_configured and key not in nvme:
                self.unwritten_evictions += 1

    def dropped(self, keys: Iterable[bytes]) -> None:
        """Chunks left NVMe; of an extent's neighbours not all need be known."""
        for key in keys:
            self._nvme.discard(key)
            self.nvme_evictions += 1

    def eviction_refused(self, key: bytes, tiers: int) -> None:
        """A chunk could not leave DRAM. Where it is still there a ticket holds it, and that is a use."""
        self.lies(key, tiers)
        self._dram.touch(key)

    def write_refused(self, key: bytes, tiers: int) -> None:
        """A write was not begun. Where the chunk is still in DRAM alone, that is not its fault: the tier went away, or what
        looked free was not."""
        class_id = self._end_write(key)
        self.lies(key, tiers)
        if tiers == DRAM and class_id is not None:
            self._unwritten.add(key, class_id)

    def read_refused(self, key: bytes, tiers: int) -> None:
        """A read was not begun. What is on NVMe alone waits on, until its deadline."""
        wanted = self._reading.pop(key, None)
        self.lies(key, tiers)
        if wanted is not None and tiers == NVME:
            self._waiting[key] = wanted

    def searched(self, began: float, ended: float, brought: int) -> None:
        """A donation was carried out, and so many chunks left by it."""
        self._search_at = ended + ((ended - began) * SEARCH_SHARE if brought else SEARCH_AGAIN_SECONDS)

    def vacating(self, class_id: int, extents: int, now: float) -> None:
        """So many DRAM extents are being vacated for a class."""
        if extents:
            self._patient_until = now + VACATE_SECONDS
            self._got_at[class_id] = now
            self._receiving[class_id] = self._totals.get(class_id, 0)
        else:
            self._vacate_at = now + SEARCH_AGAIN_SECONDS

    # The moves.

    def plan(
        self, rooms: Sequence[Room], accounts: Sequence[Account], now: float, vacated: Sequence[bytes] = ()
    ) -> Moves:
        """The moves of a turn. `now` is on the clock of the deadlines; `vacated`: what lies in DRAM extents that shall be empty."""
        moves = Moves()
        self._end_waits(now)
        waiting: dict[int, list[bytes]] = {}
        for key, (class_id, _deadline) in self._waiting.items():
            waiting.setdefault(class_id, []).append(key)
        debts, excess = self._debts(rooms, accounts, now)
        for room in rooms:
            self._end_vacate(room, now)
            free = room.dram_free - self._promote(room, waiting.get(room.class_id, ()), moves)
            owed = debts.get(room.class_id, [])
            self._grant(owed, free, moves)
            still_waiting = sum(key in self._waiting for key in waiting.get(room.class_id, ()))
            # Before the evictions: what is being written cannot leave DRAM, and the oldest of both are often the same.
            if self.nvme_usable:
                self._write(room, now, moves)
            wanted = still_waiting + sum(count for _account, count in owed)
            short = self._short(room, free, wanted)
            short -= self._recall(room, excess, short, moves)
            if wanted and short > 0:
                short -= self._vacate(room, rooms, accounts, short, now, moves)
            self._evict(room, short, moves)
        chosen = set(moves.evict)
        moves.evict.extend(
            key for key in vacated if not (key in chosen or key in self._writing or key in self._awaited)
        )
        self._keep_budget(moves)
        return moves

    def _keep_budget(self, moves: Moves) -> None:
        """What cannot be remembered leaves its tier, the oldest first: unknown to us it would take its slot for ever."""
        if self._max_records is None:
            return
        beyond = len(self._dram) + len(self._nvme) + len(self._unwritten) - self._max_records
        beyond = min(beyond - len(moves.drop) - len(moves.evict), MAX_FORGOTTEN)
        if beyond <= 0:
            return
        busy = {*moves.drop, *moves.evict, *moves.write}.union(self._writing, self._waiting, self._reading)
        class_id = self._nvme.oldest_class()
        if class_id is not None:
            moves.drop.extend(self._nvme.victims(class_id, beyond, kept=busy.__contains__))
        elif (class_id := self._dram.oldest_class()) is not None:
            moves.evict.extend(self._dram.victims(class_id, beyond, kept=busy.__contains__))

    def _end_waits(self, now: float) -> None:
        if self._waiting:
            ended = [key for key, (_, deadline) in self._waiting.items() if now >= deadline or not self.nvme_usable]
            for key in ended:
                del self._waiting[key]
        if self._awaited:
            for key in [key for key, (_, deadline) in self._awaited.items() if now >= deadline]:
                del self._awaited[key]

    def _promote(self, room: Room, waiting: Sequence[bytes], moves: Moves) -> int:
        """Reads, first come first served within the class; the number of slots that they take."""
        if not waiting:
            return 0
        class_id = room.class_id
        on_their_way = sum(other == class_id for other, _ in self._reading.values())
        share = max(room.dram_total // PROMOTION_SHARE, 1) - on_their_way
        reads = waiting[: max(min(share, room.dram_free), 0)]
        for key in reads:
            self._reading[key] = self._waiting.pop(key)
        moves.promote.extend(reads)
        return len(reads)

    def _debts(
        self, rooms: Sequence[Room], accounts: Sequence[Account], now: float
    ) -> tuple[dict[int, list[tuple[Account, int]]], list[tuple[Account, int]]]:
        """By class, what each group lacks so that an engine's next step finds its share of leases, however much it asked for
        before: what it took and missed meanwhile, a stall's retries among it, is no measure of what it will use. And what groups
        have beyond their share, which others may need more."""
        debts: dict[int, list[tuple[Account, int]]] = {}
        excess: list[tuple[Account, int]] = []
        known = {(account.tag, account.group): now for account in accounts}
        self._took_at = {place: self._took_at.get(place, now) for place in known}
        by_class = {room.class_id: room for room in rooms}
        engines: dict[int, set[int]] = {}
        for account in accounts:
            engines.setdefault(account.class_id, set()).add(account.tag)
        left: dict[tuple[int, int], int] = {}
        for account in accounts:
            cap = by_class[account.class_id].dram_total // (LEASE_CAP_SHARE * len(engines[account.class_id]))
            left[account.tag, account.class_id] = max(cap, IDLE_LEASE_MIN) - account.leased
        for account in accounts:
            place = account.tag, account.class_id
            share = self._arena_bytes // by_class[account.class_id].stride_bytes // (IDLE_LEASE_SHARE * len(accounts))
            if now - self._took_at[account.tag, account.group] >= IDLE_ENGINE_SECONDS:
                share //= IDLE_ENGINE_PART
            target = min(max(share, IDLE_LEASE_MIN), self._max_granted)
            if account.idle > target:
                excess.append((account, account.idle - target))
            lacking = min(target - account.idle, left[place])
            if lacking > 0:
                left[place] -= lacking
                debts.setdefault(account.class_id, []).append((account, lacking))
        return debts, excess

    def _grant(self, owed: Sequence[tuple[Account, int]], free: int, moves: Moves) -> None:
        """Where not everybody can get what it lacks, who has least gets first: one engine's burst leaves the other its part."""
        if sum(count for _account, count in owed) <= free:
            moves.grant.extend((account.tag, account.group, count) for account, count in owed)
            return
        by_need = sorted(owed, key=lambda debt: debt[0].idle)
        for at, (account, lacking) in enumerate(by_need):
            count = min(lacking, -(-free // (len(by_need) - at)))
            if count > 0:
                moves.grant.append((account.tag, account.group, count))
                free -= count

    def _short(self, room: Room, free: int, wanted: int) -> int:
        """Slots that are lacking until what is free, and what is on its way out, covers the reserve, the promotions and the leases
        owed. Debts are of this class alone: another class's must not empty it."""
        reserve = min(max(room.dram_total // FREE_SHARE, FREE_MIN), FREE_MAX)
        target = max(reserve, min(wanted, room.dram_total // PROMOTION_SHARE))
        return target - free - self._leaving[room.class_id]

    def _recall(self, room: Room, excess: Sequence[tuple[Account, int]], short: int, moves: Moves) -> int:
        """Before a chunk leaves for somebody, leases come back that nobody uses; how many."""
        recalled = 0
        for account, count in excess:
            count = min(count, short - recalled)
            if account.class_id == room.class_id and count > 0:
                moves.recall.append((account.tag, account.group, count))
                recalled += count
        return recalled

    def _vacate(
        self, room: Room, rooms: Sequence[Room], accounts: Sequence[Account], short: int, now: float, moves: Moves
    ) -> int:
        """Extents of the class whose chunks are the oldest, where those of this one are clearly younger: so a model that left gives
        its arena up, and the groups of a hybrid share by need. The slots that come by it.

        A class that an engine uses keeps its last extent, and each for a while. While one is on its way nothing else is asked for.
        """
        if room.dram_to_come:
            return room.dram_to_come if now < self._patient_until else 0
        if now < self._vacate_at:
            return 0
        donor = self._dram.donor(room.class_id)
        giving = next((other for other in rooms if other.class_id == donor), None)
        if donor is None or giving is None:
            return 0
        per_extent = max(EXTENT_BYTES // room.stride_bytes, 1)
        owned = -(-giving.dram_total // max(EXTENT_BYTES // giving.stride_bytes, 1))
        is_used = any(account.class_id == donor for account in accounts)
        if is_used and donor in self._got_at and now - self._got_at[donor] < KEEP_EXTENT_SECONDS:
            return 0
        spare = owned - is_used
        extents = min(-(-short // per_extent), spare, MAX_DRAM_EXTENTS)
        if extents <= 0:
            return 0
        moves.vacate.append(Donation(room.class_id, self._dram.victims(donor, DONOR_WINDOW), extents))
        return extents * per_extent

    def _end_vacate(self, room: Room, now: float) -> None:
        """Extents are on their way no more: they came, or stayed where they were."""
        self._totals[room.class_id] = room.dram_total
        if room.dram_to_come or room.class_id not in self._receiving:
            return
        if room.dram_total <= self._receiving.pop(room.class_id):
            self._got_at.pop(room.class_id, None)
            self._vacate_at = now + VACATE_AGAIN_SECONDS

    def _evict(self, room: Room, short: int, moves: Moves) -> None:
        if short > 0:
            moves.evict.extend(
                self._dram.victims(room.class_id, short, self._nvme.__contains__, self._kept_in_dram(room))
            )

    def _kept_in_dram(self, room: Room) -> Callable[[bytes], bool]:
        """What was promoted is kept for the request that waits for it, until it was used or the deadline; but no more than the
        promotions' share, from the latest on, so that stores always find a chunk to evict. What is being written cannot leave."""
        writing = self._writing
        if not self._awaited:
            return writing.__contains__
        share = max(room.dram_total // PROMOTION_SHARE, 1)
        awaited = [key for key, (class_id, _) in self._awaited.items() if class_id == room.class_id]
        kept = set(awaited[-share:])
        return lambda key: key in writing or key in kept

    def _write(self, room: Room, now: float, moves: Moves) -> None:
        """Every verified chunk once, oldest first within a class, as far as there is room and the device keeps up.

        What waits stays evictable: a chunk that is being written cannot leave DRAM, so only so much is in flight that the device
        is busy.
        """
        count = min(self._unwritten.count(room.class_id), self._write_budget(room))
        if count <= 0:
            return
        if (lacking := count - room.nvme_free) > 0:
            donor = self._nvme.donor(room.class_id)
            if donor is not None and now >= self._search_at:
                moves.donate.append(self._donation(donor, room))
                count = room.nvme_free
            else:
                kept = self._is_read_from_nvme if self._waiting or self._reading else None
                victims = self._nvme.victims(room.class_id, lacking + SPARE_VICTIMS, kept=kept)
                moves.drop.extend(victims[:lacking])
                count = min(count, room.nvme_free + len(moves.drop))
        begun = self._unwritten.victims(room.class_id, count)
        for key in begun:
            self._unwritten.discard(key)
        self._writing.update(dict.fromkeys(begun, (room.class_id, room.stride_bytes)))
        self._writes[room.class_id] += len(begun)
        self._write_bytes += room.stride_bytes * len(begun)
        moves.write.extend(begun)

    def _is_read_from_nvme(self, key: bytes) -> bool:
        return key in self._waiting or key in self._reading

    def _write_budget(self, room: Room) -> int:
        """Writes that may begin; a single one always may, however large."""
        budget = min(MAX_WRITES - len(self._writing), (MAX_WRITE_BYTES - self._write_bytes) // room.stride_bytes)
        if not self._writing:
            budget = max(budget, 1)
        return min(budget, max(room.dram_total // WRITE_SHARE, 1) - self._writes[room.class_id])

    def _donation(self, donor: int, room: Room) -> Donation:
        """As many extents as what waits needs. The others in an extent may be younger than its oldest, but while one stays the
        extent cannot change its class."""
        slots_per_extent = max(EXTENT_BYTES // room.stride_bytes, 1)
        extents = min(-(-self._unwritten.count(room.class_id) // slots_per_extent), MAX_EXTENTS)
        return Donation(room.class_id, self._nvme.victims(donor, DONOR_WINDOW), extents)

    def _end_write(self, key: bytes) -> int | None:
        """The class of a chunk that was being written."""
        written = self._writing.pop(key, None)
        if written is None:
            return None
        class_id, stride_bytes = written
        self._writes[class_id] -= 1
        self._write_bytes -= stride_bytes
        return class_id

    def _left_dram(self, key: bytes) -> None:
        self._unwritten.discard(key)
        self._failed.discard(key)
        self._awaited.pop(key, None)
