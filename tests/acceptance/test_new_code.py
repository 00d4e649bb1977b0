"""New code is deployed under handlers that wait, and the coordinator dies in the middle of it."""

from __future__ import annotations

import asyncio

from holdfast.client import Client, Run
from holdfast.schemas import Plan
from holdfast.schemas.records import EventType
from tests.acceptance.deployment import Deployment, witnessed
from tests.acceptance.observer import Observer, observing
from tests.acceptance.versioned_agents import VARIABLE
from tests.waiting import until

MODULE = "tests.acceptance.versioned_agents"
SLOW_S = 180.0


async def test_new_code_goes_on_where_it_fits_and_parks_where_it_does_not(
    place: Deployment,
) -> None:
    place.environment[VARIABLE] = "1"
    place.coordinator("c1")
    place.agent("seller", module=MODULE)
    await asyncio.to_thread(place.wait_ready)
    plan = Plan("changing", on_dead_letter="wait")
    plan.task("task", "seller.change", text="x")
    async with (
        observing(place) as seen,
        Client(url=place.bus, namespace=place.namespace) as client,
    ):
        old = await client.submit("seller.sell", {"text": "x"}, run_id="old")
        changed = await client.submit(plan, {}, run_id="changed")
        await until(lambda: told(seen, EventType.TASK_ASKED) >= {"old", "changed"}, "wait", SLOW_S)
        place.environment[VARIABLE] = "2"
        for name in ("seller-1", "c1"):
            place.kill(name)
            place.again(name)
        await asyncio.to_thread(place.wait_ready, "seller-1", "c1")
        new = await client.submit("seller.sell", {"text": "x"}, run_id="new")
        for run in (old, new, changed):
            await run.signal("go", None)
        results = [await run.result(timeout_s=SLOW_S) for run in (old, new)]
        assert results == [{"text": "bill", "n": 0}] * 2
        await until(lambda: "changed" in told(seen, EventType.TASK_DEAD), "parks", SLOW_S)
        await restart(changed, seen)
    done = [words[1] for words in witnessed(place.folder / "versions.witness")]
    assert sorted(done) == [
        "changed new by 2",
        "changed new by 2",
        "changed old by 1",
        "new bill by 2",
        "new first by 2",
        "new thanks by 2",
        "old bill by 2",
        "old first by 1",
    ]


async def restart(run: Run[object], seen: Observer) -> None:
    """The parked task says what differs; begun anew, it ends under the new code."""
    dead = next(e for e in seen.events if e.type is EventType.TASK_DEAD)
    assert dead.task is not None
    assert dead.task.failure is not None
    assert "- old  [step, attempt 1, build 1]  <- the first difference" in dead.task.failure.message
    assert dead.task.build_id.startswith("2+")
    await run.restart_task("task", reason="new code")
    await run.signal("go", None, signal_id="again")
    event = await run.ended(SLOW_S)
    assert event.type is EventType.RUN_SUCCEEDED


def told(seen: Observer, kind: EventType) -> set[str]:
    """Return the runs that have had such an event."""
    return {event.run_id for event in seen.events if event.type is kind}
