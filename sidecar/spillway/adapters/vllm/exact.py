"""Values as canonical JSON can hold them."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import torch

from spillway.client.identity import IdentityUnknown


def exact(value: Any, field: str) -> Any:
    """A value as canonical JSON can hold it, or IdentityUnknown."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value.hex()
    if isinstance(value, (torch.dtype, Fraction)):
        return str(value)
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, Mapping):
        return {str(key): exact(item, f"{field}.{key}") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [exact(item, field) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(str(item) for item in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        items = {item.name: getattr(value, item.name) for item in dataclasses.fields(value)}
        return {"class": type(value).__name__, **exact(items, field)}
    raise IdentityUnknown(field, f"a {type(value).__name__} has no exact form")
