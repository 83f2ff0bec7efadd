"""Kubernetes quantities and durations as the API server stores them, and as numbers.

A quantity arrives as an integer or a string and stays as written until somebody asks for bytes or millicores.
"""

from __future__ import annotations

import re
from decimal import ROUND_CEILING, Decimal
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator, WithJsonSchema

# Whole or decimal, no sign, no exponent: "64Gi", "1.5Ti", "500M", 1073741824.
BYTES_PATTERN: Final = r"^[0-9]+(\.[0-9]+)?(Ki|Mi|Gi|Ti|Pi|k|M|G|T|P)?$"
# "2", "0.5", "500m".
CPU_PATTERN: Final = r"^([0-9]+(\.[0-9]{1,3})?|[0-9]+m)$"
DURATION_PATTERN: Final = r"^([0-9]+(ms|s|m|h))+$"
MAX_QUANTITY_LENGTH: Final = 32

_SCALES: Final = {
    "": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15, "E": 10**18,
    "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50, "Ei": 2**60,
}  # fmt: skip
_QUANTITY: Final = re.compile(r"^([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE]([+-]?[0-9]+)|(m|[KMGTPE]i|[kMGTPE])?)$")
_DURATION_PART: Final = re.compile(r"([0-9]+)(ms|s|m|h)")
_DURATION_SCALES: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def _parse_quantity(quantity: str | int | float) -> Decimal:
    match = _QUANTITY.match(str(quantity))
    if match is None:
        raise ValueError(f"{quantity!r} is no quantity; write it like 64Gi, 500M or 2")
    number, exponent, suffix = match.groups()
    if exponent is not None:
        return Decimal(number).scaleb(int(exponent))
    if suffix == "m":
        return Decimal(number) / 1000
    return Decimal(number) * _SCALES[suffix or ""]


def parse_bytes(quantity: str | int | float) -> int:
    """Bytes of any Kubernetes quantity, rounded up. Raises ValueError for what is no quantity."""
    return int(_parse_quantity(quantity).to_integral_value(rounding=ROUND_CEILING))


def parse_millicores(quantity: str | int | float) -> int:
    """Thousandths of a CPU of any Kubernetes quantity, rounded up. Raises ValueError for what is no quantity."""
    return int((_parse_quantity(quantity) * 1000).to_integral_value(rounding=ROUND_CEILING))


def parse_duration_seconds(duration: str) -> float:
    """Seconds of a duration like "250ms" or "1h30m". Raises ValueError for what is none."""
    if not re.match(DURATION_PATTERN, duration):
        raise ValueError(f"{duration!r} is no duration; write it like 250ms, 90s or 1h30m")
    return sum(int(number) * _DURATION_SCALES[unit] for number, unit in _DURATION_PART.findall(duration))


def format_bytes(size_bytes: int) -> str:
    """The shortest exact quantity with a binary suffix: 68719476736 -> "64Gi"."""
    for suffix in ("Pi", "Ti", "Gi", "Mi", "Ki"):
        if size_bytes and size_bytes % _SCALES[suffix] == 0:
            return f"{size_bytes // _SCALES[suffix]}{suffix}"
    return str(size_bytes)


def format_millicores(millicores: int) -> str:
    """A CPU quantity: 2000 -> "2", 500 -> "500m"."""
    return str(millicores // 1000) if millicores % 1000 == 0 else f"{millicores}m"


def _as_text(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _matching(pattern: str, example: str) -> AfterValidator:
    compiled = re.compile(pattern)

    def check(value: str) -> str:
        if len(value) > MAX_QUANTITY_LENGTH or not compiled.match(value):
            raise ValueError(f"{value!r} does not match {pattern}; write it like {example}")
        return value

    return AfterValidator(check)


def _int_or_string(pattern: str) -> WithJsonSchema:
    return WithJsonSchema(
        {
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "x-kubernetes-int-or-string": True,
            "pattern": pattern,
            "maxLength": MAX_QUANTITY_LENGTH,
        }
    )


BytesQuantity = Annotated[
    str, BeforeValidator(_as_text), _matching(BYTES_PATTERN, "64Gi"), _int_or_string(BYTES_PATTERN)
]
CpuQuantity = Annotated[str, BeforeValidator(_as_text), _matching(CPU_PATTERN, "500m"), _int_or_string(CPU_PATTERN)]
Duration = Annotated[
    str,
    _matching(DURATION_PATTERN, "250ms"),
    WithJsonSchema({"type": "string", "pattern": DURATION_PATTERN, "maxLength": MAX_QUANTITY_LENGTH}),
]
