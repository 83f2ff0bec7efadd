"""Ask a ValidatingAdmissionPolicy of the rendered chart about one request, without an API server.

As the API server does it: the match conditions first, then variables as they are needed, then the validations. What CEL
has to say is real; that the API server takes the policy is for tests/e2e/test_policies.py.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import celpy
from celpy.adapter import json_to_cel
from celpy.celtypes import BoolType, IntType, ListType, StringType

Manifest = dict[str, Any]


def _split(text: StringType, separator: StringType) -> ListType:
    return ListType([StringType(part) for part in str(text).split(str(separator))])


def _join(parts: ListType, separator: StringType) -> StringType:
    return StringType(str(separator).join(str(part) for part in parts))


def _substring(text: StringType, start: IntType) -> StringType:
    return StringType(str(text)[int(start) :])


# What the API server's CEL has beyond the standard: k8s.io/apiserver/pkg/cel/library.
_FUNCTIONS = {"split": _split, "join": _join, "substring": _substring}


class Policy:
    """One policy; `find` takes it from a rendering."""

    def __init__(self, manifest: Manifest) -> None:
        self.spec: Manifest = manifest["spec"]
        self._environment = celpy.Environment()

    @classmethod
    def find(cls, manifests: list[Manifest], name: str) -> Policy:
        (found,) = [m for m in manifests if m["kind"] == "ValidatingAdmissionPolicy" and m["metadata"]["name"] == name]
        return cls(found)

    def evaluate(self, expression: str, names: Mapping[str, Any]) -> Any:
        program = self._environment.program(self._environment.compile(expression), functions=_FUNCTIONS)
        return program.evaluate(dict(names))

    def refusals(
        self,
        new: Manifest | None,
        *,
        old: Manifest | None = None,
        user: str = "system:serviceaccount:team-a:default",
        namespace: str = "team-a",
        operation: str = "CREATE",
        dry_run: bool = False,
    ) -> list[str]:
        """The messages of the validations that the request fails; empty where it passes or is none of the policy's."""
        request = {
            "object": json_to_cel(copy.deepcopy(new)),
            "oldObject": json_to_cel(copy.deepcopy(old)),
            "request": json_to_cel(
                {"userInfo": {"username": user}, "namespace": namespace, "operation": operation, "dryRun": dry_run}
            ),
        }
        conditions = self.spec.get("matchConditions") or []
        if not all(self._holds(condition["expression"], request) for condition in conditions):
            return []
        names = {**request, "variables": json_to_cel({})}
        for variable in self.spec.get("variables") or []:
            names["variables"][StringType(variable["name"])] = self.evaluate(variable["expression"], names)
        return [v["message"] for v in self.spec["validations"] if not self._holds(v["expression"], names)]

    def _holds(self, expression: str, names: Mapping[str, Any]) -> bool:
        result = self.evaluate(expression, names)
        assert isinstance(result, BoolType), f"{expression!r} gives {result!r}"
        return bool(result)
