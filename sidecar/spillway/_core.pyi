"""The Rust core: `Plane` for the sidecar, `Attachment` for the engine. One call is one batch; no payload byte becomes
a Python object.

Keys: an engine's key is 36 bytes (32-byte block hash, 4-byte big-endian group index); the index knows a chunk by its
16-byte `key16`,
which also covers the fingerprint. Slots are int32, native byte order: byte offset in the arena / 4096.
Source of every layout: docs/formats.md.
"""

from typing import Final, TypeAlias, final

from typing_extensions import disjoint_base

__all__ = [
    "ABI",
    "COUNTER_NAMES",
    "COUNT_FAIL_OPEN",
    "COUNT_GATE_DECLINED",
    "COUNT_HIT_KEYS",
    "COUNT_LOADED_CHUNKS",
    "COUNT_LOADED_DRAM_TOKENS",
    "COUNT_LOADED_NVME_TOKENS",
    "COUNT_LOADED_OTHER_TOKENS",
    "COUNT_LOAD_FAILURES",
    "COUNT_LOOKED_UP_TOKENS",
    "COUNT_LOOKUP_KEYS",
    "COUNT_MISS_KEYS",
    "COUNT_NVME_KEYS",
    "COUNT_RING_FULL",
    "COUNT_STORED_CHUNKS",
    "COUNT_STORE_DECLINED",
    "COUNT_STORE_ENDED",
    "EXTENT_BYTES",
    "HEADER_BYTES",
    "HIT",
    "KEY_BYTES",
    "MAX_GRANTED",
    "MAX_GROUPS",
    "MAX_RANKS",
    "MAX_TICKETS",
    "MAX_TICKET_SLOTS",
    "MIN_STRIDE_BYTES",
    "MISS",
    "NVME",
    "NVME_ACTIVE",
    "NVME_BROKEN",
    "NVME_OFF",
    "NVME_SCANNING",
    "OLDEST_ABI",
    "OUTCOME_NAMES",
    "OUT_CORRUPT_HEADER",
    "OUT_CORRUPT_PAYLOAD",
    "OUT_GONE",
    "OUT_IO_ERROR",
    "OUT_MISPLACED",
    "OUT_OK",
    "OUT_TIMEOUT",
    "OUT_WRONG_KEY",
    "PAGE_BYTES",
    "REFUSED_ABI",
    "REFUSED_FAULT",
    "REFUSED_GEOMETRY",
    "REFUSED_STALE",
    "REFUSED_TABLE_FULL",
    "STATE_ACCEPTED",
    "STATE_NEW",
    "STATE_REFUSED",
    "TIER_DRAM",
    "TIER_NVME",
    "AbiMismatch",
    "Adopted",
    "AttachError",
    "Attachment",
    "ClassRoom",
    "CoreError",
    "EngineAttached",
    "EngineDead",
    "EngineReady",
    "EngineRefused",
    "EngineStats",
    "Event",
    "Freed",
    "Inserted",
    "LeaseAccount",
    "LeaseWanted",
    "NvmeOptions",
    "NvmeReport",
    "NvmeState",
    "NvmeStats",
    "Plane",
    "PlaneBusy",
    "PlaneError",
    "Promote",
    "Quarantined",
    "Read",
    "Report",
    "ScanDone",
    "Scanned",
    "SidecarAbsent",
    "Stats",
    "TierStats",
    "UseOrder",
    "Used",
    "Written",
    "__version__",
]

__version__: Final[str]

# Sizes of docs/formats.md that callers need.
ABI: Final[int]
OLDEST_ABI: Final[int]  # of the other side
KEY_BYTES: Final[int]  # 36
HEADER_BYTES: Final[int]  # 4096: payload starts here in a slot
PAGE_BYTES: Final[int]  # 4096: a slot number times this is its offset in the arena
EXTENT_BYTES: Final[int]  # 64 MiB
MIN_STRIDE_BYTES: Final[int]  # 64 KiB: the smallest slot, and what the arena is rounded down to
MAX_RANKS: Final[int]  # 64
MAX_GROUPS: Final[int]  # 16
MAX_TICKETS: Final[int]  # 256 open tickets per incarnation
MAX_TICKET_SLOTS: Final[int]  # 1024 slots per ticket
MAX_GRANTED: Final[int]  # 1024 slots waiting per group

