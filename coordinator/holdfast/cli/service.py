"""Runs one service to its end: event loop, signals, logging, metrics, liveness, watchdog.

1. Logging, the lifeline to a parent.
2. `/metrics` and `/livez`: a port in use must be known before a bus is begun or a slot is taken.
3. The bus, and the service starts; the watchdog watches the loop.
4. First SIGTERM or SIGINT: stop gracefully. Second: end at once; the journal has everything.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import re
import signal
import socket
import sys
import time
import uuid
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from holdfast.cli.failures import ExitCode
from holdfast.cli.lifeline import hold_lifeline

if TYPE_CHECKING:
    from holdfast.bus.port import Environment
    from holdfast.bus.slot import SlotHost
    from holdfast.cli.invocation import Invocation
    from holdfast.cli.settings import Settings

__all__ = ["Service", "ServiceOptions", "serve"]

logger = logging.getLogger(__name__)

STALLED_S = 15.0
"""A poll loop that has not come round for so long makes no progress."""
STARTING_S = 120.0
"""How long a start may take before `/livez` calls it stalled."""
COLLECT_AFTER = (50_000, 20, 50)
"""Objects made before a garbage collection, and how many of a generation before one of the next.

What a service makes in masses lives as long as a run, and is in no cycle; with the interpreter's
own (700, 10, 10) a quarter of the time of restoring 100,000 tasks went to looking at it again.
"""


class Service(Protocol):
    """What can be served: an agent's runtime, a source's, a coordinator."""

    @property
    def host(self) -> SlotHost:
        """What hosts its slots; raises `RuntimeError` before `start`."""
        ...

    async def start(self) -> None:
        """Join."""
        ...

    async def run(self) -> None:
        """Return when `stop` has finished; raise what ended the service before."""
        ...

    async def stop(self) -> None:
        """Finish or hand over, and leave."""
        ...


@dataclass(frozen=True, slots=True)
class ServiceOptions:
    """`name`: what logs call it. `instance`: its stable name; None: one of its own for each start,
    so that two that were started by hand never take each other's slots."""

    name: str
    instance: str | None = None
    metrics_port: str | None = None

    def instance_name(self) -> str:
        """Return the name that it is known by in its group."""
        if self.instance is not None:
            return self.instance
        host = re.sub(r"[^a-z0-9-]+", "-", socket.gethostname().lower()).strip("-")[:40]
        return f"{host or 'host'}-{uuid.uuid4().hex[:8]}"


Build = Callable[["Environment"], Service]


def serve(invocation: Invocation, options: ServiceOptions, build: Build) -> ExitCode:
    """Run a service until it is told to stop; return the exit code."""
    configure_logging(invocation.settings)
    hold_lifeline()
    gc.set_threshold(*COLLECT_AFTER)
    return run_loop(_serve(invocation, options, build))


def run_loop(work: Coroutine[Any, Any, ExitCode]) -> ExitCode:
    """Run `work` on uvloop."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


def configure_logging(settings: Settings) -> None:
    """Log to stderr: one line each, times in UTC."""
    logging.Formatter.converter = time.gmtime
    logging.basicConfig(
        level=settings.log_level.upper(),
        format="%(asctime)s.%(msecs)03dZ %(levelname)-7s %(name)s: %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S",
        stream=sys.stderr,
    )
    if settings.log_level != "debug":
        logging.getLogger("aiokafka").setLevel(logging.WARNING)


async def _serve(invocation: Invocation, options: ServiceOptions, build: Build) -> ExitCode:
    asked = _stop_on_signals()
    async with contextlib.AsyncExitStack() as stack:
        health = _Health(time.monotonic)
        if options.metrics_port is not None:
            await _serve_metrics(stack, options.metrics_port, health)
        environment = await stack.enter_async_context(
            invocation.environment(create=True, patient=True)
        )
        service = build(environment)
        if not await _unless_asked(service.start(), asked):
            return ExitCode.OK
        health.service = service
        _start_watchdog(stack, invocation.settings)
        logger.info("%s is ready (process %d)", options.name, os.getpid())
        return await _run(options.name, service, asked)


async def _run(name: str, service: Service, asked: asyncio.Event) -> ExitCode:
    running = asyncio.create_task(service.run())
    stopping = asyncio.create_task(asked.wait())
    await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if asked.is_set():
        logger.info("%s is stopping", name)
        await service.stop()
        logger.info("%s has stopped", name)
    try:
        await running
    except Exception:
        if asked.is_set():
            return ExitCode.OK
        logger.exception("%s cannot go on; restart and restore is the way back", name)
        return ExitCode.RESTART
    return ExitCode.OK


async def _unless_asked(work: Coroutine[Any, Any, None], asked: asyncio.Event) -> bool:
    """Await `work`; give it up, and return False, when a stop is asked for meanwhile."""
    starting = asyncio.create_task(work)
    stopping = asyncio.create_task(asked.wait())
    await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not starting.done():
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        return False
    await starting
    return True


def _stop_on_signals() -> asyncio.Event:
    asked = asyncio.Event()

    def ask() -> None:
        if asked.is_set():
            logger.warning("asked twice: ending at once")
            logging.shutdown()
            os._exit(ExitCode.INTERRUPTED)
        asked.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ask)
    return asked


async def _serve_metrics(stack: contextlib.AsyncExitStack, address: str, health: _Health) -> None:
    from holdfast.cli.metrics_server import MetricsServer, parse_address

    server = MetricsServer(health.problem)
    host, port = parse_address(address)
    bound = await server.start(host, port)
    stack.push_async_callback(server.close)
    logger.info("metrics at http://%s:%d/metrics, liveness at /livez", host, bound)


def _start_watchdog(stack: contextlib.AsyncExitStack, settings: Settings) -> None:
    from holdfast.bus.slot import Watchdog

    watchdog = Watchdog(session_timeout_s(settings) / 2)
    watchdog.start()
    stack.callback(watchdog.stop)


def session_timeout_s(settings: Settings) -> float:
    """Return how long a silent member of a group keeps its slots on this bus."""
    from holdfast.bus.settings import KafkaSettings, parse_bus_url

    parsed = parse_bus_url(settings.bus)
    if isinstance(parsed, KafkaSettings):
        return parsed.session_timeout_s
    from holdfast.bus.embedded import EmbeddedSettings

    return EmbeddedSettings(parsed.path).session_timeout_s


class _Health:
    """Liveness by progress: not that the process is there, but that its poll loop comes round."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._began = monotonic()
        self.service: Service | None = None
        """Set when it has started."""

    def problem(self) -> str | None:
        """Return why there is no progress, or None."""
        now = self._monotonic()
        if self.service is None:
            waited_s = now - self._began
            return None if waited_s < STARTING_S else f"still starting after {waited_s:.0f} s"
        silent_s = now - self.service.host.polled_at
        if silent_s > STALLED_S:
            return f"the poll loop has not come round for {silent_s:.0f} s"
        return None
