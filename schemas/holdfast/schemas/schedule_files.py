"""Schedules from files: YAML or JSON, as `holdfast schedules create --file` reads them.

    name: nightly
    plan: plans/report.yaml        # beside this file; or `task: agent.task`; or the plan itself
    cron: 30 2 * * MON-FRI
    timezone: Europe/Berlin
    input: {day: "${schedule.date}"}

All other fields are those of `Schedule`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from holdfast.schemas.errors import PlanError, ScheduleError
from holdfast.schemas.plan import PlanDocument, plan_error
from holdfast.schemas.plan_checks import check_plan
from holdfast.schemas.plan_files import load_plan, read_values
from holdfast.schemas.schedules import Schedule, check_schedule_name

__all__ = ["ScheduleFile", "load_schedule"]


@dataclass(frozen=True, slots=True)
class ScheduleFile:
    """What a file says: `work` is a plan, or a task's name."""

    name: str
    work: PlanDocument | str
    schedule: Schedule


def load_schedule(path: str | Path) -> ScheduleFile:
    """Read a schedule from a `.yaml`, `.yml` or `.json` file.

    Raises `ScheduleError` or `PlanError`, naming file and field.
    """
    path = Path(path)
    try:
        values = read_values(path)
    except PlanError as error:
        raise ScheduleError(str(error).replace("plan file", "schedule file", 1)) from None
    if not isinstance(values, dict):
        raise ScheduleError(f"{path}: a schedule is an object with name, plan and cron")
    name = values.pop("name", None)
    if not isinstance(name, str):
        raise ScheduleError(f"{path}: name: it is missing, or no text")
    try:
        check_schedule_name(name)
        work = _work(path, values)
        schedule = Schedule.of(values)
        schedule.spec("")
    except ScheduleError as error:
        raise ScheduleError(f"{path}: {error}") from None
    return ScheduleFile(name, work, schedule)


def _work(path: Path, values: dict[str, Any]) -> PlanDocument | str:
    plan, task = values.pop("plan", None), values.pop("task", None)
    if (plan is None) == (task is None):
        raise ScheduleError("name a plan (its file, or the plan itself), or a task; not both")
    if isinstance(task, str):
        return task
    if isinstance(plan, str):
        return load_plan(path.parent / plan)
    if not isinstance(plan, dict):
        raise ScheduleError("plan: it is a file's name, or a plan")
    try:
        document = PlanDocument.model_validate(plan)
    except ValidationError as error:
        raise plan_error(error, f"{path}: plan") from None
    check_plan(document)
    return document
