"""vLLM's own sources of a version, from its source distribution on PyPI, made to run on the CPU environment of the tests.

There is one environment with compiled operators (`setup.sh`). Another minor's Python runs on those operators for the small dense models of
the tests, so a minor for which nobody builds for CPUs can be tested as a real engine too. The folder goes before the environment's
own on PYTHONPATH. Nothing of it is committed.

`python tests/vllm/sources.py VERSION` makes the folder below the cache and says where it is.
"""

from __future__ import annotations

import fcntl
import hashlib
import tarfile
import tempfile
from pathlib import Path
from urllib.parse import urljoin

import httpx
import typer
from rich.console import Console

from tests.vllm.kit import CACHE, ENVIRONMENT

INDEX = "https://pypi.org"
TESTS = "tests/v1/kv_connector"


def sources(version: str) -> Path:
    """The folder with `vllm/`, its tests of KV connectors, and metadata that calls it a build for CPUs. Safe to call again."""
    folder = CACHE / "vllm-sources" / version
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
                made = Path(scratch) / "made"
                _unpack(_fetch(version, Path(scratch)), made)
                metadata = made / f"vllm-{version}+cpu.dist-info"
                metadata.mkdir()
                (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n")
                # The model of the connector's tests is looked up by name; its configuration is all they need.
                model = made / "facebook/opt-125m/config.json"
                model.parent.mkdir(parents=True)
                model.write_text(
                    '{"model_type": "opt", "architectures": ["OPTForCausalLM"], "torch_dtype": "float16"}\n'
                )
                made.rename(folder)
    package = next((ENVIRONMENT / "venv").glob("lib/python3*/site-packages/vllm"))
    for operators in package.glob("*.so"):
        link = folder / "vllm" / operators.name
        link.unlink(missing_ok=True)
        link.symlink_to(operators)
    return folder


def _fetch(version: str, folder: Path) -> Path:
    """The source distribution, as the index describes it. Raises httpx.HTTPError, ValueError where it is not what it says."""
    releases = (
        httpx.get(f"{INDEX}/pypi/vllm/json", timeout=60, follow_redirects=True).raise_for_status().json()["releases"]
    )
    found = [file for file in releases.get(version, []) if file["packagetype"] == "sdist"]
    if not found:
        raise ValueError(f"vLLM {version} has no source distribution on PyPI")
    path, digest = folder / found[0]["filename"], hashlib.sha256()
    url = urljoin(f"{INDEX}/simple/vllm/", found[0]["url"])
    with httpx.stream("GET", url, timeout=60, follow_redirects=True) as answer, path.open("wb") as file:
        for piece in answer.raise_for_status().iter_bytes(1 << 20):
            digest.update(piece)
            file.write(piece)
    if digest.hexdigest() != found[0]["digests"]["sha256"]:
        raise ValueError(f"{url} is not what the index says: sha256 {digest.hexdigest()}")
    return path


def _unpack(archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as members:
        for member in members:
            _root, _, name = member.name.partition("/")
            parents = {"tests/__init__.py", "tests/v1/__init__.py"}
            if member.isfile() and (name.startswith(("vllm/", f"{TESTS}/")) or name in parents):
                member.name = name
                members.extract(member, folder, filter="data")


def main(version: str) -> None:
    Console(soft_wrap=True, highlight=False).print(sources(version))


if __name__ == "__main__":
    typer.run(main)
