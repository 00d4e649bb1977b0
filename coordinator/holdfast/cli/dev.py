"""`holdfast dev`: the coordinator, the agents and the sources of some modules, as children.

1. Import the modules (their mistakes are found before anything runs), take the folder's lock.
2. Create the topics, start one process for the coordinator, each agent, each source.
3. With `--run`: submit, show the progress, print the result, stop. Else until Ctrl-C.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.cli.failures import BadInput, ExitCode
from holdfast.cli.printing import note, print_json, print_lines, shown
from holdfast.cli.settings import HOME, Settings
from holdfast.cli.supervisor import (
    Happening,
    ProcessNotice,
    ProcessSpec,
    Supervisor,
    SupervisorSettings,
    last_words,
)

if TYPE_CHECKING:
    from holdfast.bus.port import Environment
    from holdfast.cli.invocation import Invocation

__all__ = ["DevOptions", "agent_process", "coordinator_process", "remove_bus", "run_dev"]

_ORDINARY = re.compile(r"\S+Z (DEBUG|INFO|WARNING) ")
"""A line of a log that is no reason to die."""
MANIFEST_WAIT_S = 30.0
"""Agents import their users' code first; that may take a while."""


@dataclass(frozen=True, slots=True)
class DevOptions:
    """`run`: a task's name, to be run once with `input`; None: until Ctrl-C."""

    modules: tuple[str, ...]
    run: str | None = None
    input: Any = field(default_factory=dict)
    fresh: bool = False
    json: bool = False


def coordinator_process(settings: Settings, logs: Path, instance: str) -> ProcessSpec:
    """Return the process of a coordinator; `Supervisor` starts it."""
    command = ("coordinator", "--instance", instance)
    return _process("coordinator", command, settings, logs)


def agent_process(
    target: str, name: str, settings: Settings, logs: Path, instance: str
) -> ProcessSpec:
    """Return the process of the agent `target` (`MODULE:NAME`); its name is `name`."""
    return _process(name, ("agent", target, "--instance", instance), settings, logs)


def source_process(
    target: str, name: str, settings: Settings, logs: Path, instance: str
) -> ProcessSpec:
    """Return the process of the source `target` (`MODULE:NAME`); its name is `name`."""
    return _process(f"source-{name}", ("source", target, "--instance", instance), settings, logs)


def _process(name: str, command: tuple[str, ...], settings: Settings, logs: Path) -> ProcessSpec:
    whole = (sys.executable, "-m", "holdfast.cli", *command)
    return ProcessSpec(name, whole, logs / f"{name}.log", settings.environment())


async def run_dev(invocation: Invocation, options: DevOptions) -> ExitCode:
    """Run it to its end. Raises `BadInput` and what else is wrong at the start."""
    settings = invocation.settings
    agents, sources = _services(options.modules)
    with _only_one_here():
        if options.fresh:
            remove_bus(settings)
        async with invocation.environment(create=True) as environment:
            await _create_topics(environment, settings, list(agents))
            interrupts = _Interrupts()
            async with Supervisor(SupervisorSettings(), _Teller(HOME / "logs")) as supervisor:
                interrupts.hard = supervisor.kill_all
                await supervisor.start(_processes(settings, agents, sources))
                _introduce(supervisor, settings)
                if options.run is None:
                    _say_what_next(options.modules)
                return await _until_done(
                    supervisor, interrupts, _work(options, settings, environment), options
                )


def _services(modules: tuple[str, ...]) -> tuple[dict[str, str], dict[str, str]]:
    """Return `MODULE:NAME` of agents and of sources, by their names; raises `BadInput`."""
    from holdfast.cli.modules import services_in

    agents: dict[str, str] = {}
    sources: dict[str, str] = {}
    for module in modules:
        named_agents, named_sources = services_in(module)
        _enter("agent", module, named_agents, agents)
        _enter("source", module, named_sources, sources)
    return agents, sources


def _enter(what: str, module: str, names: Iterable[str], found: dict[str, str]) -> None:
    for name in names:
        if name in found:
            other = found[name].partition(":")[0]
            raise BadInput(f"{what} {name!r} stands in two modules, {other} and {module}")
        found[name] = f"{module}:{name}"


def _processes(
    settings: Settings, agents: dict[str, str], sources: dict[str, str]
) -> list[ProcessSpec]:
    logs, instance = HOME / "logs", _instance()
    processes = [coordinator_process(settings, logs, instance)]
    for name, target in agents.items():
        processes.append(agent_process(target, name, settings, logs, instance))
    for name, target in sources.items():
        processes.append(source_process(target, name, settings, logs, instance))
    return processes


def _instance() -> str:
    """Stable, so that a process that is started again gets its slots back at once; of this folder
    on this machine, so that two people on one broker do not take each other's."""
    where = f"{socket.gethostname()} {Path.cwd()}"
    return f"dev-{hashlib.sha256(where.encode()).hexdigest()[:8]}"


async def _create_topics(environment: Environment, settings: Settings, agents: list[str]) -> None:
    topics, partitions = settings.topics, settings.topic_partitions
    specs = topics.coordinator_specs(partitions, keep_events=settings.keep_events)
    for agent in agents:
        specs += topics.agent_specs(agent, partitions)
    await environment.bus.create_topics(specs)