# Answers of Attachment.lookup, one byte per key.
MISS: Final[int]  # 0
HIT: Final[int]  # 1: in DRAM, verified, cannot be recycled before end_step
NVME: Final[int]  # 2: on NVMe, promotable

# Attachment.state
STATE_NEW: Final[int]  # 0: the sidecar has not seen this incarnation yet
STATE_ACCEPTED: Final[int]  # 1
STATE_REFUSED: Final[int]  # 2: refused or dropped by the sidecar; cold until the engine restarts

# Counters of Attachment.count, reported per engine in Plane.stats.
COUNT_LOOKUP_KEYS: Final[int]
COUNT_HIT_KEYS: Final[int]
COUNT_NVME_KEYS: Final[int]
COUNT_MISS_KEYS: Final[int]
COUNT_LOAD_FAILURES: Final[int]
COUNT_STORE_DECLINED: Final[int]
COUNT_STORE_ENDED: Final[int]
COUNT_LOADED_CHUNKS: Final[int]
COUNT_STORED_CHUNKS: Final[int]
COUNT_GATE_DECLINED: Final[int]
COUNT_RING_FULL: Final[int]
COUNT_LOOKED_UP_TOKENS: Final[int]
COUNT_FAIL_OPEN: Final[int]
COUNT_LOADED_DRAM_TOKENS: Final[int]
COUNT_LOADED_NVME_TOKENS: Final[int]
COUNT_LOADED_OTHER_TOKENS: Final[int]
COUNTER_NAMES: Final[tuple[str, ...]]  # index -> name, the keys of EngineStats.counters

# What `Plane.poll` gives: one class per kind. key: 16 bytes; class_id: the slot class; tag: the engine's number; tiers and
# tier: TIER_* bits; outcome: OUT_*.

@final
class Inserted:
    """A published chunk is HIT from now on."""

    key: Final[bytes]
    class_id: Final[int]
    tag: Final[int]

@final
class Promote:
    """An engine wants an NVMe chunk in DRAM, deadline_ms from now at the latest."""

    key: Final[bytes]
    class_id: Final[int]
    tag: Final[int]
    deadline_ms: Final[int]

@final
class Read:
    """A read NVMe -> DRAM ended; after OUT_OK the chunk is HIT."""

    key: Final[bytes]
    class_id: Final[int]
    outcome: Final[int]
    took_ns: Final[int]

@final
class Written:
    """A write DRAM -> NVMe ended."""

    key: Final[bytes]
    class_id: Final[int]
    outcome: Final[int]

@final
class Used:
    """A chunk was used; tiers: where it lay."""

    key: Final[bytes]
    tag: Final[int]
    tiers: Final[int]

@final
class LeaseWanted:
    """An engine took, or missed, count slots of a group since the last such event."""

    tag: Final[int]
    group: Final[int]
    count: Final[int]

@final
class Freed:
    """DRAM slots of a class are free again; count: those that an evicted chunk had."""

    class_id: Final[int]
    count: Final[int]

@final
class EngineAttached:
    """An incarnation was accepted."""

    tag: Final[int]
    ranks: Final[int]
    groups: Final[int]

@final
class EngineReady:
    """Its geometry is known; grant leases now."""

    tag: Final[int]
    ranks: Final[int]
    groups: Final[int]

@final
class EngineDead:
    """It is dead; so many leases and tickets are back."""

    tag: Final[int]
    leases: Final[int]
    tickets: Final[int]

@final
class EngineRefused:
    """An incarnation was refused (REFUSED_*); one that never got a number has no tag."""

    tag: Final[int | None]
    reason: Final[int]

@final
class Scanned:
    """A chunk was found on NVMe after a start."""

    key: Final[bytes]
    class_id: Final[int]
    generation: Final[int]

@final
class ScanDone:
    """The scan is over: chunks found, slots in fault."""

    chunks: Final[int]
    faults: Final[int]

@final
class Quarantined:
    """A chunk was quarantined in one tier; its key may be unreadable. OUT_GONE: it made room in the index, told once per tier."""

    key: Final[bytes | None]
    outcome: Final[int]
    tier: Final[int]

