"""Plans drawn from a seed: chains, fan-outs, maps, retries, deadlines, order keys, waits.

What makes some of them live (joins, loops, growth, ...) is drawn in `living`, and lists that still
arrive in `arriving`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from holdfast.schemas import Plan
from holdfast.schemas.plan import OnFailure
from tests.simulation.agents import AGENTS
from tests.simulation.arriving import Arrival, add_arrival, draw_arrival
from tests.simulation.living import (
    FOR_EVER,
    PLANNER,
    Life,
    draw_life,
    draw_row,
    inner_plan,
    patient_no_more,
    settings_of,
)

TASKS_MAX = 6
ORDER_KEYS = ("k1", "k2")
DEPENDENCIES = 1.5
"""On how many of the tasks before it a task depends, on average."""
WAITING_SHARE, WAITS_SHARE = 0.3, 0.4
"""Of the runs, those that wait for something; and of their tasks."""
LIVING_SHARE = 0.15
"""Of the runs, those whose plans live."""
ARRIVING_SHARE, ARRIVES_SHARE = 0.3, 0.4
"""Of the runs that live, those in which lists arrive; and of their tasks, those behind them."""


class Care(Enum):
    """What is done for a run whose task is dead, where its plan waits for that."""

    NONE = "the plan does not wait"
    REPLAY = "repaired and replayed"
    DISCARD = "given up"


@dataclass(frozen=True, slots=True)
class Words:
    """The signals that are sent for one task: `count` of them, the first after so long.

    `twice`: each is sent again; `wrong`: one that does not fit comes before.
    """

    task_id: str
    count: int
    after_s: float
    twice: bool
    wrong: bool


@dataclass(frozen=True, slots=True)
class Job:
    """One run that somebody asks for, `times` times, with the input `given`.

    `cancel_s`: cancelled after so long; `pause_s`: paused then, and resumed as long after that.
    `conflict`: another input is submitted under the same id. `poison`: a task that cannot succeed.
    `words`: what its handlers wait to hear. `arrives`: some of its lists arrive while it runs.
    """

    run_id: str
    plan: Plan
    given: dict[str, Any]
    start_s: float
    times: int
    cancel_s: float | None
    pause_s: float | None
    conflict: bool
    poison: str | None
    care: Care
    words: tuple[Words, ...]
    arrives: bool


@dataclass(frozen=True, slots=True)
class Sources:
    """What a job is drawn from: parts of a seed, so that what one of them decides leaves the rest
    of the world as it was.

    `waiting`: what handlers wait for; `living`: what makes plans live; `arriving`: which lists
    arrive, and how; `drawn`: all else.
    """

    drawn: random.Random
    waiting: random.Random
    living: random.Random
    arriving: random.Random


@dataclass(frozen=True, slots=True)
class Draft:
    """A task that is about to be drawn: it comes after some of `before`; `settings`: its input.

    `calm`: nothing but poison may end it; `life`: what makes it live; `arrival`: how it becomes a
    map over a list that arrives.
    """

    name: str
    before: list[str]
    settings: dict[str, Any]
    calm: bool
    life: Life | None
    arrival: Arrival | None


def draw_job(sources: Sources, number: int) -> Job:
    """Draw one run and its plan.

    A run with a poison task has nothing else that could end it before the poison is found.
    """
    drawn, waiting, living = sources.drawn, sources.waiting, sources.living
    poisoned = drawn.random() < 0.15
    care = drawn.choice(list(Care)) if poisoned else Care.NONE
    plan = Plan(
        "drawn",
        order_key=drawn.choice(ORDER_KEYS) if drawn.random() < 0.25 else None,
        deadline_s=drawn.uniform(0.3, 3.0) if drawn.random() < 0.1 and not poisoned else None,
        on_dead_letter="fail" if care is Care.NONE else "wait",
    )
    names = [f"t{index}" for index in range(drawn.randint(1, TASKS_MAX))]
    poison = drawn.choice(names) if poisoned else None
    patient = waiting.random() < WAITING_SHARE
    lives = living.random() < LIVING_SHARE and not poisoned
    arrives = lives and sources.arriving.random() < ARRIVING_SHARE
    plan.continue_as_new, given = draw_row(living) if lives else (None, {})
    words: list[Words] = []
    for index, name in enumerate(names):
        settings = _draw_settings(drawn)
        if name == poison:
            kills = care is not Care.REPLAY and drawn.random() < 0.3
            settings["kills" if kills else "fails"] = FOR_EVER
        if patient and waiting.random() < WAITS_SHARE:
            settings["waits"] = draw_waits(waiting)
        before = names[:index]
        life = draw_life(living, before, names[index + 1 :]) if lives else None
        arrival = None
        if arrives and sources.arriving.random() < ARRIVES_SHARE:
            arrival = draw_arrival(sources.arriving, AGENTS, before)
        parts = _add(plan, drawn, Draft(name, before, settings, poisoned, life, arrival))
        words += _draw_words(waiting, parts, settings.get("waits"))
    return Job(
        run_id=f"r{number}",
        plan=plan,
        given=given,
        start_s=drawn.uniform(0.0, 1.5),
        times=1 + (drawn.random() < 0.3),
        cancel_s=drawn.uniform(0.0, 1.5) if drawn.random() < 0.1 and not poisoned else None,
        pause_s=drawn.uniform(0.0, 1.0) if drawn.random() < 0.1 else None,
        conflict=drawn.random() < 0.1,
        poison=poison,
        care=care,
        words=tuple(words),
        arrives=arrives,
    )


def _draw_settings(drawn: random.Random) -> dict[str, Any]:
    return {
        "n": 1,
        "fails": drawn.choice((1, 2)) if drawn.random() < 0.2 else 0,
        "kills": 1 if drawn.random() < 0.02 else 0,
        "sleep_ms": int(drawn.expovariate(1 / 60)) if drawn.random() < 0.6 else 0,
        "steps": drawn.choice((0, 1, 1, 2, 3)),
        "effects": drawn.choice((0, 0, 1, 2)),
        "pad": 600_000 if drawn.random() < 0.005 else 0,
        "publish": drawn.random() < 0.2,
        "gather": drawn.random() < 0.3,
        "wires": drawn.random() < 0.2,
    }


def _add(plan: Plan, drawn: random.Random, draft: Draft) -> list[str]:
    """Add a task; return what signals for its handlers are called after."""
    name, before, calm, life = draft.name, draft.before, draft.calm, draft.life
    task = f"{drawn.choice(AGENTS)}.work"
    common: dict[str, Any] = {
        "after": [n for n in before if drawn.random() < DEPENDENCIES / len(before)],
        "order_key": drawn.choice(ORDER_KEYS) if drawn.random() < 0.1 else None,
        "order": "loose" if drawn.random() < 0.2 else "strict",
    }
    if before and drawn.random() < 0.1 and not calm:
        common["when"] = f"tasks.{drawn.choice(before)}.output.n > `2`"
    if drawn.random() < 0.1 and not calm:
        common["timeout_s"] = drawn.uniform(0.05, 1.0)
    if drawn.random() < 0.05 and not calm:
        common["queue_timeout_s"] = drawn.uniform(0.05, 1.0)
    if drawn.random() < 0.2 and not calm:
        # Signals are sent to the first of the runs in a row only.
        given = draft.settings if life is None else patient_no_more(draft.settings)
        items = [{**given, "text": f"{name}{i}"} for i in range(drawn.randint(0, 5))]
        failure: OnFailure = "collect" if drawn.random() < 0.5 else "fail"
        parallel = drawn.randint(1, 3)
        plan.map(name, task, over=items, max_parallel=parallel, on_failure=failure, **common)
        return [f"{name}.{number}" for number in range(len(items))]
    if life is not None:
        return _add_living(plan, task, draft, life, common)
    plan.task(name, task, **common, text=name, **draft.settings)
    return [name]


def _add_living(
    plan: Plan, task: str, draft: Draft, life: Life, common: dict[str, Any]
) -> list[str]:
    """Add a task that lives."""
    if draft.arrival is not None:
        _add_arriving(plan, task, draft, draft.arrival, {**common, **life.common})
        return []
    given = settings_of(life, draft.settings)
    common.update(life.common)
    work: Plan | str = PLANNER if life.planner else task
    if life.inner:
        work, given = inner_plan(life, task, given)
        _leave_to_inner(common)
    if life.rounds:
        until = f"output.n > `{life.rounds + 2}`"
        common["repeat"] = {"until": until, "at_most": life.rounds}
    plan.task(draft.name, work, **common, text=draft.name, **given)
    if life.inner:
        return []
    rounds = [f"{draft.name}.{number}" for number in range(1, life.rounds + 1)]
    return rounds or [draft.name]


def _leave_to_inner(common: dict[str, Any]) -> None:
    """Take out what a task whose work is a plan cannot have."""
    for setting in ("order_key", "order", "queue_timeout_s"):
        common.pop(setting, None)


def _add_arriving(
    plan: Plan, task: str, draft: Draft, arrival: Arrival, common: dict[str, Any]
) -> None:
    """Add a task that hands out items, and a map over them in the place of the drawn task."""
    agent = task.partition(".")[0]
    if not arrival.inner:
        add_arrival(plan, draft.name, agent, arrival, common)
        return
    inner = Plan("inner")
    alone = {**arrival.settings, "after": []}
    add_arrival(inner, draft.name, agent, replace(arrival, settings=alone), {})
    _leave_to_inner(common)
    plan.task(draft.name, inner, **common)


def draw_waits(drawn: random.Random) -> dict[str, Any]:
    """Draw what a handler waits for: mostly one thing, sometimes several at once."""
    kinds = drawn.sample(("nap", "hear", "call", "spawn", "race"), k=drawn.choice((1, 1, 1, 2, 3)))
    waits: dict[str, Any] = {"gather": drawn.random() < 0.5}
    if "nap" in kinds or "race" in kinds:
        waits["nap_ms"] = int(drawn.expovariate(1 / 500)) + 1
    if "hear" in kinds or "race" in kinds:
        waits["hears"] = 1 if "race" in kinds else drawn.choice((1, 1, 2))
        waits["hear_ms"] = drawn.randint(1, 1_500) if drawn.random() < 0.3 else 0
        waits["race"] = "race" in kinds
    if "call" in kinds:
        waits["calls"] = drawn.randint(1, 3)
        waits["broken"] = 1 if drawn.random() < 0.15 else 0
    if "spawn" in kinds:
        waits["spawn"], waits["detached"] = True, drawn.random() < 0.2
    return waits


def _draw_words(
    drawn: random.Random, parts: list[str], waits: dict[str, Any] | None
) -> Iterator[Words]:
    """Draw the signals for a task, or for each item of a map or round of a loop."""
    if waits is None or not waits.get("hears"):
        return
    after_s = drawn.choice((0.0, drawn.uniform(0.0, 2.0)))
    for task_id in parts:
        twice, wrong = drawn.random() < 0.3, drawn.random() < 0.3
        yield Words(task_id, waits["hears"], after_s, twice, wrong)
