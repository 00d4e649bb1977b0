"""Handlers that only wait: they give up their places, and after a while their memory.

    at work --(nothing runs but asks)--> resting --(10 s)--> asleep: the body is dropped
       ^                                    |
       +------ a place, after an answer ----+

A synchronous handler does not rest: it holds a thread, and nobody can take that away. It keeps
thread and place for a second, then it goes straight to sleep: its waiting `ctx` call raises.
One that waits for a circuit breaker rests likewise, but never sleeps: only this process wakes it.
`timeout_s` stands still while a handler rests. Those who rise get places before those who begin.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from holdfast.agents.circuits import Gate, Passage
from holdfast.agents.interrupts import Interrupt
from holdfast.agents.places import Places
from holdfast.agents.runs import Run, Runs
from holdfast.schemas.records import StepEntry

__all__ = ["REST_AFTER_S", "SLEEP_AFTER_S", "THREAD_KEPT_S", "Resting"]

REST_AFTER_S = 0.02
"""Nothing has run for so long but asks: the handler rests. What is asked one after the other, and
answered in milliseconds, keeps its place."""
SLEEP_AFTER_S = 10.0
"""So long a handler that rests keeps its memory, where its agent is not told otherwise."""

RESTING_MAX = 250
"""So many of a slot keep their memory: of more the first go to sleep at once. Who sleeps does not
keep the slot from reading on, who rests does."""
THREAD_KEPT_S = 1.0
"""So long a synchronous handler that waits keeps its thread, and its place."""


class Resting:
    """The runs of one slot that wait for answers; `tell` passes on why one waits for a breaker."""

    def __init__(
        self,
        places: Places,
        runs: Runs,
        sleep_after_s: float,
        tell: Callable[[Run, str, float | None], None],
    ) -> None:
        self._tell = tell
        self._places = places
        self._runs = runs
        self._sleep_after_s = sleep_after_s
        self._rising: deque[Run] = deque()
        self._rested: dict[Run, None] = {}
        runs.gone = self._forget

    async def answer(self, run: Run, name: str, key: str) -> StepEntry:
        """Return the answer to an ask of a run once it is journaled, and the run has a place."""
        _check_live(run)
        answer = asyncio.get_running_loop().create_future()
        run.waits[name, key] = answer
        self.look_soon(run)
        try:
            await answer
        except asyncio.CancelledError:
            run.waits.pop((name, key), None)
            await self.rise(run)
            raise
        finally:
            run.waits.pop((name, key), None)
        await self.rise(run)
        self.look_soon(run)  # it may wait for other answers still, and do nothing with this one
        return run.entry.steps[name, key]

    async def enter(self, run: Run, gate: Gate) -> Passage:
        """Return once a breaker lets a call of the run through, and the run has a place.

        A run that was started as the trial makes its first call as such.
        """
        _check_live(run)
        for held in run.passages:
            if held.gate is gate and gate.circuit.on_trial(held.passed):
                return held
        passage = gate.try_enter() or await self._let_through(run, gate)
        run.passages.append(passage)
        return passage

    async def _let_through(self, run: Run, gate: Gate) -> Passage:
        assert run.execution is not None, "it is at work"
        self._tell(run, gate.describe(), None)
        let_in = gate.queue()
        run.guards.add(let_in)
        try:
            if run.execution.keeps_place:
                self._runs.stop_clock(run)
                await let_in
                self._runs.start_clock(run)
            else:
                self.look_soon(run)
                await let_in
                await self.rise(run)
        except asyncio.CancelledError:
            if let_in.done() and not let_in.cancelled():
                gate.left(let_in.result())
            run.guards.discard(let_in)
            await self.rise(run)
            raise
        finally:
            run.guards.discard(let_in)
        self._tell(run, f"goes on: {gate.name!r} lets a call through", None)
        return let_in.result()

    def look_soon(self, run: Run) -> None:
        """Something has ended: perhaps all that is left are asks."""
        if not run.waits and not run.guards:
            return
        if run.seat is not None:
            asyncio.get_running_loop().call_later(REST_AFTER_S, self._rest, run)
        elif run.nap is None:
            self._nap(run)  # it was about to fall asleep when something began

    def _rest(self, run: Run) -> None:
        execution, seat = run.execution, run.seat
        if seat is None or execution is None or not _only_waits(run):
            return
        if execution.keeps_place:
            kept_s = min(THREAD_KEPT_S, self._sleep_after_s)
            waits = _waits(run)
            loop = asyncio.get_running_loop()
            run.timers.append(loop.call_later(kept_s, self._end_thread, run, waits))
            return
        run.seat = None
        self._runs.stop_clock(run)
        self._places.rest(seat)
        self._nap(run)
        if len(self._rested) >= RESTING_MAX:
            first = next(iter(self._rested))
            del self._rested[first]
            self._sleep(first)
        self._rested[run] = None

    def _nap(self, run: Run) -> None:
        loop = asyncio.get_running_loop()
        run.nap = loop.call_later(self._sleep_after_s, self._sleep, run)

    def _end_thread(self, run: Run, waits: tuple[asyncio.Future[Any], ...]) -> None:
        """Let a thread go that still waits for what it waited for."""
        if set(waits) == set(_waits(run)) and _only_waits(run):
            self._drop(run)

    def _sleep(self, run: Run) -> None:
        if run.nap is not None:
            run.nap.cancel()
            run.nap = None
        if run.seat is None and run.risen is None and _only_waits(run):
            self._drop(run)

    def _forget(self, run: Run) -> None:
        """It rests no longer: it has a place, or has ended."""
        self._rested.pop(run, None)
        if run.nap is not None:
            run.nap.cancel()
            run.nap = None

    def _drop(self, run: Run) -> None:
        if run.guards:
            return  # nobody outside of this process would wake it
        assert run.execution is not None, "it rests"
        run.slept_on = tuple(run.waits)
        run.execution.interrupt(Interrupt(sleeping=True))

    def quiesce(self) -> None:
        """The slot is to be given up in peace: who rests need not keep it from that."""
        self._sleep_after_s = 0.0
        for run in list(self._runs):
            if run.waits:
                self._sleep(run)
            if run.guards and run.execution is not None and _only_waits(run):
                run.execution.interrupt(Interrupt())  # its attempt goes on at the next owner

    async def rise(self, run: Run) -> None:
        """Return once the run has a place.

        Who is cancelled meanwhile, while its handler is not (its own time-out, say), gets no
        further without one either. Not so where the handler is to end: that needs none.
        """
        if run.seat is not None:
            return
        if not _goes_on(run):
            raise asyncio.CancelledError
        risen = run.risen
        if risen is None:
            risen = run.risen = asyncio.get_running_loop().create_future()
            self._rising.append(run)
            self._places.offer()
        try:
            await asyncio.shield(risen)  # several answers of one run may wait for the one place
        except asyncio.CancelledError:
            if _goes_on(run):
                await asyncio.shield(risen)
            raise

    def take_place(self) -> bool:
        """Give a place to the first run that has its answer; False when there is none."""
        while self._rising:
            run = self._rising.popleft()
            risen, run.risen = run.risen, None
            if risen is None or not run.live:
                continue
            self._forget(run)
            run.seat = self._places.rise(run.entry.name)
            self._runs.start_clock(run)
            risen.set_result(None)
            self.look_soon(run)  # who asked for the place may be gone, and others wait on
            return True
        return False


def _waits(run: Run) -> tuple[asyncio.Future[Any], ...]:
    return (*run.waits.values(), *run.guards)


def _only_waits(run: Run) -> bool:
    """Whether all that is under way of a run waits for others, and none of it can go on.

    A step whose commit is awaited goes on by itself: what its handler does then no answer brings.
    """
    waits = _waits(run)
    if not run.live or run.execution is None or not waits:
        return False
    return run.execution.under_way == len(waits) and not any(wait.done() for wait in waits)


def _goes_on(run: Run) -> bool:
    """Whether its handler was not asked to end."""
    return run.live and run.execution is not None and not run.execution.interrupted


def _check_live(run: Run) -> None:
    if not run.live:
        raise asyncio.CancelledError  # left behind by an attempt that is over: nobody would answer
