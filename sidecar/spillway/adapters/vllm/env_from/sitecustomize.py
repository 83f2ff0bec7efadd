"""Name Spillway in a VLLM_PLUGINS that came by envFrom, which nobody can read at admission.

Python imports a module of this name at its start. The webhook puts this folder on PYTHONPATH only where the engine's container has an
envFrom and no VLLM_PLUGINS of its own. The image's own sitecustomize runs after this one; what either raises Python reports, and goes on.
"""

import os
import sys

PLUGINS, PLUGIN = "VLLM_PLUGINS", "spillway"


def name_plugin() -> None:
    """Where the variable is not set vLLM loads every plugin, and setting it would keep it from others."""
    listed = os.environ.get(PLUGINS)
    if listed is not None and PLUGIN not in listed.split(","):
        os.environ[PLUGINS] = f"{listed},{PLUGIN}" if listed else PLUGIN


def import_next() -> None:
    """The module of this name that Python would have found without us, in this one's place."""
    from importlib.machinery import PathFinder
    from importlib.util import module_from_spec

    # Without pathlib: every Python of the container runs this.
    here = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120
    others = [path for path in sys.path if os.path.abspath(path) != here]  # noqa: PTH100
    spec = PathFinder.find_spec("sitecustomize", others)
    if spec is None or spec.loader is None:
        return
    sys.modules["sitecustomize"] = module = module_from_spec(spec)
    spec.loader.exec_module(module)


name_plugin()
import_next()
