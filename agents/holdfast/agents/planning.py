"""`ctx.plan`: a handler changes the plan of its own run. See docs/howto/growing-plans.md."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from holdfast.schemas.plan import Task
from holdfast.schemas.plan_change import PlanChange, PlanChangeDocument
from holdfast.schemas.plan_values import TaskHandle

if TYPE_CHECKING:
    from holdfast.agents.execution import Execution

__all__ = ["RunPlan", "SyncRunPlan"]

STEP = "plan"
"""The name of the step under which a change is journaled, unless another is given."""
ADD_STEP = "plan.add"
"""The name of the step that adds one task; its key is the task's id."""


class RunPlan:
    """The plan of the run that a task belongs to. Each change is journaled and made once, however
    often the handler is replayed."""

    def __init__(self, execution: Execution) -> None:
        self._execution = execution

    async def apply(
        self, change: PlanChange | PlanChangeDocument, *, name: str = STEP, key: str = ""
    ) -> int:
        """Change the plan, as a whole or not at all; return the number of its version.

        (`name`, `key`) names the change in its task, as it does a step: give each a key of its own
        where a handler makes several. In each execution of the handler it must be the same change:
        take what changes (a model's answer, a listing) from a step. Raises `PlanRefused`, saying
        which task cannot be changed so, and why; `PlanError` for more than a change may hold.
        """
        call = self._execution.asking.plan(change, name, key)
        version: int = await self._execution.drive(self._execution.ask(call))
        return version

    async def add(
        self,
        id: str,  # noqa: A002 - it is the word of the plan's format
        task: Task[Any, Any] | str,
        input: Any = None,  # noqa: A002
        /,
        **settings: Any,
    ) -> TaskHandle:
        """Add one task; return what stands for it in the inputs of others.

        `settings`: all that `Plan.task` takes, inputs by name too. Raises as `apply`.
        """
        change, handle = _addition(id, task, input, settings)
        await self.apply(change, name=ADD_STEP, key=id)
        return handle


class SyncRunPlan:
    """The plan of the run that a synchronous handler's task belongs to; see `RunPlan`."""

    def __init__(self, execution: Execution) -> None:
        self._execution = execution

    def apply(
        self, change: PlanChange | PlanChangeDocument, *, name: str = STEP, key: str = ""
    ) -> int:
        """See `RunPlan.apply`."""
        call = self._execution.asking.plan(change, name, key)
        version: int = self._execution.drive_in_thread(self._execution.ask(call))
        return version

    def add(
        self,
        id: str,  # noqa: A002
        task: Task[Any, Any] | str,
        input: Any = None,  # noqa: A002
        /,
        **settings: Any,
    ) -> TaskHandle:
        """See `RunPlan.add`."""
        change, handle = _addition(id, task, input, settings)
        self.apply(change, name=ADD_STEP, key=id)
        return handle


def _addition(
    task_id: str, task: Task[Any, Any] | str, given: Any, settings: dict[str, Any]
) -> tuple[PlanChange, TaskHandle]:
    change = PlanChange()
    return change, change.task(task_id, task, given, **settings)
