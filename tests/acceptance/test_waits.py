"""Handlers wait for time, calls, runs and signals, while coordinator and agent die by `kill -9`.

What a body does stands in a file outside, one line each: nothing runs twice, whoever was killed
while others waited for it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress

from holdfast.client import Client, Run, WaitTimeout
from holdfast.schemas.records import AskKind, EventType
from tests.acceptance.deployment import Deployment, witnessed
from tests.acceptance.observer import Observer, observing
from tests.acceptance.waiting_agents import CALLS, NAP_S
from tests.waiting import until

MODULE = "tests.acceptance.waiting_agents"
SLOW_S = 180.0
"""On a machine with too much to do, on Kafka; it takes a sixth of that on one that is free."""
TASKS = {f"{kind}-{n}": kind for kind in ("ask", "ask_blocking") for n in range(4)}
"""By run id."""


def asked(seen: Observer, kind: AskKind) -> set[str]:
    """Return the runs in which somebody waits for this, or has waited."""
    return {
        event.run_id
        for event in seen.events
        if event.type is EventType.TASK_ASKED and event.ask is not None and event.ask.kind is kind
    }


async def test_nothing_runs_twice_while_those_who_wait_and_those_who_remember_die(
    place: Deployment,
) -> None:
    place.coordinator("c1")
    place.agent("asker", module=MODULE)
    place.agent("helper", module=MODULE)
    await asyncio.to_thread(place.wait_ready)
    async with (
        observing(place) as seen,
        Client(url=place.bus, namespace=place.namespace) as client,
    ):
        runs = {
            run_id: await client.submit(f"asker.{task}", {"text": run_id}, run_id=run_id)
            for run_id, task in TASKS.items()
        }
        await until(lambda: asked(seen, AskKind.CALL), "somebody calls", SLOW_S)
        await again(place, "c1")  # while calls are being worked
        await until(lambda: asked(seen, AskKind.SIGNAL) == TASKS.keys(), "all wait", SLOW_S)
        place.kill("c1")
        place.kill("asker-1")  # while all that it still holds waits for a word
        words = asyncio.create_task(tell(runs))  # nobody is there to hear them
        await asyncio.sleep(0.2)
        await again(place, "asker-1", "c1")
        await words
        results = {run_id: await run.result(timeout_s=SLOW_S) for run_id, run in runs.items()}
        await until(lambda: seen.results().keys() >= {(run_id, "task") for run_id in TASKS})
    check(place, results, seen)


async def again(place: Deployment, *names: str) -> None:
    """Kill what lives of these services, and start them again."""
    for name in names:
        if place.alive(name):
            place.kill(name)
        place.again(name)
    await asyncio.to_thread(place.wait_ready, *names)


async def tell(runs: dict[str, Run[object]]) -> None:
    """Say a word to each run, twice with one id: it counts once."""

    async def one(run: Run[object], grade: int) -> None:
        for _ in range(2):
            # Without a coordinator for that long nobody answers, but the word is kept.
            with suppress(WaitTimeout):
                await run.signal("verdict", {"grade": grade}, signal_id=f"{run.id}-verdict")

    async with asyncio.TaskGroup() as group:
        for grade, run in enumerate(runs.values()):
            group.create_task(one(run, grade))


def check(place: Deployment, results: dict[str, object], seen: Observer) -> None:
    for grade, (run_id, result) in enumerate(results.items()):
        assert isinstance(result, dict)
        assert result["text"] == run_id
        assert result["grade"] == grade
        assert result["called"] == [n * n for n in range(CALLS)]
        assert result["child"] == 81
        assert result["slept_s"] >= NAP_S - 0.1
    bodies = Counter(tuple(line[:2]) for line in witnessed(place.folder / "waits.witness"))
    twice = {body: count for body, count in bodies.items() if count != 1}
    assert twice == {}, "a body ran twice"
    by_kind = Counter(kind for kind, _ in bodies)
    assert by_kind == {
        "before": len(TASKS),
        "after": len(TASKS),
        "helper": len(TASKS) * (CALLS + 1),
    }
    executions = Counter(line[0] for line in witnessed(place.folder / "executions.witness"))
    assert all(executions[run_id] >= 2 for run_id in TASKS), "each was replayed, so it was a test"
    assert set(seen.results().values()) == {1}
    assert seen.dead_letters == []
