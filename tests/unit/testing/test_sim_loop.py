"""The loop of a simulated process: asyncio's own primitives on it, and time that never runs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from holdfast.testing.sim import Clock, SimLoop


class Machine:
    """One loop and its clock, stepped to the end."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.errors: list[dict[str, Any]] = []
        self.announced = 0
        self.loop = SimLoop(self.clock, self._announce, self.errors.append)  # type: ignore[abstract]

    def _announce(self, loop: SimLoop) -> None:
        self.announced += 1

    def settle(self) -> None:
        """Run what is ready; time stands still."""
        while self.loop.has_ready:
            self.loop.step()

    def run(self, work: Coroutine[Any, Any, Any], limit_s: float = 1_000_000.0) -> Any:
        """Run `work` to its end; time moves when there is nothing to do."""
        task = self.loop.create_task(work)
        while not task.done():
            self.settle()
            if not task.done():
                assert self.clock.advance(limit_s), "it waits for ever"
        self.settle()
        return task.result()


@pytest.fixture
def machine() -> Machine:
    return Machine()


def test_callbacks_run_in_the_order_in_which_they_came(machine: Machine) -> None:
    seen: list[str] = []

    def first() -> None:
        seen.append("first")
        machine.loop.call_soon(seen.append, "third")

    machine.loop.call_soon(first)
    machine.loop.call_soon_threadsafe(seen.append, "second")
    machine.settle()
    assert seen == ["first", "second", "third"]


def test_timers_come_in_order_and_those_of_one_moment_in_the_order_they_were_set(
    machine: Machine,
) -> None:
    seen: list[tuple[float, str]] = []

    def note(name: str) -> Callable[[], None]:
        return lambda: seen.append((machine.loop.time(), name))

    machine.loop.call_later(2.0, note("late"))
    machine.loop.call_at(1.0, note("one"))
    machine.loop.call_later(1.0, note("two"))
    while machine.clock.advance(10.0):
        machine.settle()
    assert seen == [(1.0, "one"), (1.0, "two"), (2.0, "late")]
    assert machine.clock.now == 10.0


def test_a_cancelled_timer_neither_runs_nor_moves_time(machine: Machine) -> None:
    cancelled = machine.loop.call_later(5.0, lambda: pytest.fail("it was cancelled"))
    machine.loop.call_later(7.0, lambda: None)
    cancelled.cancel()
    assert machine.clock.advance(100.0)
    assert machine.clock.now == 7.0


def test_time_does_not_go_beyond_its_limit(machine: Machine) -> None:
    machine.loop.call_later(5.0, lambda: None)
    assert not machine.clock.advance(3.0)
    assert machine.clock.now == 3.0
    assert not machine.loop.has_ready
    assert machine.clock.advance(5.0)
    assert machine.loop.has_ready


def test_time_moves_only_when_it_is_told_to(machine: Machine) -> None:
    async def work() -> float:
        for _ in range(1_000):
            await asyncio.sleep(0)
        return asyncio.get_running_loop().time()

    assert machine.run(work()) == 0.0


def test_three_days_take_no_time(machine: Machine) -> None:
    began = time.monotonic()
    machine.run(asyncio.sleep(3 * 86_400))
    assert machine.clock.now == 3 * 86_400
    assert time.monotonic() - began < 5.0


def test_timeouts(machine: Machine) -> None:
    async def work() -> tuple[float, float]:
        loop = asyncio.get_running_loop()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2.0):
                await loop.create_future()
        first = loop.time()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.sleep(9.0), 3.0)
        return first, loop.time()

    first, second = machine.run(work())
    assert (first, second) == (2.0, 5.0)


def test_gather_wait_and_shield(machine: Machine) -> None:
    async def after(seconds: float) -> float:
        await asyncio.sleep(seconds)
        return seconds

    async def work() -> None:
        assert list(await asyncio.gather(after(2.0), after(1.0))) == [2.0, 1.0]
        tasks = [asyncio.create_task(after(n)) for n in (1.0, 5.0)]
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        assert [task.result() for task in done] == [1.0]
        assert pending == {tasks[1]}
        kept = asyncio.create_task(after(8.0))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(kept), 1.0)
        assert await kept == 8.0

    machine.run(work())
    assert machine.clock.now == 2.0 + 1.0 + 8.0


def test_queues_events_conditions_and_groups(machine: Machine) -> None:
    async def work() -> list[int]:
        queue: asyncio.Queue[int] = asyncio.Queue(maxsize=2)
        over = asyncio.Event()

        async def produce() -> None:
            for n in range(5):
                await queue.put(n)
            over.set()

        async def fail() -> None:
            await over.wait()
            raise ValueError("one fails")

        async def consume() -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(produce())
                group.create_task(fail())
                found.extend([await queue.get() for _ in range(5)])
                await asyncio.sleep(1_000.0)

        found: list[int] = []
        with pytest.raises(ExceptionGroup) as raised:
            await consume()
        assert raised.group_contains(ValueError, match="one fails")
        return found

    assert machine.run(work()) == [0, 1, 2, 3, 4]
    assert machine.clock.now == 0.0


def test_a_cancelled_task_unwinds_at_once(machine: Machine) -> None:
    seen: list[str] = []

    async def body() -> None:
        try:
            await asyncio.sleep(100.0)
        finally:
            seen.append("unwound")

    async def work() -> None:
        task = asyncio.create_task(body())
        await asyncio.sleep(1.0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    machine.run(work())
    assert seen == ["unwound"]
    assert machine.clock.now == 1.0


def test_an_exception_that_nobody_awaits_is_heard(machine: Machine) -> None:
    machine.loop.call_soon(lambda: 1 / 0)
    machine.settle()
    assert isinstance(machine.errors[0]["exception"], ZeroDivisionError)


def test_a_dead_loop_takes_nothing_and_runs_nothing(machine: Machine) -> None:
    machine.loop.call_later(1.0, lambda: pytest.fail("it is dead"))
    machine.loop.drop()
    machine.loop.call_soon(lambda: pytest.fail("it is dead"))
    assert not machine.clock.advance(10.0)
    assert not machine.loop.has_ready
    assert machine.loop.is_closed()
