"""Gates: who is let through when, and what an agent's slot makes of it."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from holdfast.agents import Agent, Breaker, Context
from holdfast.agents.circuits import Circuits, Gate, Passage
from holdfast.agents.errors import DefinitionError
from holdfast.bus.port import Bus, Environment
from holdfast.schemas.records import BreakerState, Outcome
from tests.unit.agents.fake_slot import FakeSlot
from tests.unit.agents.virtual import START_MS
from tests.unit.agents.workers import Number, check

CRM = Breaker("crm", failures=2, open_s=10)


def circuits(changes: list[float] | None = None) -> Circuits:
    loop = asyncio.get_running_loop()
    environment = Environment(
        bus=cast(Bus, None),
        now_ms=lambda: START_MS + round(loop.time() * 1_000),
        monotonic=loop.time,
    )
    seen = [] if changes is None else changes
    return Circuits(environment, "worker", lambda: seen.append(loop.time()))


def enter(gate: Gate) -> Passage:
    passage = gate.try_enter()
    assert passage is not None
    return passage


def broken(made: Circuits) -> Gate:
    gate = made.of(CRM)
    for n in range(2):
        assert gate.settle(enter(gate), f"r/{n}", ConnectionError("gone")) is not None
    return gate


@check
async def test_those_who_wait_are_let_in_one_by_one_and_then_all() -> None:
    made = circuits()
    gate = broken(made)
    assert gate.try_enter() is None
    waiting = [gate.queue() for _ in range(4)]
    (row,) = made.rows()
    assert (row.state, row.held, row.error) == (BreakerState.OPEN, 4, "ConnectionError: gone")
    assert (row.since_ms, row.until_ms) == (START_MS, START_MS + 10_000)
    await asyncio.sleep(10.1)
    assert [future.done() for future in waiting] == [True, False, False, False]
    (row,) = made.rows()
    assert (row.state, row.until_ms, row.held) == (BreakerState.HALF_OPEN, None, 3)
    waiting[1].cancel()
    outage = gate.settle(waiting[0].result(), "r/0", TimeoutError())
    assert outage is not None
    assert (outage.breaker, outage.retry_after_ms) == ("crm", 20_000)
    await asyncio.sleep(20.1)
    assert [future.done() for future in waiting] == [True, True, True, False]
    assert gate.settle(waiting[2].result(), "r/2", ValueError("no such customer")) is None
    assert waiting[3].done(), "another error shows that it can be reached"
    assert made.rows() == []


@check
async def test_a_call_that_is_not_made_frees_its_turn() -> None:
    changes: list[float] = []
    gate = broken(circuits(changes))
    first, second = gate.queue(), gate.queue()
    await asyncio.sleep(10.1)
    gate.left(first.result())
    gate.left(first.result())
    assert second.done()
    gate.succeeded(second.result())
    await asyncio.sleep(0)
    assert changes[-1] == pytest.approx(10.1)


@check
async def test_what_was_kept_back_is_told_when_the_time_has_come() -> None:
    changes: list[float] = []
    made = circuits(changes)
    broken(made)
    await asyncio.sleep(0)
    before = made.changes
    await asyncio.sleep(30)
    assert made.changes == before + 1, "once, for nobody waits"
    assert changes[-1] == pytest.approx(10)


@check
async def test_two_breakers_of_one_name_must_be_one() -> None:
    made = circuits()
    assert made.of(CRM) is made.of(Breaker("crm", failures=2, open_s=10))
    with pytest.raises(DefinitionError, match="two breakers 'crm'"):
        made.of(Breaker("crm", failures=3))


def worker(seen: list[str], **options: Any) -> Agent:
    agent = Agent("worker", concurrency=1, **options)

    def call(number: int) -> int:
        seen.append(f"call {number}")
        if number < 2:
            raise ConnectionError("gone")
        return number

    @agent.task
    async def guarded(ctx: Context, number: Number) -> Number:
        seen.append(f"begin {number.n}")
        return Number(n=await ctx.step("call", call, number.n, breaker=CRM))

    @agent.task
    async def plain(ctx: Context, number: Number) -> Number:
        seen.append(f"plain {number.n}")
        return number

    @agent.task(uses=[CRM])
    async def later(ctx: Context, number: Number) -> Number:
        seen.append(f"later {number.n}")
        return number

    return agent


@check
async def test_who_waits_gives_up_its_place_and_what_uses_it_is_not_started() -> None:
    seen: list[str] = []
    slot = FakeSlot(worker(seen))
    slot.boot(clean=True)
    for n in range(4):
        slot.send("guarded", task_id=f"g{n}", value=Number(n=n))
    slot.send("later", task_id="l", value=Number(n=8))
    slot.send("plain", task_id="p", value=Number(n=9))
    await slot.work(seconds=5)
    assert "plain 9" in seen, "the one place is free"
    assert "call 2" not in seen
    assert "later 8" not in seen
    failed = slot.result(task_id="g1").failure
    assert failed is not None
    assert (failed.breaker, failed.retryable) == ("crm", True)
    assert failed.retry_after_ms == pytest.approx(10_000, abs=100)
    await slot.work(seconds=10)
    assert slot.result(task_id="g2").outcome is Outcome.SUCCEEDED
    assert slot.result(task_id="l").outcome is Outcome.SUCCEEDED
    assert slot.machine.idle()


@check
async def test_a_slot_that_is_given_up_gives_back_what_waits_for_a_breaker() -> None:
    seen: list[str] = []
    slot = FakeSlot(worker(seen))
    slot.boot(clean=True)
    for n in range(3):
        slot.send("guarded", task_id=f"g{n}", value=Number(n=n))
    await slot.work(seconds=2)
    assert not slot.machine.idle()
    slot.machine.quiesce()
    await slot.work(seconds=0.1)
    assert slot.machine.idle()
    slot.crash()
    slot.boot()
    await slot.work(seconds=2)
    assert slot.result(task_id="g2").outcome is Outcome.SUCCEEDED, "the new process has no circuit"


@check
async def test_a_task_behind_two_open_breakers_costs_nothing_while_it_waits() -> None:
    """Once each look at it took the first one's trial and gave it back, which was a change, which
    called for two looks: the loop was never idle again."""
    soon, late = Breaker("soon", failures=1, open_s=1), Breaker("late", failures=1, open_s=3)
    agent = Agent("worker", concurrency=2)

    @agent.task(uses=(soon, late))
    async def uses(ctx: Context, number: Number) -> Number:
        return number

    slot = FakeSlot(agent)
    slot.boot(clean=True)
    gates = [slot.machine.circuits.of(breaker) for breaker in (soon, late)]
    for gate in gates:
        gate.settle(enter(gate), "x/y", ConnectionError("gone"))
    slot.send("uses", "a")
    slot.send("uses", "b")
    await slot.settle(8)
    await asyncio.sleep(1.3)  # the time of one of them has come
    before = slot.machine.circuits.changes
    slot.places.offer()
    await slot.settle(10)
    seen = slot.machine.circuits.changes - before
    slot.machine._admission.clear() if seen else None  # else this very test would never end
    assert seen == 0
    assert gates[0].try_enter() is not None, "nobody holds its trial"
    await asyncio.sleep(2)
    await slot.work(lambda: len(slot.results) == 2, seconds=1)
    assert [result.outcome for result in slot.results] == [Outcome.SUCCEEDED] * 2


@check
async def test_many_changes_at_once_are_told_once() -> None:
    changes: list[float] = []
    gate = broken(circuits(changes))
    await asyncio.sleep(10.1)
    changes.clear()
    for _ in range(5):
        gate.left(enter(gate))
    await asyncio.sleep(0)
    assert len(changes) == 1
    gate.left(enter(gate))
    await asyncio.sleep(0)
    assert len(changes) == 2, "and the next ones again"
