"""The Rust core: `Plane` for the sidecar, `Attachment` for the engine. One call is one batch; no payload byte becomes
a Python object.

Keys: an engine's key is 36 bytes (32-byte block hash, 4-byte big-endian group index); the index knows a chunk by its
16-byte `key16`,
which also covers the fingerprint. Slots are int32, native byte order: byte offset in the arena / 4096.
Source of every layout: docs/formats.md.
"""

from typing import Any, Final, final

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
    "EV_ADOPTED",
    "EV_ENGINE_ATTACHED",
    "EV_ENGINE_DEAD",
    "EV_ENGINE_READY",
    "EV_ENGINE_REFUSED",
    "EV_FREED",
    "EV_INSERTED",
    "EV_LEASE_WANTED",
    "EV_NVME_STATE",
    "EV_PROMOTE",
    "EV_QUARANTINED",
    "EV_READ",
    "EV_SCANNED",
    "EV_SCAN_DONE",
    "EV_USED",
    "EV_WRITTEN",
    "EXTENT_BYTES",
    "HEADER_BYTES",
    "HIT",
    "KEY_BYTES",
    "MAX_GRANTED",
    "MAX_GROUPS",
    "MAX_RANKS",
    "MAX_TICKETS",
    "MAX_TICKET_SLOTS",
    "MISS",
    "NVME",
    "NVME_ACTIVE",
    "NVME_BROKEN",
    "NVME_OFF",
    "NVME_SCANNING",
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
    "AttachError",
    "Attachment",
    "CoreError",
    "NvmeOptions",
    "Plane",
    "PlaneBusy",
    "PlaneError",
    "SidecarAbsent",
    "__version__",
]

__version__: Final[str]

# Sizes of docs/formats.md that callers need.
ABI: Final[int]
KEY_BYTES: Final[int]  # 36
HEADER_BYTES: Final[int]  # 4096: payload starts here in a slot
PAGE_BYTES: Final[int]  # 4096: a slot number times this is its offset in the arena
EXTENT_BYTES: Final[int]  # 64 MiB
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
COUNT_LOADED_CHUNKS: Final[int]
COUNT_STORED_CHUNKS: Final[int]
COUNT_GATE_DECLINED: Final[int]
COUNT_RING_FULL: Final[int]
COUNT_LOOKED_UP_TOKENS: Final[int]
COUNT_FAIL_OPEN: Final[int]
COUNT_LOADED_DRAM_TOKENS: Final[int]
COUNT_LOADED_NVME_TOKENS: Final[int]
COUNT_LOADED_OTHER_TOKENS: Final[int]
COUNTER_NAMES: Final[tuple[str, ...]]  # index -> name, the keys of stats()["engines"][i]["counters"]

