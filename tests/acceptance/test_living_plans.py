"""Joins, growing plans, loops, plans in plans and runs in a row, while the coordinator is killed.

All runs stand at a gate in their middle when it dies for the first time, and those who lost a race
are being told to end when it dies again. Each time their agents go on before it is back.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from holdfast.client import Client, Run
from holdfast.schemas import Plan, TaskState
from holdfast.schemas.records import EventType
from tests.acceptance.deployment import Deployment, witnessed
from tests.acceptance.living_agents import (
    LINKS,
    LOSERS,
    MIDDLE,
    PARTING,
    ROUNDS,
    growing,
    nested,
    races,
    rounds,
    row,
)
from tests.acceptance.observer import Observer, observing
from tests.waiting import until

MODULE = "tests.acceptance.living_agents"
SLOW_S = 180.0
AT_THE_GATE = 11
"""3 who will win, 4 in the growing plan, a round, a child of a map and one of a loop, a link."""
BODIES = (3 + 3 + 1) + 5 + ROUNDS + (3 * 2 + 2 * 2) + LINKS
RUNS = 5 + (LINKS - 1) + (3 + 2)
"""The submitted ones, the further links, the children of a map and of a loop."""
PLANS: dict[str, tuple[Plan, dict[str, Any]]] = {
    "races": (races(), {}),
    "growing": (growing(), {}),
    "rounds": (rounds(), {}),
    "nested": (nested(), {}),
    "row": (row(), {"n": 0}),
}


async def test_plans_go_on_as_they_were_after_the_coordinator_has_died(place: Deployment) -> None:
    place.coordinator("c1")
    place.agent("worker", module=MODULE)
    place.agent("planner", module=MODULE)
    await asyncio.to_thread(place.wait_ready, timeout_s=SLOW_S)
    async with (
        observing(place, dead_letters=True) as seen,
        Client(url=place.bus, namespace=place.namespace) as client,
    ):
        runs = {
            run_id: await client.submit(plan, given, run_id=run_id)
            for run_id, (plan, given) in PLANS.items()
        }
        await until(lambda: standing(place, MIDDLE) == AT_THE_GATE, "all are half-way", SLOW_S)
        await until(lambda: losers(place) == set(LOSERS), "the losers run too", SLOW_S)
        place.kill("c1")
        (place.folder / MIDDLE).touch()
        await until(lambda: lines(place, "through") == AT_THE_GATE, "all go on", SLOW_S)
        await again(place)
        await until(lambda: standing(place, PARTING) == len(LOSERS), "losers take leave", SLOW_S)
        place.kill("c1")
        (place.folder / PARTING).touch()
        await again(place)
        results = {run_id: await run.result(timeout_s=SLOW_S) for run_id, run in runs.items()}
        await until(lambda: len(seen.ends()) == RUNS, "every run's end is told", SLOW_S)
        await until(lambda: len(seen.dead_letters) == 2, "what failed is kept", SLOW_S)
        await check_plan(runs["growing"])
    check_results(results)
    check_seen(place, seen)


async def again(place: Deployment) -> None:
    place.again("c1")
    await asyncio.to_thread(place.wait_ready, "c1", timeout_s=SLOW_S)


def lines(place: Deployment, name: str) -> int:
    return len(witnessed(place.folder / f"{name}.witness"))


def standing(place: Deployment, gate: str) -> int:
    """How many have come to a gate."""
    return sum(line[0] == gate for line in witnessed(place.folder / "gates.witness"))


def losers(place: Deployment) -> set[str]:
    """Return those of the losers who have begun."""
    begun = {line[0].rpartition("/")[2] for line in witnessed(place.folder / "bodies.witness")}
    return begun & set(LOSERS)


async def check_plan(run: Run[Any]) -> None:
    """Each change was made once, and each version is kept."""
    newest = await run.plan()
    assert newest == await run.plan(5), "four changes: two planners, one handler twice"
    assert newest.tasks["appendix"].dropped == "skip"
    added = {task_id: node.added_by for task_id, node in newest.tasks.items() if node.added_by}
    assert added == {
        **{f"part-{n}": "split" for n in range(3)},
        "look": "split",
        "more": "widen",
        "said": "look",
    }
    assert set((await run.plan(1)).tasks) == {"split", "widen", "report", "appendix"}


def check_results(results: dict[str, Any]) -> None:
    grown = results.pop("growing")
    found = {run_id: (word["text"], word["n"]) for run_id, word in {**results, **grown}.items()}
    assert found == {
        "races": ("first any quorum too", 1),
        "rounds": ("draft", ROUNDS + 1),
        "nested": ("again", 3),
        "row": ("link", LINKS),
        "said": ("p0 p1 p2 seen", 1),
        "report": ("more", 11),
    }


def check_seen(place: Deployment, seen: Observer) -> None:
    bodies = Counter(line[0] for line in witnessed(place.folder / "bodies.witness"))
    assert {what: count for what, count in bodies.items() if count != 1} == {}, "ran twice"
    assert bodies.total() == BODIES
    assert all(ends == [EventType.RUN_SUCCEEDED] for ends in seen.ends().values())
    assert set(seen.results().values()) == {1}
    assert {letter.task_id for letter in seen.dead_letters} == {"first-bad", "quorum-bad"}
    states = {
        event.task.task_id: event.task.state
        for event in seen.events
        if event.run_id == "races" and event.task is not None
    }
    assert {states[name] for name in LOSERS} == {TaskState.CANCELLED}
