"""Handlers at work for one slot: started in a place, watched, interrupted, ended.

A run ends when its body really has: its task is done and no thread works for it. An attempt may end
before, when its handler does not end within `GRACE_S` of being asked to; it keeps its place.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from holdfast.agents.circuits import Passage
from holdfast.agents.execution import Execution
from holdfast.agents.heartbeat import Heartbeat
from holdfast.agents.interrupts import Interrupt
from holdfast.agents.ledger import Ending, Entry
from holdfast.agents.places import Places, Seat
from holdfast.schemas.records import Failure, FailureKind, Outcome
from holdfast.schemas.retrying import error_names

__all__ = ["GRACE_S", "Run", "Runs"]

logger = logging.getLogger(__name__)

GRACE_S = 5.0
"""How long a handler that was asked to end may take before its attempt is ended without it."""


@dataclass(eq=False, slots=True)
class Run:
    """One body of one attempt. `reported`: how its attempt ended is known to the ledger.

    `seat` is None while it rests (see `resting`), `waits` are the asks that it waits for, `risen`
    is there while it has an answer and no place yet. `slept_on`: what it waited for when its body
    was dropped. `guards`: the breakers that it waits for; `passages`: what they have let through,
    and what has no outcome yet. `writes`: the commits that it waits for. `nap`: when it is to fall
    asleep.
    """

    entry: Entry
    attempt: int
    seat: Seat | None
    execution: Execution | None = None
    task: asyncio.Task[None] | None = None
    timers: list[asyncio.TimerHandle] = field(default_factory=list)
    reported: bool = False
    progressed_s: float = float("-inf")
    waits: dict[tuple[str, str], asyncio.Future[None]] = field(default_factory=dict)
    risen: asyncio.Future[None] | None = None
    slept_on: tuple[tuple[str, str], ...] | None = None
    left_s: float | None = None
    clock: asyncio.TimerHandle | None = None
    heartbeat: Heartbeat | None = None
    guards: set[asyncio.Future[Passage]] = field(default_factory=set)
    passages: list[Passage] = field(default_factory=list)
    writes: set[asyncio.Future[None]] = field(default_factory=set)
    nap: asyncio.TimerHandle | None = None

    def moved(self, what: str) -> None:
        """It has made progress."""
        if self.heartbeat is not None:
            self.heartbeat.moved(what)

    @property
    def live(self) -> bool:
        """Whether what it does still counts."""
        return not self.reported and self.entry.attempt == self.attempt


class Runs:
    """All bodies of one slot. `report` takes how an attempt ended; None: it did not, it stopped."""

    def __init__(self, places: Places, report: Callable[[Run, Ending | None], None]) -> None:
        self._places = places
        self._report = report
        self._bodies: dict[Run, None] = {}
        self._current: dict[Entry, Run] = {}
        self.gone: Callable[[Run], None] = _nobody_cares
        """Hears of each body that has ended."""

    def __len__(self) -> int:
        return len(self._bodies)

    def __iter__(self) -> Iterator[Run]:
        return iter(self._bodies)

    def get(self, entry: Entry) -> Run | None:
        """Return the run of a task's newest attempt."""
        return self._current.get(entry)

    def add(self, entry: Entry, seat: Seat, passages: Sequence[Passage] = ()) -> Run:
        """Note that `entry` has a place, and what let it through."""
        run = Run(entry, entry.attempt, seat, passages=list(passages))
        self._bodies[run] = None
        self._current[entry] = run
        return run

    def launch(self, run: Run, execution: Execution) -> None:
        """Start the handler."""
        run.execution = execution
        loop = asyncio.get_running_loop()
        run.task = loop.create_task(self._work(run, execution))
        if execution.timeout_s:
            run.left_s = execution.timeout_s
        if execution.progress_timeout_s:
            run.heartbeat = Heartbeat(execution.progress_timeout_s, partial(self._give_up, run))
        self.start_clock(run)

    def start_clock(self, run: Run) -> None:
        """Let the time of an attempt run (on)."""
        if run.left_s is not None and run.clock is None:
            loop = asyncio.get_running_loop()
            run.clock = loop.call_later(run.left_s, self._timed_out, run)
        if run.heartbeat is not None:
            run.heartbeat.start()

    def stop_clock(self, run: Run) -> None:
        """Let it stand still."""
        if run.clock is not None:
            run.left_s = max(0.0, run.clock.when() - asyncio.get_running_loop().time())
            run.clock.cancel()
            run.clock = None
        if run.heartbeat is not None:
            run.heartbeat.stop()

    def _timed_out(self, run: Run) -> None:
        assert run.execution is not None, "its clock runs"
        self._give_up(run, f"the handler ran longer than {run.execution.timeout_s:g} s")

    def _give_up(self, run: Run, message: str) -> None:
        failure = Failure(
            FailureKind.TIMEOUT,
            "TimeoutError",
            message,
            "",
            retryable=True,
            classes=error_names(TimeoutError),
        )
        self.interrupt(run, Interrupt(Outcome.FAILED, failure))

    def interrupt(self, run: Run, interrupt: Interrupt) -> None:
        """Ask a handler to end; one that never started ends here."""
        if run.execution is None:
            if not run.reported:
                run.reported = True
                self._report(run, _not_started(interrupt))
            self._gone(run)
            return
        run.execution.interrupt(interrupt)
        if run.risen is not None:
            run.risen.cancel()  # it needs no place to end
            run.risen = None
        if not run.reported and interrupt.failure is not None:
            loop = asyncio.get_running_loop()
            run.timers.append(loop.call_later(GRACE_S, self._outlived, run))

    def drop(self, entry: Entry, interrupt: Interrupt) -> None:
        """The attempt is over for the ledger already: stop its body, and take nothing from it."""
        run = self._current.pop(entry, None)
        if run is not None:
            run.reported = True
            self._stay(run)
            self.interrupt(run, interrupt)

    def _stay(self, run: Run) -> None:
        """The attempt is over, its body is not: it takes a place, also if none is free.

        Without one it would be taken for gone, and the next attempt begin beside it.
        """
        if run.seat is None and run.execution is not None:
            run.seat = self._places.rise(run.entry.name)

    def stop_all(self) -> None:
        """The slot is given up: stop all bodies, and tell nobody of their ends."""
        for run in list(self._bodies):
            self.interrupt(run, Interrupt())

    async def _work(self, run: Run, execution: Execution) -> None:
        ending: Ending | None = None
        try:
            ending = await execution.run()
        finally:
            execution.when_threads_end(partial(self._ended, run, ending))

    def _ended(self, run: Run, ending: Ending | None) -> None:
        if ending is None and run.execution is not None:
            # It was asked to end while its threads wound up for another reason.
            ending = run.execution.end_of_interrupt()
        if not run.reported:
            run.reported = True
            self._report(run, ending)
        self._gone(run)

    def _gone(self, run: Run) -> None:
        self.stop_clock(run)
        for timer in run.timers:
            timer.cancel()
        self._bodies.pop(run, None)
        # What its handler has left behind must not wait for what nobody brings any more.
        left: list[asyncio.Future[Any]] = [*run.waits.values(), *run.guards, *run.writes]
        if run.risen is not None:
            left.append(run.risen)
        for future in left:
            future.cancel()
        for passage in run.passages:
            passage.gate.left(passage)
        run.passages.clear()
        if self._current.get(run.entry) is run:
            del self._current[run.entry]
        if run.seat is not None:
            self._places.stand_up(run.seat)
        else:
            self._places.rested()
        self.gone(run)

    def _outlived(self, run: Run) -> None:
        if run.reported or run.execution is None:
            return
        run.reported = True
        self._stay(run)
        if run.seat is not None:
            run.seat.stuck = True
        logger.warning(
            "task %s#%d does not end %g s after it was asked to; its attempt is closed, its place "
            "stays taken until it ends",
            run.entry.name,
            run.attempt,
            GRACE_S,
        )
        self._report(run, run.execution.end_of_interrupt())


def _nobody_cares(run: Run) -> None:
    """Nothing else is known of the bodies."""


def _not_started(interrupt: Interrupt) -> Ending | None:
    if interrupt.failure is None:
        return None
    return Ending(interrupt.outcome, None, interrupt.failure)
