"""The plan as it is submitted: two tasks. The planner adds all others; see `planner`."""

from __future__ import annotations

from holdfast.schemas import Plan

from .planner import split
from .reader import look_through

__all__ = ["research_plan"]


def research_plan() -> Plan:
    """The plan of a research. Its inputs are those of `models.Question`: text, folder, out."""
    plan = Plan("research")
    question = plan.input()
    survey = plan.task("survey", look_through, question)
    plan.task("split", split, question=question, survey=survey)
    return plan
