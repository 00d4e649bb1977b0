"""Starts processes, restarts those that die, stops them all: what `holdfast dev` and the demo use.

    async with Supervisor(SupervisorSettings(), tell) as supervisor:
        await supervisor.start([ProcessSpec("agent-greeter", (sys.executable, "-m", ...), log)])
        supervisor.kill("agent-greeter", signal.SIGKILL)     # comes back after its back-off

Each child runs in a session of its own, so that the terminal's Ctrl-C reaches the parent alone, and
holds a lifeline (see `lifeline`), so that none outlives the parent.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from holdfast.cli.lifeline import LIFELINE_VARIABLE
from holdfast.schemas.errors import ConfigurationError

__all__ = [
    "Happening",
    "ProcessNotice",
    "ProcessSpec",
    "Supervised",
    "Supervisor",
    "SupervisorSettings",
    "last_words",
]

EXIT_BAD_INPUT = 2
"""A child that ends so would end so again: it is not restarted."""
LAST_WORDS_BYTES = 8_192


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """A process to be run. Its output is appended to `log`; `environment` is added to ours."""

    name: str
    command: tuple[str, ...]
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SupervisorSettings:
    """How processes are restarted and stopped.

    A process that dies is started again after `backoff_s`, doubled by each death up to
    `backoff_max_s`, and back at `backoff_s` once it has lived `healthy_s`. A stop waits `grace_s`
    after SIGTERM before it kills.
    """

    restart_on_death: bool = True
    backoff_s: float = 0.1
    backoff_max_s: float = 10.0
    healthy_s: float = 10.0
    grace_s: float = 12.0


class Happening(Enum):
    """What a supervisor tells of a process."""

    STARTED = "started"
    DIED = "died"  # and will be started again after `backoff_s`
    GAVE_UP = "gave up"  # will not be started again
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class ProcessNotice:
    """One happening. `exit_code` is negative for a signal (-9: killed), as in `subprocess`."""

    happening: Happening
    name: str
    pid: int
    exit_code: int | None = None
    backoff_s: float = 0.0
    starts: int = 1


@dataclass(slots=True)
class Supervised:
    """A process as it is now. `process` is the newest, perhaps dead; `starts` counts from 1."""

    spec: ProcessSpec
    process: asyncio.subprocess.Process
    starts: int = 1
    started_at: float = 0.0
    backoff_s: float = 0.0

    @property
    def pid(self) -> int:
        """The process id of the newest start."""
        return self.process.pid

    @property
    def alive(self) -> bool:
        """True while the newest start has not ended."""
        return self.process.returncode is None


class Supervisor:
    """Owns child processes. Use it on one event loop; `stop` may be called again.

    `tell` hears of everything that happens, synchronously.
    """

    def __init__(
        self,
        settings: SupervisorSettings | None = None,
        tell: Callable[[ProcessNotice], None] | None = None,
    ) -> None:
        self.settings = settings or SupervisorSettings()
        self.restart_on_death = self.settings.restart_on_death
        self.processes: dict[str, Supervised] = {}
        self.gave_up: asyncio.Queue[ProcessNotice] = asyncio.Queue()
        """Processes that ended for good while none was asked to."""
        self._tell = tell or _say_nothing
        self._keepers: dict[str, asyncio.Task[None]] = {}
        self._stopping = False
        self._lifeline: tuple[int, int] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    async def start(self, processes: Sequence[ProcessSpec]) -> None:
        """Start them, in order, and keep them running.

        Raises:
            ConfigurationError: a command or a log file that cannot be used; nothing stays behind.
            ValueError: a name that runs already.
        """
        for spec in processes:
            if spec.name in self.processes:
                raise ValueError(f"process {spec.name!r} runs already")
            supervised = Supervised(spec, await self._spawn(spec), started_at=time.monotonic())
            self.processes[spec.name] = supervised
            self._tell(ProcessNotice(Happening.STARTED, spec.name, supervised.pid))
            self._keepers[spec.name] = asyncio.create_task(self._keep(supervised))

    def kill(self, name: str, signal_number: int = signal.SIGKILL) -> int:
        """Send a signal to a process; return its id. Raises `KeyError`, `ProcessLookupError`."""
        supervised = self.processes[name]
        if not supervised.alive:
            raise ProcessLookupError(f"process {name!r} is not running")
        supervised.process.send_signal(signal_number)
        return supervised.pid

    async def stop(self) -> None:
        """SIGTERM to all at once, SIGKILL to those that are still there after the grace."""
        self._stopping = True
        for supervised in self.processes.values():
            self._signal(supervised, signal.SIGTERM)
            # A process that stands still (SIGSTOP) would hear nothing before the grace is over.
            self._signal(supervised, signal.SIGCONT)
        if self._keepers:
            await asyncio.wait(self._keepers.values(), timeout=self.settings.grace_s)
            self.kill_all()
            await asyncio.wait(self._keepers.values())
        self._keepers.clear()
        if self._lifeline is not None:
            for descriptor in self._lifeline:
                os.close(descriptor)
            self._lifeline = None

    def kill_all(self) -> None:
        """End all at once, without a grace (a second Ctrl-C); `stop` is still to be awaited."""
        self._stopping = True
        for supervised in self.processes.values():
            self._signal(supervised, signal.SIGKILL)

    async def _keep(self, supervised: Supervised) -> None:
        while True:
            code = await supervised.process.wait()
            if self._stopping:
                self._notice(Happening.STOPPED, supervised, code)
                return
            if not self.restart_on_death or code == EXIT_BAD_INPUT:
                self.gave_up.put_nowait(self._notice(Happening.GAVE_UP, supervised, code))
                return
            self._back_off(supervised)
            self._notice(Happening.DIED, supervised, code)
            if not await self._start_again(supervised):
                return

    async def _start_again(self, supervised: Supervised) -> bool:
        """Wait and start it; False when a stop came first or it cannot be started any more."""
        waited_until = time.monotonic() + supervised.backoff_s
        while time.monotonic() < waited_until and not self._stopping:
            await asyncio.sleep(min(0.05, supervised.backoff_s))
        if self._stopping:
            return False
        try:
            process = await self._spawn(supervised.spec)
        except ConfigurationError:
            self.gave_up.put_nowait(self._notice(Happening.GAVE_UP, supervised, None))
            return False
        supervised.process = process
        supervised.starts += 1
        supervised.started_at = time.monotonic()
        if self._stopping:  # the stop has signalled the one before
            self._signal(supervised, signal.SIGTERM)
        self._notice(Happening.STARTED, supervised, None)
        return True

    def _back_off(self, supervised: Supervised) -> None:
        settings = self.settings
        lived_s = time.monotonic() - supervised.started_at
        if supervised.backoff_s == 0.0 or lived_s >= settings.healthy_s:
            supervised.backoff_s = settings.backoff_s
        else:
            supervised.backoff_s = min(supervised.backoff_s * 2, settings.backoff_max_s)

    def _notice(
        self, happening: Happening, supervised: Supervised, code: int | None
    ) -> ProcessNotice:
        notice = ProcessNotice(
            happening,
            supervised.spec.name,
            supervised.pid,
            code,
            supervised.backoff_s,
            supervised.starts,
        )
        self._tell(notice)
        return notice

    async def _spawn(self, spec: ProcessSpec) -> asyncio.subprocess.Process:
        if self._lifeline is None:
            self._lifeline = os.pipe()
        reading_end = self._lifeline[0]
        environment = {
            **os.environ,
            **spec.environment,
            LIFELINE_VARIABLE: str(reading_end),
        }
        with _open_log(spec) as log:
            try:
                return await asyncio.create_subprocess_exec(
                    *spec.command,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=environment,
                    start_new_session=True,
                    pass_fds=(reading_end,),
                )
            except OSError as error:
                raise ConfigurationError(
                    f"cannot start {spec.name} ({spec.command[0]}): {error.strerror or error}"
                ) from error

    @staticmethod
    def _signal(supervised: Supervised, signal_number: int) -> None:
        if supervised.alive:
            with contextlib.suppress(ProcessLookupError):
                supervised.process.send_signal(signal_number)


def _say_nothing(_notice: ProcessNotice) -> None:
    pass


def _open_log(spec: ProcessSpec) -> IO[bytes]:
    try:
        spec.log.parent.mkdir(parents=True, exist_ok=True)
        return spec.log.open("ab")
    except OSError as error:
        raise ConfigurationError(
            f"cannot write the log of {spec.name} to {spec.log}: {error.strerror or error}"
        ) from error


def last_words(log: Path) -> str:
    """Return the last line of a log that says something, or "": why a process ended."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - LAST_WORDS_BYTES))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
