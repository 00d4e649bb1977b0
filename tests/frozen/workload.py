"""The agents and plans of the frozen logs. Written against the oldest version that has one.

What a gate holds up is in flight when the log is frozen; the code that goes on from it is given
open gates. Steps and names are never to be changed: they stand in the logs.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from pydantic import BaseModel

from holdfast.agents import Agent, Context, Fatal, Retry
from holdfast.schemas import Plan

__all__ = ["ABSENT", "Gates", "Item", "Items", "Word", "make_absent", "make_worker", "plans"]

ABSENT = "absent"
RETRY_S = 30.0


class Word(BaseModel):
    text: str = ""


class Item(BaseModel):
    n: int = 0


class Items(BaseModel):
    items: list[int] = []


@dataclass
class Gates:
    """What holds handlers up. `mended`: what was wrong with the world is not any more."""

    held: asyncio.Event = field(default_factory=asyncio.Event)
    late: asyncio.Event = field(default_factory=asyncio.Event)
    mended: bool = False
    calls: list[str] = field(default_factory=list)

    @classmethod
    def opened(cls) -> Gates:
        """Return gates that hold up nobody."""
        gates = cls(mended=True)
        gates.held.set()
        gates.late.set()
        return gates


def make_worker(gates: Gates) -> Agent:
    """Return the agent that had most of its work in flight."""
    agent = Agent("worker", concurrency=50, version="frozen")

    def noted(text: str) -> str:
        gates.calls.append(text)
        return text

    def pay(text: str, *, idempotency_key: str) -> str:
        gates.calls.append(f"pay {text} {idempotency_key}")
        return text

    async def pay_slowly(text: str, *, idempotency_key: str) -> str:
        gates.calls.append(f"pay {text} {idempotency_key}")
        await gates.held.wait()
        return text

    @agent.task
    async def plain(ctx: Context, word: Word) -> Word:
        return Word(text=word.text.upper())

    @agent.task
    async def steps(ctx: Context, word: Word) -> Word:
        first = await ctx.step("first", noted, f"first {word.text}")
        for key in ("a", "b"):
            await ctx.step("each", noted, f"{key} {word.text}", key=key)
        await ctx.effect("pay", pay, word.text, idempotent=True)
        await gates.held.wait()
        return Word(text=await ctx.step("last", noted, f"last of {first}"))

    @agent.task
    async def open_effect(ctx: Context, word: Word) -> Word:
        return Word(text=await ctx.effect("pay", pay_slowly, word.text, idempotent=True))

    @agent.task(retry=Retry(attempts=5, initial_s=RETRY_S, jitter=0))
    async def fails(ctx: Context, word: Word) -> Word:
        kept = await ctx.step("kept", noted, f"kept {word.text}")
        if not gates.mended:
            raise ValueError("the world is broken")
        return Word(text=kept)

    @agent.task
    async def fatal(ctx: Context, word: Word) -> Word:
        await ctx.step("before", noted, f"before {word.text}")
        if not gates.mended:
            raise Fatal("somebody has to look into this")
        return word

    @agent.task
    async def late(ctx: Context, word: Word) -> Word:
        await gates.late.wait()
        return Word(text=f"late {word.text}")

    @agent.task
    async def lists(ctx: Context, word: Word) -> Items:
        return Items(items=list(range(6)))

    @agent.task
    async def one(ctx: Context, item: Item) -> Item:
        if item.n >= 2:
            await gates.held.wait()
        return Item(n=item.n * 10)

    return agent


def make_absent() -> Agent:
    """Return the agent that was known, and down when the log was frozen."""
    agent = Agent(ABSENT, version="frozen")

    @agent.task
    async def later(ctx: Context, word: Word) -> Word:
        return Word(text=f"later {word.text}")

    return agent


def plans() -> dict[str, Plan]:
    """Return the plans, by the ids of the runs that are made of them."""
    found = {name: _lone(name) for name in ("plain", "steps", "open_effect", "fails", "late")}
    found["fatal"] = _lone("fatal", on_dead_letter="wait")
    found["failed"] = _lone("fatal", plan_name="failed")
    found["absent"] = _lone("later", agent=ABSENT)
    found["paused"] = _chain()
    found["mapped"] = _mapped()
    found["ordered-1"] = found["ordered-2"] = _lone("steps", plan_name="ordered", order_key="k")
    return found


def _lone(
    task: str,
    *,
    agent: str = "worker",
    plan_name: str | None = None,
    on_dead_letter: str = "fail",
    order_key: str | None = None,
) -> Plan:
    name = plan_name or task.replace("_", "-")
    plan = Plan(name, on_dead_letter=on_dead_letter, order_key=order_key)  # type: ignore[arg-type]
    plan.task("only", f"{agent}.{task}", text=plan.input("text"))
    return plan


def _chain() -> Plan:
    plan = Plan("paused")
    first = plan.task("first", "worker.steps", text=plan.input("text"))
    plan.task("second", "worker.plain", text=first["text"])
    return plan


def _mapped() -> Plan:
    plan = Plan("mapped")
    listed = plan.task("list", "worker.lists", text="x")
    plan.map("each", "worker.one", n=plan.item, over=listed["items"], max_parallel=3)
    return plan
