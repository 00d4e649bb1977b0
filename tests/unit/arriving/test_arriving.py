"""Maps over items that a handler hands out while it works, end to end; with crashes."""

from __future__ import annotations

from pydantic import BaseModel

from holdfast.agents import Agent, Context, Retry
from holdfast.schemas import Plan
from holdfast.testing import Simulation

scout, reader = Agent("scout", concurrency=1), Agent("reader", concurrency=4)


class Folder(BaseModel):
    pages: int = 5


class Page(BaseModel):
    number: int


class Found(BaseModel):
    pages: int


class Read(BaseModel):
    number: int


async def listed(pages: int) -> list[int]:
    return list(range(pages))


@scout.task
async def find(ctx: Context, folder: Folder) -> Found:
    pages = await ctx.step("list", listed, folder.pages)
    for number in pages[:2]:
        await ctx.emit(Page(number=number))
    await ctx.emit_many(Page(number=number) for number in pages[2:])
    return Found(pages=len(pages))


@scout.task(retry=Retry(attempts=2, initial_s=1))
async def stumble(ctx: Context, folder: Folder) -> Found:
    for number in range(folder.pages):
        await ctx.emit(Page(number=number))
        if number == 2 and ctx.attempt == 1:
            raise ConnectionError("it was cut")
    return Found(pages=folder.pages)


@scout.task
async def dawdle(ctx: Context, folder: Folder) -> Found:
    for number in range(folder.pages):
        await ctx.emit(Page(number=number))
        await ctx.sleep("rest", 2, key=str(number))
    return Found(pages=folder.pages)


@reader.task
async def read(ctx: Context, page: Page) -> Read:
    return Read(number=page.number * 10)


AGENTS = [scout, reader]


def pages(**settings: object) -> Plan:
    plan = Plan("pages")
    found = plan.task("find", find, pages=plan.input("pages"))
    plan.map("read", read, over=found.emitted, **settings)  # type: ignore[arg-type]
    return plan


def test_items_are_worked_as_they_come() -> None:
    with Simulation(AGENTS) as simulation:
        run = simulation.submit(pages(), {"pages": 5})
        assert [each["number"] for each in run.result()] == [0, 10, 20, 30, 40]
        assert simulation.violations() == []


def test_the_next_attempt_hands_out_nothing_twice() -> None:
    plan = Plan("stumbling")
    plan.map("read", read, over=plan.task("find", stumble, pages=5).emitted, max_parallel=1)
    with Simulation(AGENTS) as simulation:
        run = simulation.submit(plan)
        assert [each["number"] for each in run.result()] == [0, 10, 20, 30, 40]
        assert simulation.violations() == []


def test_a_queue_timeout_that_comes_between_two_items_is_nothing() -> None:
    # It leaves no event, and the items that are taken after it none that tells of it.
    plan = Plan("dawdling")
    found = plan.task("find", dawdle, pages=3, queue_timeout_s=3)
    plan.map("read", read, over=found.emitted)
    with Simulation(AGENTS) as simulation:
        run = simulation.submit(plan)
        assert [each["number"] for each in run.result()] == [0, 10, 20]
        assert simulation.violations() == []


def test_a_crash_at_any_step_changes_nothing() -> None:
    for crash in Simulation.crashes(pages(), {"pages": 5}, agents=AGENTS):
        found = crash.run().result()
        assert [each["number"] for each in found] == [0, 10, 20, 30, 40], crash
