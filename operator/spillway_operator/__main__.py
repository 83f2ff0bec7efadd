"""The operator's process: `python -m spillway_operator`.

Serve /healthz at once, wait for the Lease, then work: the controller, kopf and the renewal of the Lease run
until a signal or until one of them ends. A lost Lease ends the process, never only a task.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import uuid

import kopf
import structlog

from spillway_operator import handlers
from spillway_operator.controller.controller import Controller
from spillway_operator.controller.http_server import start_http_server
from spillway_operator.controller.lease import Lease, watch_renewal
from spillway_operator.controller.settings import LEASE_NAME, OperatorSettings
from spillway_operator.kube.access import find_access
from spillway_operator.kube.client import ApiServer, load_configuration
from spillway_operator.kube.reader import ApiReader
from spillway_operator.logs import configure_logging
from spillway_operator.stalls import spare_what_stays

log = structlog.get_logger()


async def run(settings: OperatorSettings) -> int:
    """Run until stopped; the exit status."""
    configuration = load_configuration()
    # The Lease has connections of its own: a burst of reconciles must not delay its renewal.
    lease_api = ApiServer(configuration, workers=2)
    identity = f"{settings.pod_name}_{uuid.uuid4()}"
    lease = Lease(lease_api, settings.namespace, LEASE_NAME, identity)
    server = await start_http_server(settings.http_port, is_ready=lambda: True)
    stop = asyncio.Event()
    _stop_on_signals(stop)
    try:
        if not await _first(stop, asyncio.create_task(lease.acquire(), name="lease")):
            return 0
        watch_renewal(lease)
        return await _work(settings, lease, stop)
    finally:
        await lease.release()
        await server.cleanup()
        await lease_api.close()


async def _work(settings: OperatorSettings, lease: Lease, stop: asyncio.Event) -> int:
    api = ApiServer(load_configuration())
    holding = asyncio.create_task(lease.hold(), name="lease")
    try:
        controller = await Controller.start(api, settings)
        async with ApiReader(find_access()) as reader:
            parts = [
                holding,
                asyncio.create_task(controller.run(reader), name="controller"),
                asyncio.create_task(_run_kopf(stop), name="kopf"),
            ]
            if not await _first(stop, *parts):
                return 0
        log.error("a part of the operator ended by itself", parts=[task.get_name() for task in parts if task.done()])
        return 1
    finally:
        # Renewed no more, but ours for 7 s yet, within which the last write has ended: a standby that got the Lease before could
        # be overtaken by it.
        holding.cancel()
        lease.releasable = await api.close()


async def _run_kopf(stop: asyncio.Event) -> None:
    ready = asyncio.Event()

    async def reclaim_signals() -> None:
        # kopf takes the signals for itself, and then waits 5 s for tasks that are ours; ours end in a moment.
        await ready.wait()
        _stop_on_signals(stop)

    async with asyncio.TaskGroup() as group:
        group.create_task(reclaim_signals())
        group.create_task(
            kopf.operator(
                registry=handlers.registry,
                # kopf would look the user up by its id, which a container image does not know.
                identity="spillway-operator",  # type: ignore[arg-type]
                clusterwide=True,
                standalone=True,
                ready_flag=ready,
            )
        )


async def _first(stop: asyncio.Event, *tasks: asyncio.Task[None]) -> bool:
    """Wait for the first of `tasks`, or for `stop`; cancel the rest. Returns whether it was a task that ended.

    Raises what the task raised.
    """
    stopping = asyncio.create_task(stop.wait(), name="stop")
    done, pending = await asyncio.wait({stopping, *tasks}, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    if stopping in done or stop.is_set():
        return False
    for task in done:
        task.result()
    return True


def _stop_on_signals(stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)


def main() -> int:
    """Parse the environment, run, and return the exit status."""
    settings = OperatorSettings()
    configure_logging(settings.log_level)
    spare_what_stays()
    return asyncio.run(run(settings))


if __name__ == "__main__":
    sys.exit(main())