@final
class NvmeState:
    """The NVMe tier is in this NVME_* state now; the reason is in the stats."""

    state: Final[int]

@final
class Adopted:
    """A chunk survived in the index; told once after open, least recently used first."""

    key: Final[bytes]
    class_id: Final[int]
    tiers: Final[int]
    last_use: Final[int]

Event: TypeAlias = (
    Inserted
    | Promote
    | Read
    | Written
    | Used
    | LeaseWanted
    | Freed
    | EngineAttached
    | EngineReady
    | EngineDead
    | EngineRefused
    | Scanned
    | ScanDone
    | Quarantined
    | NvmeState
    | Adopted
)

TIER_DRAM: Final[int]  # 1, bit
TIER_NVME: Final[int]  # 2, bit

OUT_OK: Final[int]  # 0
OUT_CORRUPT_PAYLOAD: Final[int]  # 1
OUT_CORRUPT_HEADER: Final[int]  # 2
OUT_WRONG_KEY: Final[int]  # 3
OUT_MISPLACED: Final[int]  # 4
OUT_IO_ERROR: Final[int]  # 5
OUT_GONE: Final[int]  # 6
OUT_TIMEOUT: Final[int]  # 7
OUTCOME_NAMES: Final[tuple[str, ...]]  # index -> snake_case name, metric label

NVME_OFF: Final[int]  # 0: not configured, or not usable at open
NVME_SCANNING: Final[int]  # 1: serving, the scan runs behind
NVME_ACTIVE: Final[int]  # 2
NVME_BROKEN: Final[int]  # 3: breaker open; lookups answer MISS for what is only there

REFUSED_ABI: Final[int]  # 1
REFUSED_GEOMETRY: Final[int]  # 2: a slot would be empty or larger than 64 MiB, or ranks disagree with the header
REFUSED_FAULT: Final[int]  # 3: its control file was truncated
REFUSED_TABLE_FULL: Final[int]  # 4: more than 64 incarnations, or more than 64 strides
REFUSED_STALE: Final[int]  # 5: it was attached to an index or an arena that was replaced

class CoreError(Exception):
    """What the core raises; the message names the object, the value seen and what to do."""

class AttachError(CoreError):
    """The engine cannot attach; it runs cold."""

class AbiMismatch(AttachError):
    """The other side's ABI is neither this build's nor the one before or after."""

class SidecarAbsent(AttachError):
    """R/run is missing or not writable."""

class PlaneError(CoreError):
    """The sidecar cannot open its shared memory."""

class PlaneBusy(PlaneError):
    """Another daemon holds R/index/writer.lock."""

@final
class NvmeOptions:
    """What the NVMe tier shall be. direct: "auto" falls back to buffered with a visible condition, "required" turns
    the tier off instead, "off" is buffered."""

    def __new__(
        cls,
        *,
        capacity_bytes: int,
        slots: int = 1,
        io_threads: int = 8,
        direct: str = "auto",
        deadline_ms: int = 250,
        reserve_percent: int = 0,
    ) -> NvmeOptions: ...

@final
class NvmeReport:
    """The NVMe tier as open found it: NVME_* state, a stable reason and a sentence when it is off or slower than asked."""

    state: Final[int]
    reason: Final[str]
    message: Final[str]
    slot_number: Final[int]
    direct: Final[bool]
    adopted: Final[bool]
    rung: Final[str]
    store_id: Final[bytes]
    capacity_bytes: Final[int]

@final
class Report:
    """What open found. entries: the index's capacity; reason: why a predecessor's files were not adopted."""

    abi: Final[int]
    adopted: Final[bool]
    reason: Final[str]
    arena_bytes_asked: Final[int]
    arena_bytes: Final[int]
    entries: Final[int]
    adopted_chunks: Final[int]
    repaired_entries: Final[int]
    quarantined_slots: Final[int]
    requeued_slots: Final[int]
    engines_kept: Final[int]
    nvme: Final[NvmeReport]

@final
class TierStats:
    """One tier's figures; bytes is payload."""

    chunks: Final[int]
    bytes: Final[int]
    capacity_bytes: Final[int]

