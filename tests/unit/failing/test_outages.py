"""Breakers from end to end: real agents, coordinator and engine, virtual time."""

from __future__ import annotations

import asyncio

import pytest
from pydantic import BaseModel

from holdfast.agents import (
    Agent,
    Breaker,
    Context,
    EffectNotApplied,
    Retry,
    RetryLater,
    SyncContext,
)
from holdfast.client import RunFailed
from holdfast.schemas import Plan
from holdfast.testing import Simulation

HOUR_S = 3_600.0
crm = Breaker("crm", failures=3, open_s=30, max_open_s=600)
ledger = Breaker("ledger", failures=3, open_s=30, max_open_s=600)
office = Agent("office", concurrency=2)
clerk = Agent("clerk", concurrency=4, breaker=ledger)


class World:
    """What the handlers reach for."""

    def __init__(self) -> None:
        self.down = False
        self.calls: list[str] = []
        self.bodies = 0


world = World()


class Order(BaseModel):
    n: int


class Done(BaseModel):
    text: str


class Orders(BaseModel):
    orders: list[Order]


@office.task
async def split(ctx: Context, orders: Orders) -> Orders:
    return orders


def reach(text: str) -> str:
    world.calls.append(text)
    if world.down or text == "bad":
        raise ConnectionRefusedError(f"nobody answers {text}")
    return text.upper()


def reach_with_key(text: str, idempotency_key: str) -> str:
    assert idempotency_key
    return reach(text)


class NoOrder(Exception):
    """A user's own, raised from what has happened."""


def pay_once(text: str, idempotency_key: str) -> str:
    try:
        return reach(text)
    except ConnectionRefusedError as error:
        raise EffectNotApplied("nobody was there") from error


@office.task(retry=Retry(attempts=2))
async def guarded(ctx: Context, order: Order) -> Done:
    world.bodies += 1
    return Done(text=await ctx.step("call", reach, f"order-{order.n}", breaker=crm))


@office.task(retry=Retry(attempts=2))
async def paid(ctx: Context, order: Order) -> Done:
    name = f"order-{order.n}"
    return Done(text=await ctx.effect("pay", reach_with_key, name, breaker=crm, idempotent=True))


@office.task(retry=Retry(attempts=2), uses=[crm])
def synchronous(ctx: SyncContext, order: Order) -> Done:
    world.bodies += 1
    return Done(text=ctx.step("call", reach, f"order-{order.n}", breaker=crm))


@clerk.task(retry=Retry(attempts=2))
async def booked(ctx: Context, order: Order) -> Done:
    return Done(text=reach(f"order-{order.n}"))


@office.task(retry=Retry(attempts=1), timeout_s=5)
async def timed(ctx: Context, order: Order) -> Done:
    name = f"order-{order.n}"
    try:
        async with asyncio.TaskGroup() as group:
            first = group.create_task(ctx.step("one", reach, name, breaker=crm))
            group.create_task(ctx.step("two", reach, f"{name}-two", breaker=crm))
    except* ConnectionError as errors:
        raise NoOrder(f"{name} cannot be made") from errors
    return Done(text=first.result())


@office.task(retry=Retry(attempts=1), timeout_s=5)
def timed_too(ctx: SyncContext, order: Order) -> Done:
    return Done(text=ctx.step("one", reach, f"order-{order.n}", breaker=crm))


@office.task(retry=Retry(attempts=1))
async def once(ctx: Context, order: Order) -> Done:
    """Its effect must not be called twice: it says itself when it was certainly not applied."""
    return Done(text=await ctx.effect("pay", pay_once, f"order-{order.n}", breaker=crm))


@office.task
async def free(ctx: Context, order: Order) -> Done:
    return Done(text=await ctx.step("free", str, order.n))


@office.task(retry=Retry(attempts=3, initial_s=0.1))
async def unlucky(ctx: Context, order: Order) -> Done:
    """What it asks for makes the other side hang up, whoever else is answered."""
    name = "bad" if order.n == 0 else f"order-{order.n}"
    return Done(text=await ctx.step("call", reach, name, breaker=crm))


@office.task(retry=Retry(attempts=2))
async def polite(ctx: Context, order: Order) -> Done:
    if ctx.attempt == 1:
        raise RetryLater(5 * HOUR_S, "the office is closed")
    return Done(text="served")


@pytest.fixture(autouse=True)
def fresh() -> None:
    world.__init__()  # type: ignore[misc]


def plan_of(task: str) -> Plan:
    plan = Plan("orders")
    orders = plan.task("split", "office.split", plan.input())
    plan.map("work", task, over=orders["orders"], max_parallel=20)
    return plan


EVERY_WAY = [
    "office.guarded",
    "office.paid",
    "office.synchronous",
    "office.timed",
    "office.timed_too",
    "office.once",
    "clerk.booked",
]


@pytest.mark.parametrize("task", EVERY_WAY)
def test_an_outage_of_two_hours_costs_few_calls_and_no_task(task: str) -> None:
    orders = {"orders": [{"n": n} for n in range(12)]}
    with Simulation([office, clerk]) as simulation:
        world.down = True
        run = simulation.submit(plan_of(task), orders)
        simulation.skip(hours=2)
        during = len(world.calls)
        # Three open it, four may be under way by then, and each call after that is a trial.
        assert 3 <= during <= 30, during
        if task == "office.synchronous":
            assert world.bodies <= 30, "it is not even started"
        assert not any(e.type in ("task.dead", "task.failed") for e in run.events)
        world.down = False
        result = run.result()
        assert sorted(done["text"] for done in result) == sorted(f"ORDER-{n}" for n in range(12))
        assert simulation.violations() == []


