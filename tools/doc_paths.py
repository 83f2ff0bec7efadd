"""`python tools/doc_paths.py`: every path in backquotes in README.md, CONTRIBUTING.md and docs/ exists.

A path of this repository is what begins with one of its folders or ends with one of our suffixes, and is no pattern, command or
place in a pod. A name without a folder may be a file of any folder, so a page can name neighbours briefly.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
PAGES: Final = ("README.md", "CONTRIBUTING.md", "docs/**/*.md")
CODE: Final = re.compile(r"`([^`\n]+)`")
PATH: Final = re.compile(r"[\w.-]+(?:/[\w.-]+)*/?")
SUFFIXES: Final = (".py", ".rs", ".md", ".sh", ".toml", ".yaml", ".pyi")
# Made by the build or at run time, and named as such.
NOT_IN_GIT: Final = ("build/",)


def main() -> int:
    """Print every path that is not there; 1 if there is one."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout.split(
        "\n"
    )
    files = {name for name in listed if name and (ROOT / name).exists()}
    found = False
    for page in [page for pattern in PAGES for page in sorted(ROOT.glob(pattern))]:
        for number, path in missing(page.read_text(), files):
            print(f"{page.relative_to(ROOT)}:{number}: `{path}` does not exist")
            found = True
    return 1 if found else 0


def missing(page: str, files: set[str]) -> Iterator[tuple[int, str]]:
    """Line and name of each path in a page's text that is neither one of `files` (from the repository's root) nor a folder of one."""
    ends = {f"/{name}" for name in files} | {f"/{folder}" for name in files for folder in folders(name)}
    for number, line in enumerate(page.split("\n"), start=1):
        for text in CODE.findall(line):
            if is_path(text, files) and not any(end.endswith(f"/{text.rstrip('/')}") for end in ends):
                yield number, text


def folders(name: str) -> Iterator[str]:
    """Every folder above a file."""
    parts = name.split("/")[:-1]
    return ("/".join(parts[: depth + 1]) for depth in range(len(parts)))


def is_path(text: str, files: set[str]) -> bool:
    """Whether this is meant as a file or folder of the repository."""
    if not PATH.fullmatch(text) or text.startswith(NOT_IN_GIT):
        return False
    tops = {name.split("/")[0] for name in files}
    return text.endswith(SUFFIXES) or ("/" in text and text.split("/")[0] in tops)


if __name__ == "__main__":
    sys.exit(main())