@final
class NvmeStats:
    """The NVMe tier now. rung: "io_uring_registered", "io_uring" or "threads", "" without a store; rung_refusals: why each
    better one is not used."""

    state: Final[int]
    reason: Final[str]
    direct: Final[bool]
    rung: Final[str]
    rung_refusals: Final[dict[str, str]]
    scan_done: Final[bool]
    late_ios: Final[int]
    breaker_openings: Final[int]

@final
class EngineStats:
    """One incarnation's figures. state: STATE_*; step_epoch: 0 outside a step."""

    tag: Final[int]
    incarnation: Final[bytes]
    state: Final[int]
    ranks: Final[int]
    groups: Final[int]
    ready: Final[bool]
    alive: Final[bool]
    leases: Final[int]
    tickets: Final[int]
    ring_depth: Final[int]
    step_epoch: Final[int]
    fingerprint: Final[bytes | None]
    counters: Final[dict[str, int]]

@final
class Stats:
    """Counters since open and gauges of now.

    hop_bytes: payload by hop (engine_to_arena, arena_to_engine, arena_to_nvme, nvme_to_arena); overhead_bytes: headers and
    padding by hop. tiers: by "dram" and "nvme". quarantined: by outcome. invalid_ops: by reason.
    promotions_*: chunks that engines wait for from NVMe now, asks that joined another's, asks of engines that wait for too much.
    engines_expelled: engines that are in a step now that was declared void."""

    hop_bytes: Final[dict[str, int]]
    overhead_bytes: Final[dict[str, int]]
    tiers: Final[dict[str, TierStats]]
    quarantined: Final[dict[str, int]]
    invalid_ops: Final[dict[str, int]]
    index_full: Final[int]
    promotions_waiting: Final[int]
    promotions_joined: Final[int]
    promotions_declined: Final[int]
    index_displaced: Final[int]
    panics_contained: Final[int]
    steps_expelled: Final[int]
    engines_expelled: Final[int]
    duplicates: Final[int]
    io_errors: Final[int]
    leases_out: Final[int]
    open_tickets: Final[int]
    oldest_ticket_seconds: Final[float]
    pinned_slots: Final[int]
    recycling_slots: Final[int]
    taken_slots: Final[int]
    quarantined_slots: Final[int]
    reads_in_flight: Final[int]
    writes_in_flight: Final[int]
    faulted_bytes: Final[int]
    entries: Final[int]
    arena_poisoned: Final[bool]
    fault_error: Final[str | None]
    nvme: Final[NvmeStats]
    engines: Final[list[EngineStats]]

@final
class ClassRoom:
    """Slots of one class in both tiers, those of extents that it could still draw included. Without a tier: 0.

    dram_to_come: slots of extents that are being vacated for the class; they count for no class in the others."""

    class_id: Final[int]
    stride_bytes: Final[int]
    dram_free: Final[int]
    dram_total: Final[int]
    dram_to_come: Final[int]
    nvme_free: Final[int]
    nvme_total: Final[int]

@final
class LeaseAccount:
    """A group that can be granted to. idle: slots granted and not taken yet, at most MAX_GRANTED. leased: slots of the class
    that its engine has in all, idle ones and those of its other groups included."""

    tag: Final[int]
    group: Final[int]
    class_id: Final[int]
    idle: Final[int]
    leased: Final[int]

