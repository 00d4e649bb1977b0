"""Plans that live: joins, loops, plans within plans, runs in a row; and handlers that add to them.

Drawn from a part of the seed of their own, over what `plans` has drawn: runs without them stay
what they are.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from holdfast.agents import Context, PlanRefused
from holdfast.schemas import Expression, Plan, PlanChange

__all__ = [
    "FOR_EVER",
    "PLANNER",
    "Grown",
    "Grows",
    "Life",
    "do_growth",
    "draw_life",
    "draw_row",
    "inner_plan",
    "next_change",
    "patient_no_more",
    "settings_of",
]

PLANNER = "beta.plan"
"""The task that returns a change."""
JOINS = ("any", "first-success", "first-success", 1, 2)
FAILING_SHARE = 0.15
"""Of the tasks in a run that lives, those that never succeed."""
FOR_EVER = 1_000
HEARS_MS_MAX = 1_500
ROW = "links"
"""The input of a run in a row: a list, of which each link takes one."""


class Grows(BaseModel):
    """What a handler does to the plan of its run.

    `adds`: so many tasks, one after the other; `depth`: what is added adds again, so often;
    `drops`, `replaces`: tasks of the drawn plan that it then lets go of, or has replaced, in one
    change with one more task.
    """

    adds: int = 0
    depth: int = 0
    drops: list[str] = []
    replaces: list[str] = []


@dataclass
class Grown:
    """What was seen of changes from outside: each is made once."""

    surprises: list[str]
    versions: dict[tuple[str, int], tuple[str, str]] = field(default_factory=dict)
    answers: dict[tuple[str, str, str], int | None] = field(default_factory=dict)

    def answered(self, ctx: Context, name: str, version: int | None) -> None:
        """Each execution gets the same answer (None: refused), and a version one change made."""
        where = (ctx.run_id, ctx.task_id, name)
        known = self.answers.setdefault(where, version)
        if known != version:
            self.surprises.append(f"I2 at {where}: version {known}, then {version}")
        if version is not None:
            maker = (ctx.task_id, name)
            first = self.versions.setdefault((ctx.run_id, version), maker)
            if first != maker:
                self.surprises.append(f"I2 at {where}: version {version} was made by {first}")


async def do_growth(ctx: Context, grows: Grows, other: str, seen: Grown) -> int:
    """Change the plan as told; what is added is worked by the agent `other`. Return a sum."""
    prefix = ctx.task_id.replace(".", "-")
    before: list[Any] = []
    for number in range(grows.adds):
        more = _lesser(grows)
        added = await ctx.plan.add(
            f"{prefix}-{number}", f"{other}.work", n=number, after=before, effects=1, **more
        )
        before = [added]
    if not grows.drops and not grows.replaces:
        return grows.adds
    change = PlanChange()
    change.task(f"{prefix}-more", f"{other}.work", n=1, after=before)
    change.cancel(*grows.drops)
    for name in grows.replaces:
        change.replace.task(name, f"{other}.work", n=2, sleep_ms=20)
    version = None
    with suppress(PlanRefused):
        version = await ctx.plan.apply(change)
    seen.answered(ctx, "plan", version)
    return grows.adds + 1


def next_change(task_id: str, grows: Grows, other: str) -> PlanChange:
    """Return what a planner says: work, and the next planner, which waits for that."""
    prefix = task_id.replace(".", "-")
    change = PlanChange()
    found = [
        change.task(f"{prefix}-{number}", f"{other}.work", n=number, sleep_ms=20)
        for number in range(grows.adds)
    ]
    if grows.depth:
        change.task(f"{prefix}-p", PLANNER, after=found, **_lesser(grows))
    return change


def _lesser(grows: Grows) -> dict[str, Any]:
    if not grows.depth:
        return {}
    return {"grows": {"adds": grows.adds, "depth": grows.depth - 1}}


@dataclass(frozen=True, slots=True)
class Life:
    """What makes a task of a drawn plan live.

    `common`: settings of its node; `inner`: so many tasks stand in a plan of its own (0: none);
    `rounds`: it is repeated at most so often (0: it is no loop); `planner`: it returns a change.
    """

    common: Mapping[str, Any]
    fails: bool
    grows: Grows | None
    inner: int
    rounds: int
    planner: bool


def draw_life(drawn: random.Random, before: Sequence[str], after: Sequence[str]) -> Life:
    """Draw for a task of a run that lives; `before` and `after`: the plan's other tasks."""
    common: dict[str, Any] = {}
    if len(before) > 1 and drawn.random() < 0.6:
        members = drawn.sample(before, k=drawn.randint(2, len(before)))
        common["after"] = members
        common["join"] = drawn.choice(JOINS)
        common["losers"] = "leave" if drawn.random() < 0.2 else "cancel"
    kind = drawn.random()
    return Life(
        common=common,
        fails=drawn.random() < FAILING_SHARE,
        grows=_draw_growth(drawn, after) if kind < 0.3 else None,
        inner=drawn.randint(1, 2) if 0.4 < kind < 0.7 else 0,
        rounds=drawn.randint(1, 3) if 0.6 < kind < 0.9 else 0,
        planner=kind < 0.08,
    )


def _draw_growth(drawn: random.Random, after: Sequence[str]) -> Grows:
    others = drawn.sample(after, k=min(len(after), drawn.choice((0, 0, 1, 2))))
    cut = drawn.randint(0, len(others))
    return Grows(
        adds=drawn.randint(1, 2),
        depth=1 if drawn.random() < 0.25 else 0,
        drops=others[:cut],
        replaces=others[cut:],
    )


def draw_row(drawn: random.Random) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """Draw whether a run is continued as new: its plan's setting, and its input."""
    if drawn.random() >= 0.25:
        return None, {}
    left = Expression(f"input.{ROW}[1:]")
    after = {"when": f"length(input.{ROW}) > `1`", "input": {ROW: left}}
    return after, {ROW: list(range(drawn.randint(1, 3)))}


def settings_of(life: Life, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the input of a task that lives; signals reach only those whose names are known
    beforehand, so what it hears has a bound."""
    found = dict(settings)
    if life.fails:
        found["fails"] = FOR_EVER
    if life.grows is not None:
        found["grows"] = life.grows.model_dump()
    if life.rounds:
        found["n"] = Plan.round
    return patient_no_more(found)


def patient_no_more(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the input of a task that hears no signal after a while, if it was to wait for one."""
    found = dict(settings)
    waits = found.get("waits")
    if waits is not None and waits.get("hears") and not waits.get("hear_ms"):
        found["waits"] = {**waits, "hear_ms": HEARS_MS_MAX}
    return found


def inner_plan(life: Life, task: str, settings: Mapping[str, Any]) -> tuple[Plan, dict[str, Any]]:
    """Return the plan that stands in a task's place, and the task's own input (beside a text)."""
    plan = Plan("inner")
    given = {**settings, "text": plan.input("text"), "n": plan.input("n")}
    last = plan.task("first", task, **given)
    if life.inner > 1:
        plan.task("second", task, text=last["text"], n=last["n"], sleep_ms=20)
    return plan, {"n": settings["n"]}
