"""What the webhook writes into a pod and the daemon reads: the one truth about a sidecar's configuration.

`SidecarConfig` travels as JSON in the environment variable `SPILLWAY_CONFIG`, complete, so that a pod depends on no
object that the operator makes. `LiveOverrides` is the subset that may change while the pod runs; it travels in a ConfigMap
that is mounted optionally. Parse once, at the edge: `parse_sidecar_config` and `parse_live_overrides` raise `ConfigError`, which
names the field, the problem and the fix.

The webhook may be newer than a pod's sidecar (a pool can name an image), or older. So every field says what a sidecar does that
does not know it (`IGNORED`, `REFUSED`), and the rendered text lists in `requires` which of the second kind are not at their
defaults. A sidecar refuses the text if it does not know one of those, and passes over every other unknown field. A field that is
added later has a default, which means what was done before it was there.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator
from typing import Annotated, Any, Final, Literal, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

CONFIG_ENV: Final = "SPILLWAY_CONFIG"
# The key in the ConfigMap `<pool>-spillway`, and so the file's name below /spillway/config.
LIVE_OVERRIDES_FILE: Final = "overrides.json"
HTTP_PORT: Final = 9464
# An environment variable shares the kernel's limit for arguments with the engine's own; this leaves it alone.
MAX_RENDERED_BYTES: Final = 8 * 1024

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB

INDEX_ENTRY_BYTES: Final = 64
# Chunks aim at 1 MiB and more; a quarter of that leaves room for small KV groups.
SMALLEST_EXPECTED_CHUNK_BYTES: Final = 256 * KIB
MIN_INDEX_BYTES: Final = MIB
# 64 Mi entries, half of them used: 8 TiB of chunks of 256 KiB. Beyond it the index evicts before the tiers do.
MAX_INDEX_BYTES: Final = 4 * GIB
# What the daemon's heap holds beside what it knows of chunks: interpreter, threads, engines' books, I/O bounce buffers.
HEAP_BASE_BYTES: Final = 512 * MIB
# And for each chunk that the index is sized for: policy's records ...
POLICY_BYTES_PER_CHUNK: Final = 64
# ... and the core's book: 9 B a slot of NVMe, some 20 B one of DRAM, and four of the smallest slots take one chunk's place.
BOOK_BYTES_PER_CHUNK: Final = 64
MIN_DRAM_BYTES: Final = 64 * MIB
# What the webhook adds to the pod's grace period, and so what a flush at the pod's end may take at most.
FLUSH_SECONDS: Final = 30

# What a sidecar does that does not know the field: it runs without it, or not at all. `json_schema_extra` of each field.
UNKNOWN: Final = "x-unknown-to-sidecar"
IGNORED: Final[dict[str, Any]] = {UNKNOWN: "ignored"}
REFUSED: Final[dict[str, Any]] = {UNKNOWN: "refused"}
REQUIRES: Final = "requires"

DirectMode = Literal["Auto", "Required", "Off"]
LogLevel = Literal["Debug", "Info", "Warning", "Error"]
VolumeType = Literal["Ephemeral", "EmptyDir", "HostPath"]


class ConfigError(ValueError):
    """A configuration that cannot be used. `field` is a dotted path, `fix` tells a person what to do."""

    def __init__(self, field: str, problem: str, fix: str) -> None:
        super().__init__(f"{field}: {problem}; {fix}")
        self.field = field
        self.problem = problem
        self.fix = fix


def index_bytes(dram_bytes: int, nvme_bytes: int) -> int:
    """Size the index for both tiers: two entries of 64 B per chunk of 256 KiB beside its tables, rounded up to MiB.

    Two entries per chunk keep the table at most half full, where a probe of 32 entries practically always finds room.
    At least 1 MiB, at most 4 GiB.
    """
    chunks = -(-(dram_bytes + nvme_bytes) // SMALLEST_EXPECTED_CHUNK_BYTES)
    wanted = 2 * INDEX_ENTRY_BYTES * chunks + index_table_bytes(dram_bytes)
    return min(max(-(-wanted // MIB) * MIB, MIN_INDEX_BYTES), MAX_INDEX_BYTES)


def index_table_bytes(dram_bytes: int) -> int:
    """What the index file holds beside its entries: 16 B per 64 KiB of DRAM, 4 B per 64 MiB, five pages of the rest."""
    return 16 * -(-dram_bytes // (64 * KIB)) + 4 * -(-dram_bytes // (64 * MIB)) + 5 * 4 * KIB


def heap_bytes(index_bytes: int) -> int:
    """Size the daemon's heap for the chunks that an index of that size is for, rounded up to MiB."""
    chunks = index_bytes // (2 * INDEX_ENTRY_BYTES)
    known = chunks * (POLICY_BYTES_PER_CHUNK + BOOK_BYTES_PER_CHUNK)
    return HEAP_BASE_BYTES + -(-known // MIB) * MIB


def policy_bytes(heap_bytes: int) -> int:
    """What policy may use of a heap: its part of what `heap_bytes` adds to the base, and an eighth of one that is small."""
    known = max(heap_bytes - HEAP_BASE_BYTES, heap_bytes // 4)
    return known * POLICY_BYTES_PER_CHUNK // (POLICY_BYTES_PER_CHUNK + BOOK_BYTES_PER_CHUNK)


def _check_public_key(encoded: str) -> str:
    try:
        raw = base64.b64decode(encoded, validate=True)
    except binascii.Error as error:
        raise ValueError("is not base64") from error
    if len(raw) != 32:
        raise ValueError(f"holds {len(raw)} bytes where an Ed25519 public key has 32")
    return encoded


PublicKey = Annotated[str, AfterValidator(_check_public_key)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class PoolIdentity(_Frozen):
    """Which KVCachePool the pod joined. A pool made again under the same name has another uid and a cold disk."""

    namespace: str = Field(json_schema_extra=REFUSED, description="Namespace of the pool and of the pod.")
    name: str = Field(json_schema_extra=REFUSED, description="Name of the pool.")
    uid: str = Field(
        json_schema_extra=REFUSED, description="metadata.uid of the pool; part of what a store on disk belongs to."
    )


class DramConfig(_Frozen):
    """The DRAM tier."""

    capacity_bytes: int = Field(
        json_schema_extra=REFUSED, ge=MIN_DRAM_BYTES, description="Bytes of the arena, headers of the slots included."
    )


class NvmeConfig(_Frozen):
    """The NVMe tier: one preallocated store in a volume at /spillway/nvme."""

    capacity_bytes: int = Field(
        json_schema_extra=REFUSED, gt=0, description="Bytes of the store, all allocated when it is made."
    )
    reserve_percent: int = Field(
        json_schema_extra=REFUSED, ge=0, le=100, description="Share of the capacity that must stay free beyond it."
    )
    volume_type: VolumeType = Field(
        json_schema_extra=IGNORED, description="Where the volume comes from; HostPath outlives the pod."
    )
    slots: int = Field(
        json_schema_extra=REFUSED,
        default=1,
        ge=1,
        le=64,
        description="Stores that may stand side by side in the volume: pods per node on HostPath, where the volume is the pool's folder.",
    )
    direct: DirectMode = Field(
        json_schema_extra=REFUSED,
        default="Auto",
        description="O_DIRECT: Auto falls back to buffered I/O visibly, Required turns the tier off, Off is buffered.",
    )
    deadline_seconds: float = Field(
        json_schema_extra=IGNORED,
        default=0.25,
        gt=0,
        le=600,
        description="How long one read or write may take before the tier is suspected.",
    )
    io_threads: int = Field(
        json_schema_extra=IGNORED,
        default=8,
        ge=1,
        le=64,
        description="Threads that read and write where io_uring cannot, each one I/O at a time.",
    )


class SidecarConfig(_Frozen):
    """Everything that the sidecar needs to know to start."""

    pool: PoolIdentity = Field(json_schema_extra=REFUSED, description="The pool that the pod joined.")
    revision: str = Field(
        json_schema_extra=IGNORED,
        description="Short hash of this configuration and the sidecar's image; label spillway.dev/revision.",
    )
    cache_epoch: int = Field(
        json_schema_extra=REFUSED,
        default=0,
        ge=0,
        description="Part of every fingerprint: raising it forgets what was stored.",
    )
    dram: DramConfig = Field(json_schema_extra=REFUSED, description="The DRAM tier.")
    nvme: NvmeConfig | None = Field(
        json_schema_extra=IGNORED, default=None, description="The NVMe tier; absent: DRAM only."
    )
    index_bytes: int = Field(
        json_schema_extra=REFUSED,
        ge=MIN_INDEX_BYTES,
        le=MAX_INDEX_BYTES,
        description="Bytes of the lookup table; see the function index_bytes.",
    )
    heap_bytes: int = Field(
        json_schema_extra=IGNORED,
        default=HEAP_BASE_BYTES,
        ge=64 * MIB,
        description="What the daemon may use beside arena and index; see the function heap_bytes.",
    )
    http_port: int = Field(
        json_schema_extra=REFUSED,
        default=HTTP_PORT,
        ge=1,
        le=65535,
        description="Port of /healthz, /metrics and /status.",
    )
    log_level: LogLevel = Field(json_schema_extra=IGNORED, default="Info", description="Least level that is logged.")
    status_public_keys: tuple[PublicKey, ...] = Field(
        json_schema_extra=IGNORED,
        default=(),
        max_length=4,
        description="Raw Ed25519 public keys in base64; a token for /status must be signed by one of them.",
    )

    def render(self) -> str:
        """This configuration as the value of SPILLWAY_CONFIG: compact JSON. Raises ConfigError from 8 KiB on."""
        document = self.model_dump(mode="json", exclude_none=True)
        required = list(_required(self))
        if required:
            document[REQUIRES] = required
        text = json.dumps(document, separators=(",", ":"), ensure_ascii=False)
        if len(text.encode()) > MAX_RENDERED_BYTES:
            raise ConfigError(
                CONFIG_ENV, f"renders to {len(text.encode())} bytes", f"keep it below {MAX_RENDERED_BYTES}"
            )
        return text

    def with_overrides(self, overrides: LiveOverrides) -> SidecarConfig:
        """This configuration with what `overrides` sets put in its place."""
        changes: dict[str, object] = {}
        if overrides.log_level is not None:
            changes["log_level"] = overrides.log_level
        if overrides.nvme_deadline_seconds is not None and self.nvme is not None:
            changes["nvme"] = self.nvme.model_copy(update={"deadline_seconds": overrides.nvme_deadline_seconds})
        return self.model_copy(update=changes)


class LiveOverrides(_Frozen):
    """What may change while the pod runs. An absent field leaves what the pod was started with, and so does an unknown one."""

    log_level: LogLevel | None = Field(
        json_schema_extra=IGNORED, default=None, description="Replaces SidecarConfig.log_level."
    )
    nvme_deadline_seconds: float | None = Field(
        json_schema_extra=IGNORED,
        default=None,
        gt=0,
        le=600,
        description="Replaces NvmeConfig.deadline_seconds; ignored without an NVMe tier.",
    )

    def render(self) -> str:
        """The content of the file `overrides.json`."""
        return self.model_dump_json(exclude_none=True)


def parse_sidecar_config(text: str) -> SidecarConfig:
    """Read the value of SPILLWAY_CONFIG. Raises ConfigError for the first thing that is wrong, or for what this build must know."""
    config = _parse(SidecarConfig, text, CONFIG_ENV)
    required = json.loads(text).get(REQUIRES, [])
    if not isinstance(required, list):
        raise ConfigError(f"{CONFIG_ENV}.{REQUIRES}", f"is {required!r:.80}, not a list", "correct the value")
    for path in required:
        if not _is_known(SidecarConfig, str(path).split(".")):
            raise ConfigError(
                f"{CONFIG_ENV}.{path}", "is not known to this sidecar, and may not be ignored", _NEWER_IMAGE
            )
    return config


def parse_live_overrides(text: str) -> LiveOverrides:
    """Read the file `overrides.json`. Raises ConfigError for the first thing that is wrong."""
    return _parse(LiveOverrides, text, LIVE_OVERRIDES_FILE)


def _required(model: BaseModel, prefix: str = "") -> Iterator[str]:
    """The dotted names of fields that have a default, are not at it, and are marked REFUSED."""
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            yield from _required(value, f"{prefix}{name}.")
        mark = field.json_schema_extra
        if mark == REFUSED and not field.is_required() and value != field.default:
            yield f"{prefix}{name}"


def _is_known(model: type[BaseModel], path: list[str]) -> bool:
    field = model.model_fields.get(path[0])
    if field is None or len(path) == 1:
        return field is not None
    nested = [kind for kind in (field.annotation, *get_args(field.annotation)) if isinstance(kind, type)]
    return any(issubclass(kind, BaseModel) and _is_known(kind, path[1:]) for kind in nested)


Model = TypeVar("Model", bound=_Frozen)

_FIXES: Final = {
    "json_invalid": "write valid JSON",
    "missing": "add the field",
}
_NEWER_IMAGE: Final = "use a sidecar image that knows it"


def _parse(model: type[Model], text: str, source: str) -> Model:
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        path = ".".join([source, *(str(part) for part in first["loc"])])
        problem = first["msg"] if first["type"] in _FIXES else f"{first['msg']}, not {first['input']!r:.80}"
        raise ConfigError(path, problem, _FIXES.get(first["type"], "correct the value")) from error
