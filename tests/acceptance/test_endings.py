"""A cancelled tree, and what time brings, while the coordinator dies by `kill -9`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta

import pytest

from holdfast.client import Client, RunCancelled, RunFailed, WaitTimeout
from holdfast.schemas.records import EventType
from tests.acceptance.deployment import Deployment, witnessed
from tests.acceptance.ending_agents import DEPTH, GATE
from tests.acceptance.observer import Observer, observing
from tests.waiting import until

MODULE = "tests.acceptance.ending_agents"
HELD = {f"tree.{n}" for n in range(DEPTH + 1)}
SLOW_S = 60.0
LATER_S = 6.0


@asynccontextmanager
async def working(place: Deployment) -> AsyncIterator[tuple[Observer, Client]]:
    place.coordinator("c1")
    place.agent("boss", module=MODULE)
    place.agent("hand", module=MODULE)
    await asyncio.to_thread(place.wait_ready)
    async with (
        observing(place, ["hand"], dead_letters=True) as seen,
        Client(url=place.bus, namespace=place.namespace) as client,
    ):
        yield seen, client


def said(place: Deployment, name: str, word: str) -> set[str]:
    return {line[1] for line in witnessed(place.folder / f"{name}.witness") if line[0] == word}


async def test_a_tree_that_is_cancelled_while_nobody_listens_ends_to_its_last_leaf(
    place: Deployment,
) -> None:
    async with working(place) as (seen, client):
        run = await client.submit("boss.tree", {"text": "tree"}, run_id="tree")
        leaves = HELD | {"tree.stubborn"}
        await until(lambda: said(place, "tree", "start") == leaves, "all leaves work", SLOW_S)
        place.kill("c1")
        with suppress(WaitTimeout):  # the word stands on the bus, and there is nobody to answer
            await run.cancel(reason="the customer has left")
        place.again("c1")
        began = time.monotonic()
        with pytest.raises(RunCancelled):
            await run.result(timeout_s=SLOW_S)
        print(f"the tree was cancelled {time.monotonic() - began:.2f} s after the restart")
        await until(lambda: len(seen.ends()) == 1 + DEPTH, "each run's end is told", SLOW_S)
        assert set(map(tuple, seen.ends().values())) == {(EventType.RUN_CANCELLED,)}
        await until(lambda: said(place, "tree", "end") == HELD, "all leaves have ended")
        await check_zombie(place, client)
    assert seen.results() == {("next", "task"): 1}
    assert [key for key in seen.steps if "/step/late/" in key] == []
    assert seen.dead_letters == []


async def check_zombie(place: Deployment, client: Client) -> None:
    """The thread outlived its cancel; when it wakes, it is told at its next step, and ends."""
    assert witnessed(place.folder / "zombie.witness") == []
    (place.folder / GATE).touch()

    def words() -> list[str]:
        return [line[0] for line in witnessed(place.folder / "zombie.witness")]

    await until(lambda: "told" in words(), "the thread hears of its end", SLOW_S)
    after = await client.submit("hand.prompt", {"text": "x"}, run_id="next")
    assert await after.result(timeout_s=SLOW_S) == {"text": "x", "n": 0}
    assert words() == ["woke", "told"]


async def test_what_time_brings_comes_though_the_coordinator_was_away(place: Deployment) -> None:
    async with working(place) as (seen, client):
        later = await client.submit(
            "hand.prompt", {"text": "later"}, run_id="later", start_in=timedelta(seconds=LATER_S)
        )
        late = await client.submit("hand.hold", {"text": "late"}, run_id="late", deadline_s=3)
        long = await client.submit("hand.too_long", {"text": "long"}, run_id="long")
        stuck = await client.submit("hand.stuck", {"text": "stuck"}, run_id="stuck")
        friday = await client.submit("hand.until_friday", {"text": "friday"}, run_id="friday")
        begun = {"long", "stuck", "friday"}
        await until(
            lambda: (
                {line[0] for line in witnessed(place.folder / "clock.witness")} >= begun
                and said(place, "tree", "start") == {"late"}
            ),
            "all have begun",
            SLOW_S,
        )
        place.kill("c1")
        place.again("c1")
        assert await long.result(timeout_s=SLOW_S) == {"text": "long", "n": 2}
        assert await stuck.result(timeout_s=SLOW_S) == {"text": "stuck", "n": 2}
        assert await friday.result(timeout_s=SLOW_S) == {"text": "friday", "n": -1}
        with pytest.raises(RunFailed, match="deadline"):
            await late.result(timeout_s=SLOW_S)
        await until(lambda: said(place, "tree", "end") == {"late"}, "what was late has ended")
        assert await later.result(timeout_s=SLOW_S) == {"text": "later", "n": 0}
        begun_ms = {e.run_id: e.at_ms for e in seen.events if e.type is EventType.RUN_STARTED}
        at_ms = {e.run_id: e.at_ms for e in seen.events if e.type is EventType.TASK_DISPATCHED}
        assert at_ms["later"] - begun_ms["later"] >= LATER_S * 1000
    assert set(seen.results().values()) == {1}
