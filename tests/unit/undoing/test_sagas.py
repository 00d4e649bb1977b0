"""Compensation from end to end: real agents, coordinator and engine, simulated world."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from pydantic import BaseModel

from holdfast.agents import (
    Agent,
    Context,
    DefinitionError,
    Fatal,
    Retry,
    RunFailed,
    SyncContext,
)
from holdfast.client import RunCancelled
from holdfast.client import RunFailed as Failed
from holdfast.schemas import Plan
from holdfast.schemas.plan_values import Expression
from holdfast.testing import SimulatedRun, Simulation

till, keeper = Agent("till"), Agent("keeper")
LEDGER: Counter[str] = Counter()
BROKEN: set[str] = set()


class Booking(BaseModel):
    what: str
    amount: int = 10


class Booked(BaseModel):
    what: str
    amount: int


class Said(BaseModel):
    text: str


def move(what: str, amount: int, *, idempotency_key: str) -> int:
    """Keep a ledger that honours idempotency keys, as a bank does."""
    LEDGER[f"{idempotency_key}/{what}"] = amount
    return amount


@till.task
async def charge(ctx: Context, booking: Booking) -> Booked:
    amount = await ctx.effect("move", move, booking.what, booking.amount, idempotent=True)
    return Booked(what=booking.what, amount=amount)


@till.task(retry=Retry(attempts=2, initial_s=1))
async def refund(ctx: Context, booked: Booked) -> None:
    if booked.what in BROKEN:
        raise Fatal(f"{booked.what} cannot be given back")
    await ctx.effect("move", move, booked.what, -booked.amount, idempotent=True)


@till.task
async def fail(ctx: Context, booking: Booking) -> None:
    raise Fatal("no more seats")


def saga() -> Plan:
    plan = Plan("saga")
    hotel = plan.task("hotel", charge, what="hotel", compensate=refund)
    items = plan.map(
        "seats",
        charge,
        over=[1, 2, 3],
        after=[hotel],
        what="seat",
        amount=Plan.item,
        compensate=refund,
    )
    plan.task("end", fail, after=[items], what="end")
    return plan


@keeper.task
async def watch(ctx: Context, booking: Booking) -> Said:
    try:
        await ctx.start_run(saga(), {})
    except RunFailed as error:
        return Said(text=error.failure.message)
    return Said(text="it went well")


@pytest.fixture(autouse=True)
def fresh() -> None:
    LEDGER.clear()
    BROKEN.clear()


def test_what_was_charged_is_given_back_when_the_run_fails() -> None:
    with Simulation([till, keeper]) as simulation:
        run = simulation.submit(saga())
        with pytest.raises(Failed, match="no more seats"):
            run.result()
        assert sum(LEDGER.values()) == 0
        assert len(LEDGER) == 8
        begun = [
            e.task.task_id
            for e in run.events
            if e.task is not None and e.type == "task.dispatched" and e.task.task_id[0] == "!"
        ]
        assert begun[-1] == "!hotel"
        assert sorted(begun[:-1]) == ["!seats.0", "!seats.1", "!seats.2"]
        assert simulation.violations() == []


def test_a_cancel_gives_back_or_not_as_it_says() -> None:
    plan = Plan("open", compensate_on="failure")
    first = plan.task("first", charge, what="first", compensate=refund)
    second = plan.task("second", charge, after=[first], what="second", compensate=refund)
    plan.task("wait", wait, after=[second], what="wait")
    with Simulation([till, keeper]) as simulation:
        kept, given, part = (simulation.submit(plan) for _ in range(3))
        simulation.until(lambda: all("wait" in run.tasks for run in (kept, given, part)))
        kept.cancel()
        given.cancel(compensate=True)
        part.cancel(compensate_from="second")
        for run in (kept, given, part):
            with pytest.raises(RunCancelled):
                run.result()
        assert sum(LEDGER.values()) == 20 + 0 + 10
        assert [t for t in part.tasks if t.startswith("!")] == ["!second"]
        assert simulation.violations() == []


@till.task
async def wait(ctx: Context, booking: Booking) -> None:
    await ctx.sleep("long", 86_400 * 7)


def test_what_is_stuck_stays_visible_until_it_is_dealt_with() -> None:
    BROKEN.add("hotel")
    with Simulation([till, keeper]) as simulation:
        run = simulation.submit(saga())
        simulation.until(lambda: "!hotel" in run.tasks and run.tasks["!hotel"].state == "dead")
        simulation.skip(hours=48)
        assert run.state == "compensating"
        assert simulation.violations() == []
        BROKEN.clear()
        run.replay("!hotel", reason="the hotel answers again")
        with pytest.raises(Failed):
            run.result()
        assert sum(LEDGER.values()) == 0
        assert simulation.violations() == []


def test_a_crash_at_any_step_leaves_nothing_charged_and_refunds_nothing_twice() -> None:
    crashes = 0
    for crash in Simulation.crashes(watch, Booking(what="x"), agents=[till, keeper]):
        LEDGER.clear()
        assert "no more seats" in crash.run().result().text
        assert sum(LEDGER.values()) == 0
        assert len(LEDGER) == 8
        crashes += 1
    assert crashes > 50


house = Agent("house")


@house.task
async def leave(ctx: Context, booked: Booked) -> None:
    await ctx.effect("move", move, booked.what, -booked.amount, idempotent=True)


@house.task(
    compensate={
        "task": leave,
        "input": {"what": Expression("given.what"), "amount": Expression("output.amount")},
    }
)
async def rent(ctx: Context, booking: Booking) -> Booked:
    amount = await ctx.effect("move", move, booking.what, booking.amount, idempotent=True)
    return Booked(what=f"{booking.what}!", amount=amount)


def test_an_agent_says_itself_how_its_work_is_undone_and_a_plan_may_say_otherwise() -> None:
    inner = Plan("inner")
    inner.task("deep", rent, what="deep")
    inner.task("fails", fail, after=["deep"], what="end")
    plan = Plan("rents", compensate_on="failure")
    first = plan.task("first", "house.rent", what="first")
    seats = plan.map("seats", rent, over=[1, 2], after=[first], what="seat", amount=Plan.item)
    kept = plan.task("kept", rent, after=[seats], what="kept", compensate=False)
    plan.task("inner", inner, after=[kept])
    with Simulation([till, house]) as simulation:
        run = simulation.submit(plan)
        with pytest.raises(Failed, match="no more seats"):
            run.result()
        assert sorted(begun(run)[:-1]) == ["!seats.0", "!seats.1"]
        assert begun(run)[-1] == "!first"
        assert sum(LEDGER.values()) == 10, "what the plan says is to be kept"
        assert simulation.violations() == []


def test_what_undoes_a_task_is_one_of_its_agent() -> None:
    with pytest.raises(DefinitionError, match=r"house\.x: compensate: 'till\.refund' is another"):
        house.task(name="x", compensate=refund)(leave.handler)
    with pytest.raises(DefinitionError, match=r"house\.x: compensate=7: give a task of the agent"):
        house.task(name="x", compensate=7)(leave.handler)  # type: ignore[call-overload]
    with pytest.raises(DefinitionError, match=r"house\.x: compensate: .*'leave' names no task"):
        house.task(name="x", compensate="leave")(leave.handler)
    with pytest.raises(DefinitionError, match=r"house\.x: compensate: whn: unknown setting"):
        house.task(name="x", compensate={"task": leave, "whn": 1})(leave.handler)


def pay(what: str, amount: int) -> Booked:
    """A step: what it did has to be given back too."""
    LEDGER[f"step/{what}"] = amount
    return Booked(what=what, amount=amount)


def pay_more(what: str, amount: int, *, idempotency_key: str) -> Booked:
    LEDGER[f"{idempotency_key}/{what}"] = amount
    return Booked(what=what, amount=amount)


@till.task(retry=Retry(attempts=2, initial_s=1))
async def several(ctx: Context, booking: Booking) -> Booked:
    name = f"{booking.what}-{booking.amount}"
    first = await ctx.step("first", pay, name, 5, compensate=refund)
    await ctx.effect("second", pay_more, name, 7, idempotent=True, compensate="till.refund")
    if booking.amount == 13:
        raise ValueError("nobody likes that number")
    return first


@till.task
def blocking(ctx: SyncContext, booking: Booking) -> Booked:
    first = ctx.step("first", pay, "sync", 5, compensate=refund)
    ctx.effect("second", pay_more, "sync", 7, idempotent=True, compensate=refund)
    raise Fatal(f"after {first.what}")


def begun(run: SimulatedRun[Any]) -> list[str]:
    """Return what was handed out to undo something, in order."""
    return [
        e.task.task_id
        for e in run.events
        if e.task is not None and e.type == "task.dispatched" and e.task.task_id[0] == "!"
    ]


def several_of(amounts: list[int], **settings: Any) -> Plan:
    plan = Plan("some")
    plan.map("all", several, over=amounts, what="x", amount=Plan.item, **settings)
    return plan


def test_steps_of_a_task_that_fails_for_good_are_undone_and_the_run_goes_on() -> None:
    with Simulation([till, keeper]) as simulation:
        run = simulation.submit(several_of([1, 13, 3], on_failure="collect"))
        assert len(run.result()) == 2
        assert len(begun(run)) == 2
        assert sum(LEDGER.values()) == 24
        assert "run.compensating" not in [e.type for e in run.events]
        assert simulation.violations() == []


def test_steps_are_undone_with_their_run_the_last_one_first() -> None:
    plan = Plan("steps")
    done = plan.task("done", several, what="a", amount=1)
    plan.task("failed", blocking, what="b", after=[done])
    with Simulation([till, keeper]) as simulation:
        run = simulation.submit(plan)
        with pytest.raises(Failed, match="after sync"):
            run.result()
        assert sum(LEDGER.values()) == 0
        undone = [call.arguments for call in run.calls("refund", kind="handler")]
        amounts = [given[0].amount for given in undone]
        assert amounts == [7, 5, 7, 5]
        assert simulation.violations() == []


def test_a_task_that_can_be_undone_itself_undoes_its_steps_too() -> None:
    plan = Plan("whole")
    done = plan.task(
        "done",
        several,
        what="a",
        amount=1,
        compensate={"task": refund, "input": {"what": "all", "amount": 12}},
    )
    plan.task("end", fail, after=[done], what="end")
    with Simulation([till, keeper]) as simulation:
        run = simulation.submit(plan)
        with pytest.raises(Failed):
            run.result()
        assert begun(run) == ["!done"]
        assert sum(LEDGER.values()) == 0
        assert simulation.violations() == []


def test_a_step_whose_undoing_nobody_offers_is_stuck_when_its_turn_comes() -> None:
    with Simulation([till, keeper]) as simulation:
        run = simulation.submit(lost, Booking(what="x"))
        simulation.until(lambda: run.state == "compensating")
        simulation.skip(hours=1)
        stuck = next(task for task in run.tasks.values() if task.task_id.startswith("!"))
        assert stuck.state == "dead"
        assert stuck.failure is not None
        assert "nobody" in stuck.failure.message
        assert simulation.violations() == []
        run.discard(stuck.task_id, reason="undone by hand")
        with pytest.raises(Failed):
            run.result()


@till.task
async def lost(ctx: Context, booking: Booking) -> None:
    await ctx.step("first", pay, "x", 5, compensate="nobody.undo")
    raise Fatal("no")


@keeper.task
async def watch_steps(ctx: Context, booking: Booking) -> Said:
    made = await ctx.start_run(several_of([1, 13], on_failure="collect"), {})
    return Said(text=str(len(made)))


def test_a_crash_at_any_step_undoes_each_step_once() -> None:
    crashes = 0
    for crash in Simulation.crashes(watch_steps, Booking(what="x"), agents=[till, keeper]):
        LEDGER.clear()
        assert crash.run().result().text == "1"
        assert sum(LEDGER.values()) == 12
        crashes += 1
    assert crashes > 50
