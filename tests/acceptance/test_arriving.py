"""Maps over items that a task hands out, while coordinator and agents die by `kill -9`.

Both runs stand half-way when the coordinator dies; the search goes on while nobody takes what it
hands out, and dies then too. What each body did stands in a file outside, one line each.
"""

from __future__ import annotations

import asyncio
from collections import Counter

from holdfast.client import Client
from holdfast.schemas.records import EventType
from tests.acceptance.arriving_agents import GATE, HALF, ITEMS, PAGES, crawl
from tests.acceptance.deployment import Deployment, witnessed
from tests.acceptance.observer import observing
from tests.waiting import until

MODULE = "tests.acceptance.arriving_agents"
SLOW_S = 180.0
ALL = PAGES * ITEMS
PLANS = {"list": crawl(reduced=False), "sum": crawl(reduced=True)}


async def test_each_item_is_worked_once_whoever_dies(place: Deployment) -> None:
    place.coordinator("c1")
    place.agent("scout", module=MODULE)
    place.agent("reader", module=MODULE)
    await asyncio.to_thread(place.wait_ready)
    async with (
        observing(place) as seen,
        Client(url=place.bus, namespace=place.namespace) as client,
    ):
        runs = {name: await client.submit(plan, {}, run_id=name) for name, plan in PLANS.items()}
        half = len(PLANS) * HALF
        await until(lambda: lines(place, "items") == half, "both are half-way", SLOW_S)
        place.kill("c1")
        (place.folder / GATE).touch()
        pages = len(PLANS) * (PAGES // 2)
        await until(lambda: lines(place, "pages") > pages, "the search goes on", SLOW_S)
        place.kill("scout-1")
        await again(place, "scout-1", "c1")
        await until(lambda: lines(place, "items") > half * 3 / 2, "the items do too", SLOW_S)
        place.kill("c1")
        place.kill("reader-1")
        await again(place, "c1", "reader-1")
        results = {name: await run.result(timeout_s=SLOW_S) for name, run in runs.items()}
    assert [each["items"] for each in results["list"]] == list(range(ALL))
    assert results["sum"]["items"] == sum(range(ALL))
    check(place)
    taken = [e for e in seen.events if e.type is EventType.TASK_EXPANDED]
    assert {e.task.task_id for e in taken if e.task is not None} == {"read"}


def lines(place: Deployment, what: str) -> int:
    """How many lines there are of something."""
    return len(witnessed(place.folder / f"{what}.witness"))


async def again(place: Deployment, *names: str) -> None:
    for name in names:
        place.again(name)
    await asyncio.to_thread(place.wait_ready, *names)


def check(place: Deployment) -> None:
    items = Counter(tuple(line[:2]) for line in witnessed(place.folder / "items.witness"))
    wanted = {(f"{name}/read.{n}", str(n)) for name in PLANS for n in range(ALL)}
    assert {(place_of, str(n)) for place_of, n in items} == wanted, "the index is the item's number"
    # A body that had begun when its process was killed runs again: at most as many as there were.
    assert sum(items.values()) - len(items) <= 8
    executions = Counter(line[0] for line in witnessed(place.folder / "executions.witness"))
    assert all(executions[name] >= 2 for name in PLANS), "each was replayed, so it was a test"
