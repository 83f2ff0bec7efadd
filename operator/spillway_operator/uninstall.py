"""Run before the release is removed, by the chart's pre-delete Job: `python -m spillway_operator.uninstall`.

What it says goes to stdout in plain lines: `helm uninstall` shows them to a person.
"""

from __future__ import annotations

import asyncio
import sys

from spillway_operator.controller.settings import UninstallSettings
from spillway_operator.controller.uninstall import Uninstallation
from spillway_operator.kube.client import ApiServer, load_configuration
from spillway_operator.kube.errors import ApiError
from spillway_operator.logs import configure_logging


async def run(settings: UninstallSettings) -> list[str]:
    """Let every pool go; what was left where."""
    api = ApiServer(load_configuration())
    try:
        return await Uninstallation(api, settings.namespace, settings.finish_seconds).run()
    finally:
        await api.close()


def main() -> int:
    """Return 0 when nothing holds a pool any more, 1 when the API server refused a step: the Job tries again."""
    configure_logging("Warning")
    try:
        lines = asyncio.run(run(UninstallSettings()))
    except ApiError as error:
        sys.stdout.write(f"pools could not be let go: {error}\n")
        return 1
    sys.stdout.writelines(f"{line}\n" for line in lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
