"""`python -m spillway_operator.webhook`: serve until SIGTERM."""

from __future__ import annotations

import asyncio
import signal

from spillway_operator.kube.access import find_access
from spillway_operator.logs import configure_logging
from spillway_operator.stalls import spare_what_stays
from spillway_operator.webhook.server import serve
from spillway_operator.webhook.settings import WebhookSettings


async def run() -> None:
    """Serve until the process is told to end; reviews in flight are answered first."""
    settings = WebhookSettings()
    configure_logging(settings.log_level)
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    async with serve(settings, find_access()):
        await ended.wait()


if __name__ == "__main__":
    spare_what_stays()
    asyncio.run(run())