async def _work(options: DevOptions, settings: Settings, environment: Environment) -> ExitCode:
    if options.run is None:
        await asyncio.Event().wait()
    from holdfast.cli.progress import open_progress
    from holdfast.client import Client

    async with Client(
        settings=settings, environment=environment, manifest_wait_s=MANIFEST_WAIT_S
    ) as client:
        run = await client.submit(str(options.run), options.input)
        with open_progress(run.id) as progress:
            async for event in run.events():
                progress.show(event)
        result = await run.result()
        if options.json:
            print_json({"run_id": run.id, "state": "succeeded", "output": result})
        else:
            print_lines(shown(result))
    return ExitCode.OK


async def _until_done(
    supervisor: Supervisor,
    interrupts: _Interrupts,
    work: Coroutine[Any, Any, ExitCode],
    options: DevOptions,
) -> ExitCode:
    """Await the work, Ctrl-C, or a process that cannot be run at all; whatever comes first."""
    working = asyncio.create_task(work)
    interrupted = asyncio.create_task(interrupts.asked.wait())
    given_up = asyncio.create_task(supervisor.gave_up.get())
    try:
        waited = {working, interrupted, given_up}
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        if given_up.done():
            name = given_up.result().name
            words = last_words(supervisor.processes[name].spec.log).removeprefix("holdfast: ")
            raise BadInput(f"{name} cannot run: {words}")
        note("Stopping; Ctrl-C again to stop at once.")
        return ExitCode.INTERRUPTED if options.run is not None else ExitCode.OK
    finally:
        for task in (working, interrupted, given_up):
            task.cancel()
        await asyncio.gather(working, interrupted, given_up, return_exceptions=True)
        await supervisor.stop()
        if options.run is None and interrupts.asked.is_set():
            note("Stopped. Nothing is lost: the same command goes on where it was.")


class _Interrupts:
    """The first Ctrl-C asks, every further one ends all at once."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.hard: Callable[[], None] | None = None
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._hear)

    def _hear(self) -> None:
        if self.asked.is_set() and self.hard is not None:
            self.hard()
        self.asked.set()


class _Teller:
    """Says what happens to processes; what is expected (a stop) goes without saying."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs

    def __call__(self, notice: ProcessNotice) -> None:
        if notice.happening is Happening.DIED:
            words = last_words(self._logs / f"{notice.name}.log")
            told = words and (notice.exit_code or 0) > 0 and _ORDINARY.match(words) is None
            because = f": {words}" if told else ""
            note(
                f"{notice.name} died ({_ended(notice.exit_code)}{because}); "
                f"starting it again in {notice.backoff_s:g} s"
            )
        elif notice.happening is Happening.STARTED and notice.starts > 1:
            note(f"{notice.name} is back, process {notice.pid}")


def _ended(code: int | None) -> str:
    if code is not None and code < 0:
        return signal.Signals(-code).name
    return f"exit code {code}"


def _introduce(supervisor: Supervisor, settings: Settings) -> None:
    note(f"bus {settings.bus.partition('?')[0]}, namespace {settings.namespace}")
    width = max(len(name) for name in supervisor.processes)
    for name, supervised in supervisor.processes.items():
        note(f"  {name.ljust(width)}  process {supervised.pid}  log {supervised.spec.log}")


def _say_what_next(modules: tuple[str, ...]) -> None:
    from holdfast.cli.modules import services_in

    agents = (agent for module in modules for agent in services_in(module)[0].values())
    task = next((task.full_name for agent in agents for task in agent.tasks.values()), None)
    if task is not None:
        note(f"Elsewhere: holdfast submit --task {task} --input NAME=VALUE --wait")
    note("Ctrl-C stops all of it; nothing is lost.")


@contextlib.contextmanager
def _only_one_here() -> Iterator[None]:
    """Hold the folder's lock: two `dev` would take each other's slots, having the same names."""
    try:
        HOME.mkdir(exist_ok=True)
        descriptor = os.open(HOME / "dev.lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise BadInput(f"cannot write to {HOME.absolute()}: {error.strerror or error}") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            other = os.read(descriptor, 32).decode("ascii", "replace").strip()
            raise BadInput(
                f"another `holdfast dev` runs in this folder (process {other}): stop it, or submit "
                "to it with `holdfast submit`"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(descriptor)


def _is_database(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(16) in (b"SQLite format 3\0", b"")


def remove_bus(settings: Settings) -> None:
    """Remove the embedded bus and its projection (`--fresh`).

    Raises `BadInput`, also while any process has the bus open: it would go on with a file that
    nobody else sees any more, and lose what it commits.
    """
    from holdfast.bus.embedded import in_use
    from holdfast.cli.reading import projection_file

    path = settings.bus_file
    if path is None:
        raise BadInput(
            "--fresh removes the file of an embedded bus; on Kafka use another --namespace"
        )
    if path.exists() and not _is_database(path):
        raise BadInput(f"--fresh does not remove {path}: it is no bus of Holdfast")
    if in_use(path):
        raise BadInput(
            f"--fresh would remove {path}, which another process uses (a service, a client or "
            "another `holdfast dev`): stop it first, or leave --fresh out"
        )
    for base in (path, projection_file(settings)):
        for name in (base.name, f"{base.name}-wal", f"{base.name}-shm"):
            base.with_name(name).unlink(missing_ok=True)
    shutil.rmtree(path.with_name(f"{path.name}.d"), ignore_errors=True)
