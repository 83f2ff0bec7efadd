"""How long functions and classes under sidecar/ are, at one or more commits: `python tools/function_lengths.py [REVISION ...]`.

Prints per language the number of functions, their median and 95th percentile in lines, and the largest class: in Python a class, in
Rust all `impl` blocks of a type in one crate. Tests count for neither: Python's lie elsewhere, Rust's `tests` modules and folders are
left out. Without a revision: HEAD.
"""

from __future__ import annotations

import ast
import re
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

FUNCTION = re.compile(r"^\s*(?:pub(?:\([^)]*\))?\s+)?(?:const\s+|unsafe\s+|extern\s+\"C\"\s+)*fn\s+\w+")
IMPL = re.compile(r"^impl(?:<[^{]*?>)?\s+(?:.*\sfor\s+)?([A-Za-z_]\w*)")
TEST_MODULE = "#[cfg(test)]\nmod tests"


@dataclass
class Figures:
    """Lengths in lines."""

    functions: list[int] = field(default_factory=list)
    classes: Counter[str] = field(default_factory=Counter)

    def render(self) -> str:
        name, lines = self.classes.most_common(1)[0]
        p95 = statistics.quantiles(self.functions, n=20)[-1]
        return (
            f"{len(self.functions)} functions, median {statistics.median(self.functions):.0f}, p95 {p95:.0f}, "
            f"longest {max(self.functions)}; largest class {name}: {lines} lines"
        )


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout


def sources(revision: str, suffix: str) -> Iterator[tuple[str, str]]:
    """(path, text) of what is no test."""
    for path in git("ls-tree", "-r", "--name-only", revision, "sidecar/").splitlines():
        if path.endswith(suffix) and not {"tests", "benches"} & set(path.split("/")):
            yield path, git("show", f"{revision}:{path}")


def python(revision: str) -> Figures:
    figures = Figures()
    for _path, text in sources(revision, ".py"):
        for node in ast.walk(ast.parse(text)):
            lines = getattr(node, "end_lineno", 0) - getattr(node, "lineno", 0) + 1
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                figures.functions.append(lines)
            elif isinstance(node, ast.ClassDef):
                figures.classes[node.name] = max(figures.classes[node.name], lines)
    return figures


def rust(revision: str) -> Figures:
    """By indentation, which rustfmt guarantees: an item ends at the first line of a lone brace at its own depth."""
    figures = Figures()
    for path, text in sources(revision, ".rs"):
        crate = path.split("/src/")[0].rsplit("/", 1)[-1]
        lines = text.split(TEST_MODULE)[0].splitlines()
        for at, line in enumerate(lines):
            indent = line[: len(line) - len(line.lstrip())]
            if FUNCTION.match(line):
                figures.functions.append(_item_lines(lines, at, indent))
            elif found := IMPL.match(line):
                figures.classes[f"{crate}::{found[1]}"] += _item_lines(lines, at, indent)
    return figures


def _item_lines(lines: list[str], at: int, indent: str) -> int:
    if lines[at].rstrip().endswith(("}", ";")):
        return 1
    end = next((end for end in range(at + 1, len(lines)) if lines[end] in (f"{indent}}}", f"{indent};")), at)
    return end - at + 1


def main(revisions: list[str]) -> None:
    for revision in revisions or ["HEAD"]:
        for language, figures in (("Python", python(revision)), ("Rust", rust(revision))):
            sys.stdout.write(f"{revision} {language}: {figures.render()}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