@final
class Plane:
    """The sidecar's side. One owner thread; every method but close raises PlaneError after close."""

    @staticmethod
    def open(
        root: str,
        arena_bytes: int,
        index_bytes: int,
        nvme: NvmeOptions | None = None,
        *,
        lock_wait_seconds: float = 5.0,
        foreign_read_quarantine_seconds: float = 60.0,
        dead_grace_seconds: float = 2.0,
    ) -> Plane:
        """Map the surviving files under root or make new ones; never blocks on NVMe's scan nor on the pre-fault.

        index_bytes is an upper bound. An NVMe tier that cannot be opened does not raise: report().nvme says why
        and DRAM serves.
        Raises PlaneBusy, PlaneError.
        """

    def report(self) -> Report:
        """What open found."""

    def poll(self, timeout_ms: int, max_events: int = 1024) -> list[Event]:
        """Do the plane's work, wait at most timeout_ms for more, return events in order.

        Releases the GIL. Call it at least every 200 ms: it also beats the heart, watches liveness and recycles.
        """

    def grant(self, grants: list[tuple[int, int, int]]) -> list[int]:
        """Lease free slots to engines, each (tag, group, at most so many); the numbers granted."""

    def lease_accounts(self) -> list[LeaseAccount]:
        """Every group that can be granted to now: one with bytes, of an engine that is ready, lives and was not refused."""

    def recall(self, recalls: list[tuple[int, int, int]]) -> list[int]:
        """Take leases back that engines have not taken, each (tag, group, at most so many); the numbers that are free again."""

    def evict_dram(self, keys: list[bytes], *, spare_pinned: bool = False) -> list[bool]:
        """Unlink chunks from DRAM (a copy on NVMe stays). Freed follows once no reader can hold the slots.

        False: unknown, not in DRAM, being written to NVMe; with spare_pinned also what a load ticket holds now."""

    def vacate_dram(self, keys: list[bytes], class_id: int, max_extents: int) -> int:
        """Begin to vacate the first max_extents DRAM extents that these keys lie in for another class; how many.

        Nothing of them is handed out any more; each changes its class when the last of its slots is free, or stays as it was
        after 10 s. 0: none could hold a slot of the class, or the class is unknown."""

    def vacated_chunks(self) -> list[bytes]:
        """What must be evicted for the extents that are being vacated, as far as it can be now."""

    def evict_nvme(self, keys: list[bytes]) -> list[bool]:
        """Forget chunks on NVMe (a copy in DRAM stays). False: unknown, not there, being read or written."""

    def nvme_neighbours(self, keys: list[bytes], max_extents: int) -> list[bytes]:
        """Every chunk in the first max_extents NVMe extents that these keys lie in, in no order: for extents that
        shall change their class. Costs what they hold."""

    def set_nvme_deadline(self, deadline_seconds: float) -> None:
        """How long an I/O submitted from now on may take. Without a tier, or for 0, nothing happens."""

    def write(self, keys: list[bytes]) -> list[bool]:
        """Start writing chunks DRAM -> NVMe; Written follows for each True.

        False: not in DRAM, already there or on its way, no NVMe slot of its class free, tier not usable."""

    def read(self, keys: list[bytes]) -> list[bool]:
        """Start promoting chunks NVMe -> DRAM; Read follows for each True (a key already on its way is True again,
        with one event).

        False: no free DRAM slot, already in DRAM, gone, tier not usable."""

    def tiers(self, keys: list[bytes]) -> bytes:
        """One byte per key: tier bits, 0 when unknown."""

    def room(self) -> list[ClassRoom]:
        """The room of every slot class known."""

    def stats(self) -> Stats:
        """Counters since open and gauges of now."""

    def flush(self, deadline_seconds: float) -> int:
        """Wait for writes in flight and make them durable; the number that did not end in time. Releases the GIL.
        Events go on to the next poll."""

    def close(self) -> None:
        """Stop workers and unmap. Shared memory stays for the successor."""

@disjoint_base
class UseOrder:
    """Keys in order of use, apart for each class: 44 bytes a key, of which none is given back. Keys are 16 bytes, else ValueError."""

    def __new__(cls) -> UseOrder: ...
    def __len__(self) -> int: ...
    def __contains__(self, key: object, /) -> bool: ...
    def add(self, key: bytes, class_id: int) -> None:
        """Take a key in, or up, or to another class, as the most recently used of its class."""

    def touch(self, key: bytes) -> bool:
        """Make a known key the most recently used of its class; whether it is known."""

    def discard(self, key: bytes) -> bool:
        """Forget a key; whether it was known."""

    def class_of(self, key: bytes) -> int | None:
        """A key's class; None: it is unknown."""

    def count(self, class_id: int) -> int:
        """Keys of a class."""

    def oldest(self, class_id: int, count: int, after: bytes | None = None) -> list[bytes]:
        """At most count keys of a class, oldest first: from the oldest, or from the one after `after`, which must be
        of the class."""

    def spans(self) -> list[tuple[int, int, int]]:
        """Of each class that has keys: (class, when its oldest was used, when its youngest was), in uses counted."""

    def memory_bytes(self) -> int:
        """Bytes on the heap."""

