"""What the examples' commands share: a bus, and the processes of an example on it.

Each service is a process of its own, started as anybody would start it, and kept running.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from holdfast.bus.connect import open_bus
from holdfast.cli.settings import load_settings
from holdfast.cli.supervisor import (
    Happening,
    ProcessNotice,
    ProcessSpec,
    Supervisor,
    SupervisorSettings,
    last_words,
)
from holdfast.client import RunFailed
from holdfast.schemas.errors import ConfigurationError, HoldfastError

__all__ = [
    "BUS_FILE",
    "COORDINATOR",
    "EXIT_BAD_INPUT",
    "HOME",
    "START_S",
    "Refused",
    "answered",
    "bus_url",
    "environment_of",
    "kept_running",
    "prepare_bus",
    "remove_bus",
    "services",
]

T = TypeVar("T")

HOME = Path(".holdfast")
BUS_FILE = HOME / "bus.db"
COORDINATOR = "coordinator"
START_S = 60.0
"""How long services may take to start: an old machine under load."""
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130


class Refused(Exception):
    """What was asked for cannot be done here; the message says why, and what can be done."""


def answered(program: str, again: str, work: Callable[[], int]) -> int:
    """Do a command's work; return its exit code: 0 done, 1 the run failed, 2 bad input.

    `again`: the command that begins a new run, told to who interrupts this one.
    """
    logging.basicConfig(level=logging.ERROR, format="%(levelname)s %(name)s: %(message)s")
    try:
        return work()
    except RunFailed as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 1
    except (Refused, HoldfastError) as error:
        print(f"{program}: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        print(f"\nStopped. Nothing is lost: `{again}` begins a new run.", file=sys.stderr)
        return EXIT_INTERRUPTED


# --- the bus -------------------------------------------------------------------------------------


def remove_bus() -> None:
    """Remove the embedded bus with all that is beside it; refused while a process uses it."""
    import shutil

    from holdfast.bus.embedded import in_use

    if in_use(BUS_FILE):
        raise Refused(
            f"--fresh would remove {BUS_FILE}, which another process uses (a demo that still runs, "
            "an agent, a coordinator, a client): stop it first, or leave --fresh out"
        )
    for path in BUS_FILE.parent.glob(f"{BUS_FILE.name}*"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


@contextlib.contextmanager
def bus_url(wanted: str) -> Iterator[str]:
    """Yield the URL of the bus; starts and stops a Kafka where one is asked for by name."""
    if wanted == "kafka":
        with _local_kafka() as url:
            yield url
    elif wanted == "sqlite":
        url = os.environ.get("HOLDFAST_BUS") or f"sqlite:///{BUS_FILE}"
        if url.startswith("sqlite"):
            print(f"The bus is one file: {url.removeprefix('sqlite:///')}", flush=True)
        yield url
    else:
        yield wanted


@contextlib.contextmanager
def _local_kafka() -> Iterator[str]:
    """Yield the URL of a Kafka of our own, on this machine, which ends with the demo."""
    # Imported late: only who asks for Kafka needs it. `deploy` is a folder of the project's root.
    from deploy.kafka.broker import LocalBroker, NotInstalled

    with tempfile.TemporaryDirectory(prefix="holdfast-kafka-") as folder:
        broker = LocalBroker(Path(folder), fast=True)
        # As on SQLite: twelve partitions for each topic of five groups are for clusters.
        os.environ.setdefault("HOLDFAST_PARTITIONS", "4")
        try:
            print("Starting a Kafka broker on this machine …", flush=True)
            broker.start()
        except NotInstalled as error:
            raise Refused(f"BUS=kafka needs a broker: {error}") from None
        try:
            yield f"kafka://{broker.bootstrap}"
        finally:
            broker.stop()


def environment_of(bus: str) -> dict[str, str]:
    """Return what the services, and the client, must know of the bus."""
    HOME.mkdir(exist_ok=True)
    environment = {"HOLDFAST_BUS": bus}
    if bus.startswith("kafka"):
        (HOME / "blobs").mkdir(exist_ok=True)
        environment["HOLDFAST_BLOBS"] = f"file://{(HOME / 'blobs').resolve()}"
    return environment


async def prepare_bus(url: str) -> None:
    """Make what the services would make, so that nobody has to wait for another."""
    bus = open_bus(url)
    await bus.start()
    try:
        settings = load_settings(bus=url)
        await bus.create_topics(settings.topics.coordinator_specs(settings.topic_partitions))
    finally:
        await bus.close()


# --- the processes -------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def services(
    example: str, agents: Sequence[str], environment: dict[str, str]
) -> AsyncIterator[Supervisor]:
    """Start a coordinator, and the agents of `examples.<example>.agents`; stop them at the end."""
    async with Supervisor(SupervisorSettings(), _notice) as supervisor:
        names = (COORDINATOR, *agents)
        await supervisor.start([_spec(example, name, environment) for name in names])
        for name in sorted(supervisor.processes):
            found = supervisor.processes[name]
            print(f"  {name:<12} pid {found.pid:<8} {found.spec.log}", flush=True)
        yield supervisor


def _spec(example: str, name: str, environment: dict[str, str]) -> ProcessSpec:
    """One service, as anybody would start it."""
    what = [name] if name == COORDINATOR else ["agent", f"examples.{example}.agents:{name}"]
    instance = f"{example}-{name}"
    command = (sys.executable, "-m", "holdfast.cli", *what, "--instance", instance)
    return ProcessSpec(name, command, HOME / "logs" / f"{instance}.log", environment)


def _notice(happened: ProcessNotice) -> None:
    """Say what becomes of the processes."""
    if happened.happening is Happening.DIED:
        print(f"  {happened.name} (pid {happened.pid}) ended with {happened.exit_code}", flush=True)
    elif happened.happening is Happening.STARTED and happened.starts > 1:
        print(f"  {happened.name} is back as pid {happened.pid}", flush=True)


async def kept_running(supervisor: Supervisor, work: Coroutine[Any, Any, T]) -> T:
    """Do something, and return what comes of it, unless a service cannot be kept running.

    Raises `ConfigurationError` with the last words of that service.
    """
    gave_up = asyncio.create_task(supervisor.gave_up.get())
    working = asyncio.create_task(work)
    try:
        await asyncio.wait({gave_up, working}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            found = gave_up.result()
            log = supervisor.processes[found.name].spec.log
            raise ConfigurationError(f"{found.name} cannot run: {last_words(log)} (see {log})")
        return await working
    finally:
        for task in (gave_up, working):
            task.cancel()
