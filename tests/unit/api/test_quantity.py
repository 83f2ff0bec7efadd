"""Kubernetes quantities as numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spillway_operator.api.quantity import (
    format_bytes,
    format_millicores,
    parse_bytes,
    parse_duration_seconds,
    parse_millicores,
)


@pytest.mark.parametrize(
    ("quantity", "size_bytes"),
    [
        ("1Ki", 1024),
        (7, 7),
        ("1.5Gi", 3 << 29),
        ("2k", 2000),
        ("1e3", 1000),
        ("500m", 1),
        ("1E", 10**18),
        ("2Ei", 2 << 60),
    ],
)
def test_bytes(quantity: str | int, size_bytes: int) -> None:
    assert parse_bytes(quantity) == size_bytes


@pytest.mark.parametrize(
    ("quantity", "millicores"), [("2", 2000), ("0.5", 500), ("250m", 250), (1, 1000), ("1k", 10**6)]
)
def test_millicores(quantity: str | int, millicores: int) -> None:
    assert parse_millicores(quantity) == millicores


@pytest.mark.parametrize("text", ["", "64GB", "-1", "Gi", "1 Gi"])
def test_what_is_no_quantity(text: str) -> None:
    with pytest.raises(ValueError, match="is no quantity"):
        parse_bytes(text)


@pytest.mark.parametrize("text", ["", "5", "1d", "1.5s", "-1s"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is no duration"):
        parse_duration_seconds(text)


@given(st.integers(0, 1 << 62))
def test_bytes_round_trip(size_bytes: int) -> None:
    assert parse_bytes(format_bytes(size_bytes)) == size_bytes


@given(st.integers(0, 10**7))
def test_millicores_round_trip(millicores: int) -> None:
    assert parse_millicores(format_millicores(millicores)) == millicores