@final
class Attachment:
    """The engine's side, one per role and process; several in one process share one descriptor of the control file.
    Never blocks.

    Apart from the constructor only ValueError is raised, for arguments of the wrong size.
    """

    def __new__(cls, root: str, incarnation: bytes, n_ranks: int, n_groups: int, rank: int) -> Attachment:
        """rank -1 is the scheduler. The first process of an incarnation makes its control file. incarnation: 16
        random bytes, never reused.

        Raises SidecarAbsent when R/run is missing, AbiMismatch, AttachError (also when the role is taken by another
        process)."""

    def try_map(self) -> bool:
        """Map the index once the sidecar made it. False: not yet, ask again; cheap when mapped. Raises AbiMismatch."""

    def declare_slices(self, slice_bytes: list[int]) -> None:
        """A rank says its bytes per chunk, one figure per group; 0: this rank holds nothing of the group."""

    def geometry(self) -> list[tuple[int, int, list[tuple[int, int]]]] | None:
        """Per group (stride, payload_bytes, [(offset from the slot's start, bytes) per rank]); None until every rank
        declared and the sidecar answered.

        A group without bytes is (0, 0, [(0, 0), ...])."""

    def state(self) -> tuple[int, int]:
        """(STATE_*, REFUSED_* reason or 0)."""

    def tag(self) -> int:
        """The sidecar's number for this incarnation; -1 until accepted."""

    def set_fingerprint(self, fingerprint: bytes) -> bool:
        """32 bytes; every later key is under it. False: ring full, ask again (until True the old one stays in force,
        none: all MISS)."""

    def begin_step(self) -> None:
        """From here to end_step no slot that a lookup answers HIT for is recycled."""

    def end_step(self) -> None:
        """The engine is quiescent: only leased slots and those in tickets may be touched."""

    def lookup(self, keys: bytes) -> bytes:
        """n x 36 bytes -> n bytes of MISS, HIT or NVME. Begins the step if none is open. All MISS while not mapped,
        not ready or without fingerprint.

        NVME needs a live sidecar and an open tier."""

    def promote(self, keys: bytes, groups: int | bytes, deadline_ms: int) -> int:
        """Ask for NVMe chunks in DRAM; how many leading keys fitted in the ring. groups: one group for all, or one
        byte per key."""

    def take_ticket(self, keys: bytes) -> tuple[int, bytes] | None:
        """Pin the slots of keys that are HIT now: (ticket id, int32 slots). None: not inside a step, a key is no HIT,
        or no ticket is free.

        At most MAX_TICKET_SLOTS keys (ValueError). Every rank must ack it; then the sidecar releases the pins."""

    def cancel_ticket(self, ticket: int) -> None:
        """Release a ticket that no rank has been told of."""

    def open_tickets(self) -> int:
        """Tickets that not all ranks have acknowledged yet. Without a sidecar too an acknowledged one makes room for the next."""

    def granted(self, group: int) -> int:
        """Slots that lease can get now without asking, unless the sidecar takes them back before."""

    def lease(self, group: int, count: int) -> bytes:
        """int32 slots to store into, at most count. What is missing is made known to the sidecar."""

    def release(self, group: int, slots: bytes) -> int:
        """Give leased slots back; how many leading ones fitted in the ring."""

    def publish(self, keys: bytes, group: int, slots: bytes) -> int:
        """n x 36 keys and n int32 leased slots, filled by all ranks; how many leading ones fitted in the ring."""

    def use(self, keys: bytes) -> None:
        """Say that these chunks were used, a request's suffix first. Dropped when the ring is nearly full."""

    def progress(self) -> int:
        """A word that changes whenever a key became hit or miss; 0 while not mapped."""

    def sidecar_alive(self) -> bool:
        """The sidecar's heartbeat is younger than 1 s."""

    def arena_path(self) -> str: ...
    def arena_bytes(self) -> int:
        """0 while not mapped."""

    def faulted_bytes(self) -> int:
        """Arena bytes, from its start, that are backed by memory charged to the sidecar."""

    def ack(self, ticket: int) -> None:
        """This rank's copy of the ticket's slots is done."""

    def count(self, counter: int, n: int) -> None:
        """Add n to a COUNT_* counter; the core itself counts nothing here, as a repeated lookup is no new one."""

    def close(self) -> None:
        """Give the role back; other attachments of this process stay."""
