"""Processes on one thread under one clock and one seed: started, crashed, stopped, woken.

    process   a name, an incarnation, an event loop and an `Environment` of its own
    crash     first the bus and the clock are detached, then the loop is dropped: no `finally` of
              the dead code reaches the world
    stop      the loop stands still (SIGSTOP) while time and network go on; then it goes on as if
              nothing had been
    time      moves only when nobody has anything to do

Two processes that both have something to do take turns in an order drawn from the seed, callback
by callback. Everything drawn is drawn from the seed, so a seed is a whole history; what depends on
the order of a set of strings needs a fixed PYTHONHASHSEED too (the runner sees to it).
"""

# ruff: noqa: S311 what is drawn here is to be drawn again from the same seed

from __future__ import annotations

import asyncio
import contextvars
import random
import warnings
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeVar

from holdfast.bus.port import EXIT_RESTART, Environment
from holdfast.testing.sim.broker import SimBroker, SimTiming
from holdfast.testing.sim.bus import SimBus
from holdfast.testing.sim.loop import Clock, SimLoop

__all__ = ["Process", "StandStill", "World"]

T = TypeVar("T")

EPOCH_MS = 1_750_000_000_000
"""Wall time when a world begins."""
STEPS_MAX = 5_000_000
"""No world takes more callbacks; one that does runs in circles."""

Main = Callable[[Environment], Coroutine[Any, Any, object]]


class StandStill(AssertionError):
    """A condition was not met in the time given: something hangs, or nothing moves."""


@dataclass(eq=False)
class Process:
    """One incarnation of one process."""

    name: str
    main: Main
    loop: SimLoop
    environment: Environment
    bus: SimBus
    incarnation: int
    started_at: float
    variables: Mapping[str, str] = field(default_factory=dict)
    task: asyncio.Task[object] | None = None
    alive: bool = True
    stopped: bool = False
    skew_ms: int = 0
    """By how much its wall clock is wrong."""
    reason: str = ""
    """Why it is dead."""
    steps: int = 0


