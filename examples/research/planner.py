"""The planner: makes the plan grow, and makes another where a source is missing.

survey ──► split                                                           version 1
             │ adds, for each part n of the question                       version 2
             ├──► read-n (a map over its sources) ──► look-n ──► answer-n ──┐
             └──► …                                                         ├──► write
                   look-n, where a source is missing, adds                 version 3, 4, …
                   read-n-2 (over what stands in) ──► look-n-2, and replaces answer-n
"""

from __future__ import annotations

from collections.abc import Sequence

from examples.witness import witnessed
from holdfast.agents import Agent, Context, Retry
from holdfast.schemas import PlanChange
from holdfast.schemas.plan import TaskBuilder, TaskHandle

from .models import Part, ReplanRequest, SplitRequest
from .reader import read
from .thinker import THINKER
from .writer import answer, report

__all__ = ["REPLANS_MAX", "planner", "replan", "split"]

REPLANS_MAX = 3
"""For one part: a folder that is being deleted is not chased to its end."""
MAX_PARALLEL = 16

WAITING = Retry(attempts=10, initial_s=0.5, max_s=5)
"""A change is refused while an agent that it needs has not published itself yet."""

planner = Agent("planner")


@planner.task(retry=WAITING, timeout_s=300)
async def split(ctx: Context, request: SplitRequest) -> PlanChange:
    """Split the question, and add the tasks that answer each part of it."""
    question = request.question
    think = witnessed(ctx, question.text, THINKER.split)
    parts = await ctx.step("split", think, question, request.survey)
    change = PlanChange()
    answers = []
    for part in parts:
        n = part.number
        found = _read(change, f"read-{n}", part, part.sources, question.folder)
        look = change.task(
            f"look-{n}",
            replan,
            folder=question.folder,
            part=part,
            maps=[f"read-{n}"],
            readings=found,
        )
        answers.append(_answer(change, part, question.folder, [found], [look]))
    survey = change.existing("survey")
    change.task("write", report, question=question, survey=survey, answers=answers)
    return change


@planner.task(retry=WAITING, timeout_s=300)
async def replan(ctx: Context, request: ReplanRequest) -> PlanChange:
    """Look at what the readers of a part have brought; where a source is missing, plan again."""
    change = PlanChange()
    part = request.part
    missing = [reading.path for reading in request.readings if reading.problem]
    if not missing or len(request.maps) > REPLANS_MAX:
        return change
    think = witnessed(ctx, part.text, THINKER.stand_ins)
    instead = await ctx.step("stand_ins", think, part, missing)
    if not instead:
        return change
    again = part.model_copy(
        update={"spares": [path for path in part.spares if path not in instead]}
    )
    name = f"read-{part.number}-{len(request.maps) + 1}"
    found = _read(change, name, again, instead, request.folder)
    look = change.task(
        name.replace("read", "look"),
        replan,
        folder=request.folder,
        part=again,
        maps=[*request.maps, name],
        readings=found,
    )
    earlier = [change.existing(each) for each in request.maps]
    # Not started: it waits for this task. Replaced as a whole, it waits for the new one as well.
    _answer(change.replace, again, request.folder, [*earlier, found], [look])
    return change


def _read(change: PlanChange, name: str, part: Part, paths: list[str], folder: str) -> TaskHandle:
    return change.map(
        name,
        read,
        over=paths,
        max_parallel=MAX_PARALLEL,
        folder=folder,
        path=change.item,
        part=part,
    )


def _answer(
    change: TaskBuilder,
    part: Part,
    folder: str,
    found: Sequence[TaskHandle],
    after: Sequence[TaskHandle],
) -> TaskHandle:
    return change.task(
        f"answer-{part.number}", answer, folder=folder, part=part, readings=found, after=after
    )
