"""A task that hands out items while it works, and stops at a gate half-way: a file."""

from __future__ import annotations

from pydantic import BaseModel

from holdfast.agents import Agent, Context
from holdfast.schemas import Plan
from tests.acceptance.agents import passed, witness

PAGES, ITEMS = 24, 10
HALF = PAGES * ITEMS // 2
GATE = "half"

scout = Agent("scout", concurrency=2)
reader = Agent("reader", concurrency=8)


class Search(BaseModel):
    pages: int = PAGES


class Item(BaseModel):
    page: int
    number: int


class Found(BaseModel):
    items: int


class Part(BaseModel):
    previous: Found | None
    items: list[Found]


async def listed(run_id: str, page: int) -> list[int]:
    """A step: what one page holds."""
    witness("pages", run_id, page)
    return list(range(page * ITEMS, (page + 1) * ITEMS))


@scout.task
async def search(ctx: Context, given: Search) -> Found:
    witness("executions", ctx.run_id)
    for page in range(given.pages):
        numbers = await ctx.step("list", listed, ctx.run_id, page, key=str(page))
        await ctx.emit(Item(page=page, number=numbers[0]))
        await ctx.emit_many(Item(page=page, number=number) for number in numbers[1:])
        if page == given.pages // 2 - 1:
            await passed(GATE)
    return Found(items=given.pages * ITEMS)


async def looked_at(run_id: str, task_id: str, number: int) -> int:
    """A step: one item is read."""
    witness("items", f"{run_id}/{task_id}", number)
    return number


@reader.task
async def read(ctx: Context, item: Item) -> Found:
    number = await ctx.step("read", looked_at, ctx.run_id, ctx.task_id, item.number)
    return Found(items=number)


@reader.task
async def add(ctx: Context, part: Part) -> Found:
    before = 0 if part.previous is None else part.previous.items
    return Found(items=before + sum(each.items for each in part.items))


def crawl(*, reduced: bool) -> Plan:
    """A search, and a map over what it finds; its outputs as they are, or their sum."""
    plan = Plan("crawl")
    found = plan.task("search", search)
    plan.map("read", read, over=found.emitted, max_parallel=6, reduce=add if reduced else None)
    return plan