class World:
    """One seed's world. Not for use inside an event loop: it is the event loop.

    `timing`: how the bus behaves in time. `trace`: called with each thing that happens to a
    process, for whoever wants to see.
    """

    def __init__(self, seed: int, timing: SimTiming | None = None) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        self.clock = Clock()
        self.net = self._new_loop()
        self.broker = SimBroker(
            lambda: self.net,
            lambda: self.clock.now,
            self.now_ms,
            random.Random(self.random.getrandbits(64)),
            timing or SimTiming(),
        )
        self.processes: dict[str, Process] = {}
        """The newest incarnation of each name, dead or alive."""
        self.errors: list[str] = []
        """What callbacks raised and no one heard."""
        self.on_death: list[Callable[[Process], None]] = []
        self.watchers: list[Callable[[Process], None]] = []
        """Called before each callback of a process: whoever crashes it here crashes it between
        any two awaits."""
        self.steps = 0
        self._busy: list[SimLoop] = []
        self._owners: dict[SimLoop, Process] = {}
        self._graveyard: list[Process] = []
        self.current: Process | None = None
        """Whose callback runs now."""
        self.net.call_later(self.broker.timing.compact_every_s, self._compact)

    # --- processes -----------------------------------------------------------------------------

    def start(self, name: str, main: Main) -> Process:
        """Start a process of this name; the one before must be dead."""
        before = self.processes.get(name)
        assert before is None or not before.alive, f"{name} is alive"
        loop = self._new_loop()
        incarnation = 1 if before is None else before.incarnation + 1
        drawn = random.Random(self.random.getrandbits(64))
        bus = SimBus(self.broker, f"{name}-{incarnation}", lambda: self.now_ms(process))
        environment = Environment(
            bus=bus,
            now_ms=lambda: self.now_ms(process),
            monotonic=lambda: self.clock.now,
            random=drawn,
            new_id=lambda: f"{drawn.getrandbits(128):032x}",
            run_blocking=_at_once,
            die=lambda reason: self._die(process, reason),
        )
        process = Process(name, main, loop, environment, bus, incarnation, self.clock.now)
        self._owners[loop] = process
        self.processes[name] = process
        # Not in the context of whoever starts it: perhaps the callback in which another crashed.
        loop.call_soon(self._begin, process, context=contextvars.Context())
        return process

    def restart(self, name: str) -> Process:
        """Start a dead process anew, as a supervisor does."""
        return self.start(name, self.processes[name].main)

    def crash(self, process: Process, reason: str = "killed") -> None:
        """End a process as `kill -9` does, now, wherever it stands."""
        if not process.alive:
            return
        process.alive, process.reason = False, reason
        if process.bus.link is not None:
            process.bus.link.dead = True
        process.loop.drop()
        del self._owners[process.loop]
        self._graveyard.append(process)  # its coroutines unwind when the world ends, not before
        for hear in self.on_death:
            hear(process)

    def stop(self, process: Process) -> None:
        """Make it stand still."""
        process.stopped = True

    def wake(self, process: Process) -> None:
        """Let it go on."""
        process.stopped = False
        if process.alive and process.loop.has_ready:
            self._announce(process.loop)

    def now_ms(self, process: Process | None = None) -> int:
        """Return wall time, as this process sees it."""
        skew_ms = 0 if process is None else process.skew_ms
        return EPOCH_MS + int(self.clock.now * 1000) + skew_ms

    # --- time ----------------------------------------------------------------------------------

    def at(self, when: float, action: Callable[[], None]) -> None:
        """Do something to the world at a moment of it."""
        self.net.call_at(when, action)

    def run(self, until: Callable[[], bool], bound_s: float, what: str = "condition") -> None:
        """Go on until a condition holds; `StandStill` if it does not within `bound_s`."""
        limit = self.clock.now + bound_s
        while not until():
            if not self._turn(limit):
                raise StandStill(f"{what}: not after {bound_s:g} s of virtual time")

    def run_for(self, seconds: float) -> None:
        """Let this much time pass."""
        limit = self.clock.now + seconds
        while self._turn(limit):
            pass

    def close(self) -> None:
        """End every process, and unwind what all the dead ones had under way."""
        for process in list(self._owners.values()):
            self.crash(process, "the world ended")
        self._busy.clear()
        self.net.drop()
        with warnings.catch_warnings():
            # What a `finally` of dead code would still like to await is never awaited.
            warnings.simplefilter("ignore", RuntimeWarning)
            for process in self._graveyard:
                process.loop.unwind()
            self._graveyard.clear()

    def _turn(self, limit: float) -> bool:
        """Run one callback of whoever's turn it is; move time when there is none."""
        busy = self._busy
        while not busy:
            if not self.clock.advance(limit):
                return bool(busy)
        index = 0 if len(busy) == 1 else int(self.random.random() * len(busy))
        loop = busy[index]
        process = self._owners.get(loop)
        if loop.dead or (process is not None and process.stopped) or not loop.has_ready:
            busy[index] = busy[-1]
            busy.pop()
            return True
        self.steps += 1
        assert self.steps < STEPS_MAX, "this world runs in circles"
        if process is None:
            loop.step()
        else:
            self._step(process)
        return True

    def _step(self, process: Process) -> None:
        process.steps += 1
        for look in tuple(self.watchers):
            look(process)
        if not process.alive:
            return
        self.current = process
        try:
            process.loop.step()
        except SystemExit as error:
            self.crash(process, f"exit {error.code}")
        finally:
            self.current = None

    def _new_loop(self) -> SimLoop:
        return SimLoop(self.clock, self._announce, self._on_error)  # type: ignore[abstract]

    def _announce(self, loop: SimLoop) -> None:
        if loop not in self._busy:
            self._busy.append(loop)

    def _begin(self, process: Process) -> None:
        process.task = process.loop.create_task(self._main(process), name=process.name)

    async def _main(self, process: Process) -> None:
        try:
            await process.bus.start()
            await process.main(process.environment)
            reason = "ended"
        except Exception as error:  # noqa: BLE001 a process that fails is a dead process
            reason = _told(error)
        process.loop.call_soon(self.crash, process, reason)

    def _die(self, process: Process, reason: str) -> NoReturn:
        self.crash(process, reason)
        raise SystemExit(EXIT_RESTART)

    def _on_error(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if not isinstance(error, SystemExit):
            self.errors.append(f"{context.get('message')}: {error!r}")

    def _compact(self) -> None:
        self.broker.compact()
        self.net.call_later(self.broker.timing.compact_every_s, self._compact)


def _told(error: BaseException) -> str:
    """Return what an exception says; of a group, what its first member says."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"


async def _at_once(call: Callable[[], T]) -> T:
    """Blocking calls take no time here."""
    return call()
