"""Agents that charge and give back: every movement is written to a ledger outside."""

from __future__ import annotations

import asyncio

from pydantic import BaseModel

from holdfast.agents import Agent, Context, Fatal, Retry
from holdfast.schemas import Plan
from tests.acceptance.agents import witness

SEATS = 6
"""Items of the map in each run."""

till = Agent("till", concurrency=4)


class Order(BaseModel):
    what: str
    amount: int


class Paid(BaseModel):
    what: str
    amount: int


async def move(run_id: str, what: str, amount: int, *, idempotency_key: str) -> int:
    """Move money: a line with the key, by which the ledger knows a movement that comes twice."""
    witness("ledger", idempotency_key, run_id, what, str(amount))
    await asyncio.sleep(0.1)
    return amount


@till.task
async def charge(ctx: Context, order: Order) -> Paid:
    """Charge."""
    await ctx.effect("move", move, ctx.run_id, order.what, order.amount, idempotent=True)
    return Paid(what=order.what, amount=order.amount)


@till.task(retry=Retry(attempts=5, initial_s=0.1))
async def refund(ctx: Context, paid: Paid) -> None:
    """Give back; the first attempt of some fails."""
    if ctx.attempt == 1 and paid.what.endswith("2"):
        raise ConnectionError("the bank is busy")
    await ctx.effect("move", move, ctx.run_id, paid.what, -paid.amount, idempotent=True)


async def drink(run_id: str) -> Paid:
    """A step of a handler that fails."""
    witness("ledger", f"{run_id}/bar", run_id, "bar", "5")
    return Paid(what="bar", amount=5)


@till.task(retry=Retry(attempts=1))
async def give_up(ctx: Context, order: Order) -> None:
    """What makes the run fail, after a step that has charged too."""
    await ctx.step("bar", drink, ctx.run_id, compensate=refund)
    raise Fatal("no seats left")


def saga() -> Plan:
    """Return a plan that charges for nine things, the last one in the step of a task that fails."""
    plan = Plan("saga")
    hotel = plan.task("hotel", charge, what="hotel", amount=70, compensate=refund)
    seats = plan.map(
        "seats",
        charge,
        over=[f"seat-{n}" for n in range(SEATS)],
        what=Plan.item,
        amount=10,
        after=[hotel],
        max_parallel=3,
        compensate=refund,
    )
    car = plan.task("car", charge, what="car", amount=30, after=[seats], compensate=refund)
    plan.task("end", give_up, what="end", amount=0, after=[car])
    return plan
