"""Tasks that agents offer, as they are named in a plan: alone, or as what undoes another one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeAlias, TypeVar

from holdfast.schemas.errors import PlanError
from holdfast.schemas.plan_settings import Compensation
from holdfast.schemas.plan_values import template_of
from holdfast.schemas.retrying import Retry

__all__ = ["Task", "Undoing", "full_name_of", "said_undoing", "split_task_name"]

In = TypeVar("In")
Out = TypeVar("Out")

_TASK_NAME = re.compile(r"(?P<agent>[a-z0-9-]{1,64})\.(?P<task>[A-Za-z0-9_-]{1,64})")


@dataclass(frozen=True, kw_only=True)
class Task(Generic[In, Out]):
    """A task that an agent offers, with the types it takes and gives.

    What `@agent.task` returns is one; so is a hand-written one for an agent in another project.
    """

    agent: str
    name: str
    input_type: type[In] | None = None
    output_type: type[Out] | None = None
    retry: Retry | None = None
    timeout_s: float | None = None
    queue_timeout_s: float | None = None
    progress_timeout_s: float | None = None
    description: str = ""

    def __post_init__(self) -> None:
        split_task_name(self.full_name)

    @property
    def full_name(self) -> str:
        """`<agent>.<task>`."""
        return f"{self.agent}.{self.name}"


def split_task_name(full_name: str) -> tuple[str, str]:
    """Return (agent, task) of `<agent>.<task>`; raises `PlanError`."""
    match = _TASK_NAME.fullmatch(full_name)
    if match is None:
        raise PlanError(
            f"{full_name!r} names no task; write <agent>.<task>, as in 'scout.list'"
            " (agent: a-z, 0-9, '-'; task: letters, digits, '-', '_'; 64 characters each)"
        )
    return match["agent"], match["task"]


def full_name_of(task: Task[Any, Any] | str) -> str:
    """Return `<agent>.<task>` of a task or its name; raises `PlanError`."""
    name = task if isinstance(task, str) else task.full_name
    split_task_name(name)
    return name


Undoing: TypeAlias = Task[Any, Any] | str | Compensation | Mapping[str, Any] | Literal[False] | None
"""What `compensate=` may be: the task that undoes another one, alone or with its settings; False:
nothing does; None: what its agent says."""


def said_undoing(setting: Undoing) -> Any:
    """Return what `compensate=` was given as data for `TaskNode.compensate`; raises `PlanError`."""
    if setting is None or setting is False or isinstance(setting, Compensation):
        return setting
    if not isinstance(setting, Mapping):
        return {"task": full_name_of(setting)}
    said = dict(setting)
    if "task" in said:
        said["task"] = full_name_of(said["task"])
    if "input" in said:
        said["input"] = template_of(said["input"])
    return said