# Events of Plane.poll: (kind, key16, a, b, c). Unused places are b"" and 0.
EV_INSERTED: Final[int]  # key16, class, stride, tag: a published chunk is HIT from now on
EV_PROMOTE: Final[int]  # key16, class, tag, deadline_ms: an engine wants this NVMe chunk; answer with Plane.read
EV_READ: Final[int]  # key16, outcome, class, nanoseconds: a read ended; OUT_OK means HIT from now on
EV_WRITTEN: Final[int]  # key16, outcome, class, 0: a write ended
EV_USED: Final[int]  # key16, tier bits, tag, 0: an engine used this chunk (a request's keys come suffix first)
EV_LEASE_WANTED: Final[int]  # tag, group, count: slots taken plus slots asked for in vain since the last such event
EV_FREED: Final[int]  # class, count, 0: DRAM slots are free again
EV_ENGINE_ATTACHED: Final[int]  # tag, ranks, groups
EV_ENGINE_READY: Final[int]  # tag, ranks, groups: geometry is known; grant leases now
EV_ENGINE_DEAD: Final[int]  # tag, leases returned, tickets returned
EV_SCANNED: Final[int]  # key16, class, stride, generation: found on NVMe after a start
EV_SCAN_DONE: Final[int]  # chunks found, slots in fault, 0
EV_QUARANTINED: Final[int]  # key16 (b"" if unknown), outcome code, tier bit, 0
EV_NVME_STATE: Final[int]  # NVME_* state, 0, 0; the reason is in stats()["nvme"]
# key16, class, tier bits, last_use: survived in the index; given once after open, least recent first
EV_ADOPTED: Final[int]
EV_ENGINE_REFUSED: Final[int]  # tag, REFUSED_* reason, 0

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
    """The other side speaks an ABI that this build does not know."""

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

        index_bytes is an upper bound. An NVMe tier that cannot be opened does not raise: report()["nvme"] says why
        and DRAM serves.
        Raises PlaneBusy, PlaneError.
        """

    def report(self) -> dict[str, Any]:
        """What open found: abi, adopted (bool), reason (why not), arena_bytes_asked, arena_bytes, entries (capacity),
        adopted_chunks, repaired_entries,
        quarantined_slots, requeued_slots, engines_kept, and nvme: {state, reason, message, slot_number, direct,
        adopted, rung, store_id, capacity_bytes}."""

    def poll(self, timeout_ms: int, max_events: int = 1024) -> list[tuple[int, bytes, int, int, int]]:
        """Do the plane's work, wait at most timeout_ms for more, return events in order.

        Releases the GIL. Call it at least every 200 ms: it also beats the heart, watches liveness and recycles.
        """

    def grant(self, tag: int, group: int, count: int) -> int:
        """Lease up to count free slots to an engine; the number granted."""

    def lease_account(self, tag: int, group: int) -> tuple[int, int] | None:
        """(class, slots granted and not taken yet); None for a group that cannot be granted to, now or any more."""

    def evict_dram(self, keys: list[bytes]) -> int:
        """Unlink chunks from DRAM (a copy on NVMe stays); the number accepted. EV_FREED follows once no reader can
        hold the slot.

        Refused: unknown, not in DRAM, being written to NVMe."""

    def evict_nvme(self, keys: list[bytes]) -> int:
        """Forget chunks on NVMe (a copy in DRAM stays); the number accepted. Refused: unknown, not there, being read
        or written."""

    def nvme_neighbours(self, keys: list[bytes], max_extents: int) -> list[bytes]:
        """Every chunk in the first max_extents NVMe extents that these keys lie in, in no order. Walks the whole index
        (9 ms per 2 Mi entries): for extents that shall change their class."""

    def set_nvme_deadline(self, deadline_seconds: float) -> None:
        """How long an I/O submitted from now on may take. Without a tier, or for 0, nothing happens."""

    def write(self, keys: list[bytes]) -> list[bool]:
        """Start writing chunks DRAM -> NVMe; EV_WRITTEN follows for each True.

        False: not in DRAM, already there or on its way, no NVMe slot of its class free, tier not usable."""

    def read(self, keys: list[bytes]) -> list[bool]:
        """Start promoting chunks NVMe -> DRAM; EV_READ follows for each True (a key already on its way is True again,
        with one event).

        False: no free DRAM slot, already in DRAM, gone, tier not usable."""

    def tiers(self, keys: list[bytes]) -> bytes:
        """One byte per key: tier bits, 0 when unknown."""

    def free_slots(self, class_id: int) -> int:
        """DRAM slots that a lease or a read of this class can get now, extents it could still draw included."""

    def total_slots(self, class_id: int) -> int:
        """DRAM slots this class has plus those of the extents it could still draw."""

    def classes(self) -> list[tuple[int, int]]:
        """(class id, stride in bytes) of every slot class known."""

    def nvme_slots(self, class_id: int) -> tuple[int, int]:
        """(free, total) NVMe slots of this class, counted like the DRAM ones; (0, 0) without the tier."""

    def stats(self) -> dict[str, Any]:
        """Counters since open and gauges:

        hop_bytes {engine_to_arena, arena_to_engine, arena_to_nvme, nvme_to_arena} (payload only), overhead_bytes
        (same keys: headers and padding),
        tiers {dram: {chunks, bytes, capacity_bytes, slots_free, slots_total}, nvme: {...}}, quarantined {outcome
        name: n}, invalid_ops {name: n},
        index_full, leases_out, pinned_slots, open_tickets, oldest_ticket_seconds, recycling_slots, quarantined_slots,
        reads_in_flight, writes_in_flight,
        io_errors, faulted_bytes, arena_poisoned, duplicates, nvme {state, reason, direct, rung, scan_done,
        late_ios, breaker_openings},
        engines [{tag, incarnation, state, ranks, groups, ready, alive, leases, tickets, ring_depth, step_epoch, fingerprint,
        counters {name: n}}].
        """

    def flush(self, deadline_seconds: float) -> int:
        """Wait for writes in flight and make them durable; the number that did not end in time. Releases the GIL.
        Events go on to the next poll."""

    def close(self) -> None:
        """Stop workers and unmap. Shared memory stays for the successor."""

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
        """Map the index once the sidecar made it. False: not yet, ask again; cheap when mapped."""

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

    def open_tickets(self) -> int: ...
    def granted(self, group: int) -> int:
        """Slots that lease can get now without asking."""

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
