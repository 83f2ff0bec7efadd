"""The engine's side is complete where it is put, and importing it needs nothing but Python."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from spillway.daemon.client_install import install


def test_installed_client_is_found_as_a_plugin_and_imports_alone(tmp_path: Path) -> None:
    folder = install(tmp_path)
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from importlib.metadata import entry_points\n"
        "found = [e for e in entry_points(group='vllm.general_plugins') if e.name == 'spillway']\n"
        "assert found and callable(found[0].load())\n"
        "import spillway; assert spillway.__file__.startswith(sys.argv[1]), spillway.__file__\n"
        "foreign = {'pydantic', 'structlog', 'aiohttp', 'torch', 'vllm'} & set(sys.modules)\n"
        "assert not foreign, foreign\n"
    )
    # -I -S: neither this environment's packages nor the working directory can help.
    subprocess.run([sys.executable, "-I", "-S", "-c", script, str(tmp_path / "current")], check=True)
    assert not (folder / "spillway" / "daemon").exists()


def test_second_installation_leaves_files_that_an_engine_may_have_mapped(tmp_path: Path) -> None:
    folder = install(tmp_path)
    shared_object = next((folder / "spillway").glob("_core*.so"))
    before = shared_object.stat()
    assert install(tmp_path) == folder
    after = shared_object.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert (tmp_path / "current").resolve() == folder
