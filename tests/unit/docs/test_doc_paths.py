"""Which backquoted words of a page count as paths, and which of those are there."""

from __future__ import annotations

from tools.doc_paths import main, missing

FILES = {"sidecar/core/engine/src/plane/recycle.rs", "docs/formats.md", "Makefile"}


def test_a_file_that_is_gone_is_named_with_its_line() -> None:
    page = "All of `plane/recycle.rs`, `formats.md` and `sidecar/core/`,\nbut `ticket.rs` and `docs/old.md`."
    assert list(missing(page, FILES)) == [(2, "ticket.rs"), (2, "docs/old.md")]


def test_what_is_no_path_of_the_repository_is_passed_over() -> None:
    page = "`/spillway/nvme`, `R/run/doorbell`, `spillway.dev/pool`, `make lint`, `slot-N`, `docs/*.md`, `2^32-1`, `Plane.open`"
    assert list(missing(page, FILES)) == []


def test_the_pages_name_what_is_there() -> None:
    assert main() == 0
