"""What every model of the API shares: camelCase on the wire, frozen, CEL rules for the API server beside the fields."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel


class ApiModel(BaseModel):
    """Base of the models of KVCachePool.

    Unknown fields are ignored on reading: the API server prunes what its CRD does not know, so an unknown field means
    only that the CRD is newer than this process, as it is for a moment in every upgrade.
    """

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, frozen=True, extra="ignore")


def rules(*pairs: tuple[str, str]) -> ConfigDict:
    """Model configuration that carries CEL rules into the CRD: pairs of (rule, message)."""
    schema: dict[str, Any] = {
        "x-kubernetes-validations": [{"rule": rule, "message": message} for rule, message in pairs]
    }
    return ConfigDict(json_schema_extra=schema)


def map_list(*keys: str) -> dict[str, Any]:
    """Schema extension of a list whose items are identified by `keys`, so that server-side apply merges them."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": list(keys)}
