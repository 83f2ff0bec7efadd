"""KVCachePool as a whole: metadata that matters, spec, status."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pydantic import Field, ValidationError
from spillway.config import ConfigError

from spillway_operator.api.model import ApiModel
from spillway_operator.api.spec import PoolSpec
from spillway_operator.api.status import PoolStatus


class Metadata(ApiModel):
    """The part of an object's metadata that Spillway reads."""

    name: str
    namespace: str
    uid: str
    generation: int = 0
    resource_version: str = ""
    deletion_timestamp: datetime | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    finalizers: tuple[str, ...] = ()


class KVCachePool(ApiModel):
    """A KVCachePool as the API server stores it."""

    metadata: Metadata
    spec: PoolSpec
    status: PoolStatus = PoolStatus()


def parse_pool(stored: Mapping[str, Any]) -> KVCachePool:
    """Read a stored object. Raises ConfigError, which names the first field that does not fit."""
    try:
        return KVCachePool.model_validate(stored)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        path = ".".join(str(part) for part in first["loc"])
        raise ConfigError(
            path, first["msg"], "correct the pool, or update the operator to the CRD's version"
        ) from error
