"""Run before a release is installed or upgraded, by the chart's Job: `python -m spillway_operator.upgrade`.

What it says goes to stdout in plain lines: `helm upgrade` shows them to a person.
"""

from __future__ import annotations

import asyncio
import sys

from spillway_operator.controller.crd_upgrade import upgrade_crd
from spillway_operator.kube.client import ApiServer, load_configuration
from spillway_operator.kube.errors import ApiError
from spillway_operator.logs import configure_logging


async def run() -> str:
    """Upgrade the CRD; what was done."""
    api = ApiServer(load_configuration())
    try:
        return await upgrade_crd(api)
    finally:
        await api.close()


def main() -> int:
    """Return 0 when the CRD serves this version or a newer one, 1 when it could not be brought there: the Job tries again."""
    configure_logging("Warning")
    try:
        line = asyncio.run(run())
    except (ApiError, TimeoutError) as error:
        sys.stdout.write(f"the CRD could not be upgraded: {error or 'it was not established in time'}\n")
        return 1
    sys.stdout.write(f"{line}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