def test_a_call_that_is_to_come_later_is_made_then() -> None:
    with Simulation([office]) as simulation:
        run = simulation.submit(polite, Order(n=1))
        assert run.result() == Done(text="served")
        (retrying,) = (e for e in run.events if e.type == "task.retrying")
        assert "RetryLater" in retrying.message
        assert "as it asks for" in retrying.message
        assert retrying.task is not None
        assert retrying.task.retry_ms is not None
        waited_ms = retrying.task.retry_ms - retrying.at_ms
        assert 5 * HOUR_S * 1000 <= waited_ms <= 6 * HOUR_S * 1000 + 1
        assert simulation.violations() == []


@pytest.mark.parametrize("task", ["office.guarded", "clerk.booked"])
@pytest.mark.parametrize("victim", ["coordinator", "office", "clerk"])
def test_whoever_dies_in_an_outage_nothing_is_lost(task: str, victim: str) -> None:
    orders = {"orders": [{"n": n} for n in range(12)]}
    with Simulation([office, clerk], seed=3) as simulation:
        world.down = True
        run = simulation.submit(plan_of(task), orders)
        for _ in range(4):
            simulation.skip(minutes=7)
            simulation.crash(victim)
        simulation.skip(minutes=20)
        assert not any(e.type in ("task.dead", "task.failed") for e in run.events)
        world.down = False
        assert len(run.result()) == 12
        assert simulation.violations() == []


def test_those_who_wait_give_up_their_places_and_say_why() -> None:
    with Simulation([office]) as simulation:
        world.down = True
        stuck = simulation.submit(
            plan_of("office.guarded"), {"orders": [{"n": n} for n in range(9)]}
        )
        simulation.skip(minutes=3)
        assert simulation.submit(free, Order(n=7)).result(timeout_s=5) == Done(text="7")
        said = [e.message for e in stuck.events if e.type == "task.progressed"]
        assert any(
            message.startswith("waits for 'crm', out of reach for")
            and "ConnectionRefusedError" in message
            for message in said
        ), said
        stuck.cancel()
        simulation.until(lambda: stuck.state == "cancelled", timeout_s=30)
        assert simulation.violations() == []


def test_a_task_that_fails_while_others_are_answered_is_dead_lettered() -> None:
    orders = {"orders": [{"n": n} for n in range(80)]}
    plan = Plan("orders")
    split_ = plan.task("split", "office.split", plan.input())
    plan.map("work", unlucky, over=split_["orders"], max_parallel=2, on_failure="collect")
    with Simulation([office]) as simulation:
        run = simulation.submit(plan, orders)
        assert len(run.result(timeout_s=HOUR_S)) == 79
        assert world.calls.count("bad") == 1 + 3, "the first might have been an outage"
        assert run.tasks["work.0"].state == "failed"
        assert simulation.violations() == []


def test_without_a_breaker_the_same_outage_uses_up_the_attempts() -> None:
    """What the tests above would miss if breakers did nothing."""
    bare = Agent("bare")

    @bare.task(retry=Retry(attempts=2))
    async def call(ctx: Context, order: Order) -> Done:
        return Done(text=await ctx.step("call", reach, "x"))

    with Simulation([bare]) as simulation:
        world.down = True
        run = simulation.submit(call, Order(n=1))
        with pytest.raises(RunFailed):
            run.result()


def test_an_agents_breaker_counts_its_attempts_time_outs() -> None:
    slow = Agent("slow", breaker=Breaker("model", failures=2, open_s=60))

    @slow.task(retry=Retry(attempts=1), timeout_s=10)
    async def think(ctx: Context, order: Order) -> Done:
        world.bodies += 1
        if world.down:
            await asyncio.sleep(HOUR_S)
        return Done(text="thought")

    with Simulation([slow]) as simulation:
        world.down = True
        run = simulation.submit(think, Order(n=1))
        simulation.skip(hours=1)
        assert 2 <= world.bodies <= 12
        world.down = False
        assert run.result(timeout_s=HOUR_S) == Done(text="thought")
        reasons = [e.message for e in run.events if e.type == "task.retrying"]
        assert all("TimeoutError: 'model' is out of reach" in reason for reason in reasons)
        assert simulation.violations() == []


def test_policies_by_class_hold_from_end_to_end() -> None:
    mixed = Agent("mixed")
    plan = Plan("mixed")

    class Busy(Exception):
        retry_after_s = 60

    @mixed.task(retry=Retry(attempts=2, by_error={Busy: Retry(attempts=40)}))
    async def work(ctx: Context, order: Order) -> Done:
        world.bodies += 1
        if world.bodies <= 30:
            raise Busy("not now")
        if world.bodies == 31:
            raise ValueError("once")
        return Done(text="done")

    @mixed.task(retry=Retry(attempts=9))
    async def refused(ctx: Context, order: Order) -> Done:
        world.calls.append("refused")
        raise ConnectionResetError("for good")

    plan.task("one", work, n=1)
    plan.task(
        "two", refused, retry=Retry(attempts=9, never=("ConnectionError",)), after=["one"], n=2
    )
    with Simulation([mixed]) as simulation:
        run = simulation.submit(plan, {})
        with pytest.raises(RunFailed, match="for good"):
            run.result(timeout_s=HOUR_S)
        assert run.tasks["one"].attempt == 32
        assert world.calls == ["refused"]
        retried = [e.message for e in run.events if e.type == "task.retrying"]
        assert "failure 30 of 40 by the policy for" in retried[29]
        assert "ValueError, failure 1 of 2;" in retried[30]
        assert simulation.violations() == []
