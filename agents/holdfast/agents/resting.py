"""Handlers that only wait: they give up their places, and after a while their memory.

    at work --(nothing runs but asks)--> resting --(10 s)--> asleep: the body is dropped
       ^                                    |
       +------ a place, after an answer ----+

`timeout_s` stands still while a handler rests. Those who rise get places before those who begin.
"""

from __future__ import annotations

import asyncio
from collections import deque

from holdfast.agents.execution import Interrupt
from holdfast.agents.places import Places
from holdfast.agents.runs import Run, Runs
from holdfast.schemas.records import StepEntry

__all__ = ["REST_AFTER_S", "SLEEP_AFTER_S", "Resting"]

REST_AFTER_S = 0.02
"""Nothing has run for so long but asks: the handler rests. What is asked one after the other, and
answered in milliseconds, keeps its place."""
SLEEP_AFTER_S = 10.0


class Resting:
    """The runs of one slot that wait for answers."""

    def __init__(self, places: Places, runs: Runs) -> None:
        self._places = places
        self._runs = runs
        self._rising: deque[Run] = deque()

    async def answer(self, run: Run, name: str, key: str) -> StepEntry:
        """Return the answer to an ask of a run once it is journaled, and the run has a place."""
        answer = asyncio.get_running_loop().create_future()
        run.waits[name, key] = answer
        self.look_soon(run)
        try:
            await answer
        finally:
            run.waits.pop((name, key), None)
        await self.rise(run)
        return run.entry.steps[name, key]

    def look_soon(self, run: Run) -> None:
        """Something has ended: perhaps all that is left are asks."""
        if run.waits and run.seat is not None:
            asyncio.get_running_loop().call_later(REST_AFTER_S, self._rest, run)

    def _rest(self, run: Run) -> None:
        execution, seat = run.execution, run.seat
        if not run.live or not run.waits or seat is None or execution is None:
            return
        if execution.bodies or any(answer.done() for answer in run.waits.values()):
            return
        run.seat = None
        self._runs.stop_clock(run)
        self._places.stand_up(seat)
        loop = asyncio.get_running_loop()
        run.timers.append(loop.call_later(SLEEP_AFTER_S, self._sleep, run, run.rests))

    def _sleep(self, run: Run, rests: int) -> None:
        if not run.live or run.seat is not None or run.rests != rests or run.risen is not None:
            return
        assert run.execution is not None, "it rests"
        run.slept_on = tuple(run.waits)
        run.execution.interrupt(Interrupt())

    async def rise(self, run: Run) -> None:
        """Return once the run has a place."""
        if run.seat is not None:
            return
        risen = run.risen
        if risen is None:
            risen = run.risen = asyncio.get_running_loop().create_future()
            self._rising.append(run)
            self._places.offer()
        await asyncio.shield(risen)  # several answers of one run may wait for the one place

    def take_place(self) -> bool:
        """Give a place to the first run that has its answer; False when there is none."""
        while self._rising:
            run = self._rising.popleft()
            risen, run.risen = run.risen, None
            if risen is None or not run.live:
                continue
            run.rests += 1
            run.seat = self._places.sit(run.entry.name)
            self._runs.start_clock(run)
            risen.set_result(None)
            return True
        return False
