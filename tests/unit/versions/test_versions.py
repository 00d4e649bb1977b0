"""New code under tasks in flight, from end to end in the simulated world."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from holdfast.agents import Agent, Context, SyncContext
from holdfast.client import CommandRefused
from holdfast.schemas import Plan
from holdfast.schemas.records import Event, EventType
from holdfast.testing import Simulation
from holdfast.testing.simulated import SimulatedRun

SENT: list[tuple[str, str]] = []
Body = Callable[[Context], Any]


class Order(BaseModel):
    text: str = "x"


def said(text: str) -> str:
    return text


def pay(what: str, *, idempotency_key: str) -> str:
    SENT.append((what, idempotency_key))
    return what


@pytest.fixture(autouse=True)
def fresh() -> None:
    SENT.clear()


def shop(version: str, body: Body, **options: Any) -> Agent:
    agent = Agent("shop", version=version)

    @agent.task(name="sell", **options)
    async def sell(ctx: Context, order: Order) -> Order:
        return Order(text=await body(ctx))

    return agent


async def first_code(ctx: Context) -> str:
    before = await ctx.step("price", said, "10")
    await ctx.effect("pay", pay, before, idempotent=True)
    await ctx.sleep("cool-off", timedelta(days=3))
    return str(await ctx.step("invoice", said, "old"))


def waiting_plan() -> Plan:
    plan = Plan("selling", on_dead_letter="wait")
    plan.task("sell", "shop.sell", text="x")
    return plan


def begun(simulation: Simulation) -> SimulatedRun[Any]:
    """A run whose handler sleeps, under the first code."""
    run = simulation.submit(waiting_plan())
    simulation.until(lambda: run.waits)
    simulation.skip(minutes=1)
    return run


def parked(simulation: Simulation, run: SimulatedRun[Any]) -> Event:
    simulation.until(lambda: any(e.type is EventType.TASK_DEAD for e in run.events))
    dead = [e for e in run.events if e.type is EventType.TASK_DEAD]
    return dead[-1]


async def drops_a_step(ctx: Context) -> str:
    await ctx.effect("pay", pay, "10", idempotent=True)
    await ctx.sleep("cool-off", timedelta(days=3))
    return str(await ctx.step("bill", said, "new"))


def test_code_that_does_not_fit_parks_the_task_with_a_diff_and_what_can_be_done() -> None:
    with Simulation([shop("1", first_code)]) as simulation:
        run = begun(simulation)
        simulation.deploy(shop("2", drops_a_step))
        event = parked(simulation, run)
        assert event.task is not None
        assert event.task.failure is not None
        assert event.task.build_id.startswith("2+holdfast-")
        text = event.task.failure.message
        assert "--- journaled (builds 1, 2)" in text
        assert "+++ this code (build 2)" in text
        assert "- price  [step, attempt 1, build 1]  <- the first difference" in text
        assert "  pay  [effect, attempt 1, build 1]" in text
        assert "@shop.keep(sell, '1')" in text
        assert f"holdfast run restart-task {run.id} sell --reason WHY" in text
        assert f"holdfast dead-letters replay {run.id}/sell/1" in text
        assert simulation.violations() == []


def test_a_restarted_task_begins_anew_and_its_effects_keep_their_keys() -> None:
    with Simulation([shop("1", first_code)]) as simulation:
        run = begun(simulation)
        simulation.deploy(shop("2", drops_a_step))
        parked(simulation, run)
        run.restart_task("sell", reason="new code")
        run.result()
        assert [what for what, _ in SENT] == ["10", "10"]
        assert len({key for _, key in SENT}) == 1
        assert run.tasks["sell"].attempt == 2
        told = [e for e in run.events if e.type is EventType.COMMAND_ACCEPTED]
        assert "restart sell" in told[-1].message
        assert "new code" in told[-1].message
        assert simulation.violations() == []


def test_a_task_at_work_is_restarted_once_its_attempt_has_ended() -> None:
    with Simulation([shop("1", first_code)]) as simulation:
        run = begun(simulation)
        simulation.deploy(shop("2", drops_a_step))
        run.restart_task("sell", reason="do not wait for three days")
        run.result()
        assert run.tasks["sell"].attempt == 2
        assert run.tasks["sell"].output is not None
        slept = [e for e in run.events if e.type is EventType.ASK_CLOSED]
        assert len(slept) == 1
        with pytest.raises(CommandRefused, match="closed"):
            run.restart_task("sell")
        assert simulation.violations() == []


async def patched_code(ctx: Context) -> str:
    before = await ctx.step("price", said, "10")
    if await ctx.patched("thank"):
        await ctx.step("thank", said, "thanks")
    await ctx.effect("pay", pay, before, idempotent=True)
    await ctx.sleep("cool-off", timedelta(days=3))
    if await ctx.patched("bill"):
        return str(await ctx.step("bill", said, "new"))
    return str(await ctx.step("invoice", said, "old"))


def names(run: SimulatedRun[Any]) -> list[str]:
    """What its last execution ran or found, but for the sleep."""
    return [step.name for step in run.steps("sell") if step.name != "cool-off"]


def test_a_patch_is_taken_where_no_older_code_has_come_further() -> None:
    with Simulation([shop("1", first_code)]) as simulation:
        old = begun(simulation)
        simulation.deploy(shop("2", patched_code))
        new = simulation.submit(waiting_plan())
        old.result()
        new.result()
        assert names(old) == ["price", "pay", "bill"]  # beyond the sleep none had come
        assert names(new) == ["price", "thank", "pay", "bill"]
        assert simulation.violations() == []


async def without_the_patch(ctx: Context) -> str:
    before = await ctx.step("price", said, "10")
    await ctx.step("thank", said, "thanks")
    await ctx.effect("pay", pay, before, idempotent=True)
    await ctx.sleep("cool-off", timedelta(days=3))
    return str(await ctx.step("bill", said, "new"))


def test_a_patch_may_be_removed_under_tasks_that_have_taken_it() -> None:
    with Simulation([shop("2", patched_code)]) as simulation:
        run = begun(simulation)
        simulation.deploy(shop("3", without_the_patch))
        run.result()
        assert names(run) == ["price", "thank", "pay", "bill"]
        assert simulation.violations() == []


def test_every_crash_of_a_patched_handler_ends_the_same_way() -> None:
    crashes = 0
    for crash in Simulation.crashes(waiting_plan(), agents=[shop("2", patched_code)], of=["shop"]):
        SENT.clear()
        run = crash.run(check_invariants=True)
        run.result()
        assert names(run) == ["price", "thank", "pay", "bill"], crash
        crashes += 1
    assert crashes > 10


def test_a_handler_that_is_kept_ends_what_its_build_has_begun() -> None:
    second = shop("2", drops_a_step)

    @second.keep(second.tasks["sell"], "1")
    async def sell_1(ctx: Context, order: Order) -> Order:
        return Order(text=await first_code(ctx))

    with Simulation([shop("1", first_code)]) as simulation:
        old = begun(simulation)
        simulation.deploy(second)
        new = simulation.submit(waiting_plan())
        old.result()
        new.result()
        assert names(old) == ["price", "pay", "invoice"]
        assert names(new) == ["pay", "bill"]
        assert simulation.violations() == []


def test_a_result_of_another_type_is_a_mismatch_and_not_an_error_to_be_tried_again() -> None:
    async def words(ctx: Context) -> str:
        await ctx.step("price", said, "10")
        await ctx.sleep("cool-off", 100)
        return "done"

    async def other(ctx: Context) -> str:
        await ctx.step("price", listed, "10")
        await ctx.sleep("cool-off", 100)
        return "done"

    with Simulation([shop("1", words)]) as simulation:
        run = begun(simulation)
        simulation.deploy(shop("2", other))
        event = parked(simulation, run)
        assert event.task is not None
        assert event.task.failure is not None
        assert event.task.failure.kind == "mismatch"
        assert "! price  [step, attempt 1, build 1]" in event.task.failure.message


def listed(text: str) -> list[int]:
    return [len(text)]


def test_synchronous_handlers_are_patched_too() -> None:
    def old(ctx: SyncContext) -> str:
        ctx.step("price", said, "10")
        ctx.sleep("cool-off", 3_600)
        ctx.step("invoice", said, "old")
        return "old"

    def new(ctx: SyncContext) -> str:
        if ctx.patched("first"):
            ctx.step("first", said, "1")
        ctx.step("price", said, "10")
        ctx.sleep("cool-off", 3_600)
        ctx.step("invoice", said, "old")
        return "new"

    def agent(version: str, body: Callable[[SyncContext], str]) -> Agent:
        made = Agent("shop", version=version)

        @made.task(name="sell")
        def sell(ctx: SyncContext, order: Order) -> Order:
            return Order(text=body(ctx))

        return made

    with Simulation([agent("1", old)]) as simulation:
        first = begun(simulation)
        simulation.deploy(agent("2", new))
        second = simulation.submit(waiting_plan())
        first.result()
        second.result()
        assert names(first) == ["price", "invoice"]
        assert names(second) == ["first", "price", "invoice"]
        assert simulation.violations() == []
