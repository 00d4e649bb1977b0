"""Plans as data, and how they are written in Python.

`PlanDocument` is the one model behind a plan in Python, YAML and JSON; `Plan` builds one:

    plan = Plan("audit")
    files = plan.task("list", "scout.list", folder=plan.input("folder"))
    reviews = plan.map("review", review, over=files["files"], max_parallel=16)
    plan.task("report", "editor.report", reviews=reviews)

A task waits for those whose outputs its expressions name (`tasks.<id>`), and for those in `after`.
The same in YAML:

    name: audit
    tasks:
      list: {task: scout.list, input: {folder: "${input.folder}"}}
      review: {task: reviewer.review, map: {over: "${tasks.list.files}"}}
      report: {task: editor.report, input: {reviews: "${tasks.review}"}}

`holdfast.schemas.resolution` checks a plan against what agents publish of themselves.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BeforeValidator, Field, JsonValue, ValidationError, model_validator

from holdfast.schemas.errors import PlanError
from holdfast.schemas.expressions import quote_name
from holdfast.schemas.plan_settings import (
    CompensateOn,
    Compensation,
    ContinueAsNew,
    Join,
    Losers,
    Model,
    OnFailure,
    Reduce,
    Repeat,
    Seconds,
)
from holdfast.schemas.plan_tasks import (
    Task,
    Undoing,
    full_name_of,
    said_undoing,
    split_task_name,
)
from holdfast.schemas.plan_values import (
    Expression,
    TaskHandle,
    input_template,
    key_template,
    template_of,
)
from holdfast.schemas.retrying import Retry

__all__ = [
    "NODES_MAX",
    "WIDTH_MAX",
    "Expression",
    "MapSpec",
    "Plan",
    "PlanDocument",
    "Retry",
    "Task",
    "TaskBuilder",
    "TaskHandle",
    "TaskNode",
    "plan_error",
    "split_task_name",
]

NODES_MAX = 10_000
"""A plan has at most this many tasks."""
WIDTH_MAX = 100_000
"""A map goes over at most this many items."""

NAME = r"^[a-z0-9-]{1,64}$"

OnDeadLetter = Literal["fail", "wait"]
Order = Literal["strict", "loose"]
Dropped = Literal["skip", "cancel"]


class MapSpec(Model):
    """A task that is worked once for each item of a list, at most `max_parallel` at a time.

    `on_failure`: the first item that fails fails the map (`fail`), or the map's output holds the
    outputs of those that succeeded (`collect`; `{"at_most": n}`: as long as no more fail).
    """

    over: JsonValue
    max_parallel: int = Field(default=16, ge=1, le=WIDTH_MAX)
    on_failure: OnFailure = "fail"
    reduce: Reduce | None = None


def _compensation(value: Any) -> Any:
    # Validated here: of a union pydantic would name a type of ours as a part of the place.
    if value is None or value is False or isinstance(value, Compensation):
        return value
    return Compensation.model_validate({"task": value} if isinstance(value, str) else value)


class TaskNode(Model):
    """One task of a plan. `input`, `order_key` and `map.over` are templates, `when` an expression.

    Without `input` a task gets `{}`, a map's items are the inputs themselves. Instead of `task` it
    may have a `plan`: a run of its own, whose input is `input`, and whose output is the task's.
    `join`: how many of those that it waits for must have succeeded; `losers`: what becomes of the
    others then. `compensate`: what undoes it (null: what its agent says; false: nothing does). In
    plans that were changed stand `added_by`, the task whose handler added it, and `dropped`: it was
    skipped or cancelled.
    """

    task: str = ""
    plan: PlanDocument | None = None
    input: JsonValue = None
    map: MapSpec | None = None
    repeat: Repeat | None = None
    after: tuple[str, ...] = ()
    join: Join = "all"
    losers: Losers = "cancel"
    when: str | None = None
    retry: Retry | None = None
    timeout_s: Seconds | None = None
    queue_timeout_s: Seconds | None = None
    progress_timeout_s: Seconds | None = None
    order_key: str | None = None
    order: Order = "strict"
    on_dead_letter: OnDeadLetter | None = None
    compensate: Annotated[Compensation | Literal[False] | None, BeforeValidator(_compensation)] = (
        None
    )
    added_by: Annotated[str, Field(pattern=NAME)] | None = None
    dropped: Dropped | None = None

    @model_validator(mode="after")
    def _one_work(self) -> TaskNode:
        if (self.plan is None) is not bool(self.task):
            raise ValueError("it needs a task (<agent>.<task>) or a plan, and not both")
        if self.map is not None and self.repeat is not None:
            raise ValueError("map and repeat cannot both be set: put the loop into a plan")
        if self.plan is not None:
            given = [name for name in _NOT_OF_PLANS if getattr(self, name) is not None]
            if given or self.order != "strict":
                what = given[0] if given else "order"
                raise ValueError(f"{what} has no meaning for a plan: set it on the plan's tasks")
        return self


_NOT_OF_PLANS = ("retry", "queue_timeout_s", "progress_timeout_s", "order_key", "on_dead_letter")


class PlanDocument(Model):
    """A plan as data. `output` and `order_key` are templates; the latter over the input only.

    Without `output` a run's output is that of its last task; if several tasks have no successor,
    an object of their outputs by task id. `continue_as_new`: what follows it. `compensate_on`: the
    bad ends of a run before which its tasks with a compensation are undone.
    """

    name: str = Field(pattern=NAME)
    order_key: str | None = None
    deadline_s: Seconds | None = None
    on_dead_letter: OnDeadLetter = "fail"
    compensate_on: CompensateOn = "both"
    output: JsonValue = None
    continue_as_new: ContinueAsNew | None = None
    tasks: dict[Annotated[str, Field(pattern=NAME)], TaskNode] = Field(
        min_length=1, max_length=NODES_MAX
    )

    def to_json(self) -> str:
        """Return the canonical JSON: the same plan always gives the same text."""
        return self.model_dump_json(exclude_defaults=True)

    @classmethod
    def from_json(cls, text: str | bytes) -> PlanDocument:
        """Read a plan from JSON; raises `PlanError`."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise plan_error(error) from None


def plan_error(error: ValidationError, place: str = "plan") -> PlanError:
    """Return the first complaint of pydantic as a `PlanError` that names the place in the plan."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"] if part != "[key]")
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "string_pattern_mismatch":
        message = "names are 1 to 64 of a-z, 0-9 and '-'"
    if first["type"] == "extra_forbidden":
        message = "unknown setting"
    return PlanError(f"{place}: {where}: {message}" if where else f"{place}: {message}")


# --- building ----------------------------------------------------------------------------------


class TaskBuilder:
    """Takes tasks in by `task` and `map`: those of a plan, or of a change of one.

    Values given as inputs are constants, expressions, or handles. `place` names what is built in
    messages. Raises `PlanError` where a name, an id or a value cannot be used.
    """

    item = Expression("item")
    """In the inputs of a map: the item at hand."""
    previous = Expression("previous")
    """In the input of a task that is repeated: the output of the round before, null at first."""
    round = Expression("round")
    """In the input of a task that is repeated: the number of the round, from 1."""
    result = Expression("output")
    """In `until`: the output of the round that has ended; in `continue_as_new`: of the run; in
    `compensate`: of the task that is undone."""
    given = Expression("given")
    """In `compensate`: the input of the task that is undone."""

    def __init__(self, place: str) -> None:
        self._place = place
        self._nodes: dict[str, TaskNode] = {}

    @property
    def nodes(self) -> Mapping[str, TaskNode]:
        """The tasks taken in so far, by id."""
        return MappingProxyType(self._nodes)

    def input(self, field: str | None = None) -> Expression:
        """Return one field of the run's input, or all of it."""
        return Expression("input" if field is None else f"input.{quote_name(field)}")

    def task(
        self,
        id: str,  # noqa: A002 - it is the word of the plan's format
        task: Work,
        input: Any = None,  # noqa: A002
        /,
        *,
        after: Iterable[TaskHandle | str] = (),
        join: Join = "all",
        losers: Losers = "cancel",
        repeat: Repeat | Mapping[str, Any] | None = None,
        when: Expression | str | None = None,
        retry: Retry | None = None,
        timeout_s: float | None = None,
        queue_timeout_s: float | None = None,
        progress_timeout_s: float | None = None,
        order_key: Any = None,
        order: Order = "strict",
        on_dead_letter: OnDeadLetter | None = None,
        compensate: Undoing = None,
        **inputs: Any,
    ) -> TaskHandle:
        """Add a task. Its input is `inputs`, or `input` as a whole (a mapping, an expression).

        Settings that are left out are the task's own. Instead of a task, a plan may be given: it
        becomes a run of its own. `compensate`: the task that undoes it, or a mapping, see
        `Compensation`; False: nothing does, whatever its agent says. Raises `PlanError`.
        """
        return self._add(
            id,
            **_work(task),
            repeat=_plain(repeat),
            join=join,
            losers=losers,
            input=input_template(id, input, inputs),
            after=_ids(after),
            when=None if when is None else str(when),
            retry=retry,
            timeout_s=timeout_s,
            queue_timeout_s=queue_timeout_s,
            progress_timeout_s=progress_timeout_s,
            order_key=key_template(order_key),
            order=order,
            on_dead_letter=on_dead_letter,
            compensate=said_undoing(compensate),
        )

    def map(
        self,
        id: str,  # noqa: A002
        task: Work,
        input: Any = None,  # noqa: A002
        /,
        *,
        over: Any,
        max_parallel: int = 16,
        on_failure: OnFailure | Mapping[str, float] = "fail",
        reduce: Task[Any, Any] | str | None = None,
        after: Iterable[TaskHandle | str] = (),
        join: Join = "all",
        losers: Losers = "cancel",
        when: Expression | str | None = None,
        retry: Retry | None = None,
        timeout_s: float | None = None,
        queue_timeout_s: float | None = None,
        progress_timeout_s: float | None = None,
        order_key: Any = None,
        order: Order = "strict",
        on_dead_letter: OnDeadLetter | None = None,
        compensate: Undoing = None,
        **inputs: Any,
    ) -> TaskHandle:
        """Add a task that is worked once for each item of `over` (an expression or a list).

        Without inputs each item is the input; with them, `plan.item` stands for the item at hand.
        `reduce`: the task that folds the outputs, see `Reduce`. Raises `PlanError`.
        """
        spec = {
            "over": template_of(over),
            "max_parallel": max_parallel,
            "on_failure": on_failure,
            "reduce": None if reduce is None else {"task": full_name_of(reduce)},
        }
        return self._add(
            id,
            **_work(task),
            map=spec,
            join=join,
            losers=losers,
            input=input_template(id, input, inputs),
            after=_ids(after),
            when=None if when is None else str(when),
            retry=retry,
            timeout_s=timeout_s,
            queue_timeout_s=queue_timeout_s,
            progress_timeout_s=progress_timeout_s,
            order_key=key_template(order_key),
            order=order,
            on_dead_letter=on_dead_letter,
            compensate=said_undoing(compensate),
        )

    def _add(self, node_id: str, **fields: Any) -> TaskHandle:
        if re.fullmatch(NAME, node_id) is None:
            raise PlanError(
                f"{self._place}: task id {node_id!r}: ids are 1 to 64 of a-z, 0-9 and '-'"
            )
        if node_id in self._nodes:
            raise PlanError(f"{self._place} has two tasks with the id {node_id!r}")
        try:
            self._nodes[node_id] = TaskNode.model_validate(fields)
        except ValidationError as error:
            raise plan_error(error, f"{self._place}, task {node_id!r}") from None
        return TaskHandle(node_id)


class Plan(TaskBuilder):
    """Builds a `PlanDocument`.

    References and cycles are checked as a whole, when the plan is submitted (`check_plan` does it
    at once).
    """

    def __init__(
        self,
        name: str,
        *,
        order_key: Any = None,
        deadline_s: float | None = None,
        output: Any = None,
        on_dead_letter: OnDeadLetter = "fail",
        compensate_on: CompensateOn = "both",
        continue_as_new: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(f"plan {name!r}")
        self.name = name
        self.order_key = order_key
        self.deadline_s = deadline_s
        self.output = output
        self.on_dead_letter = on_dead_letter
        self.compensate_on = compensate_on
        self.continue_as_new = continue_as_new

    @classmethod
    def of_task(cls, task: Task[Any, Any] | str) -> Plan:
        """Return the plan of a lone task: its input is the run's, its output the run's."""
        name = full_name_of(task)
        plan = cls(name.replace(".", "-").replace("_", "-").lower()[:64])
        plan.task("task", task, plan.input())
        return plan

    def document(self) -> PlanDocument:
        """Return the plan as data; raises `PlanError`."""
        try:
            return PlanDocument(
                name=self.name,
                order_key=key_template(self.order_key),
                deadline_s=self.deadline_s,
                on_dead_letter=self.on_dead_letter,
                compensate_on=self.compensate_on,
                output=template_of(self.output),
                continue_as_new=_continuation(self.continue_as_new),
                tasks=self._nodes,
            )
        except ValidationError as error:
            raise plan_error(error, f"plan {self.name!r}") from None

    def to_json(self) -> str:
        """Return the canonical JSON of `document()`."""
        return self.document().to_json()


def _work(work: Work) -> dict[str, Any]:
    if isinstance(work, Plan | PlanDocument):
        return {"plan": work.document() if isinstance(work, Plan) else work}
    return {"task": full_name_of(work)}


def _plain(setting: Repeat | Mapping[str, Any] | None) -> Any:
    """Return a setting whose expressions may be given as such, as data."""
    if not isinstance(setting, Mapping):
        return setting
    return {k: str(v) if isinstance(v, Expression) else v for k, v in setting.items()}


def _continuation(setting: Mapping[str, Any] | None) -> Any:
    if setting is None:
        return None
    return {**_plain(setting), "input": template_of(setting.get("input"))}


def _ids(after: Iterable[TaskHandle | str]) -> list[str]:
    if isinstance(after, str | TaskHandle):
        after = [after]
    return [handle if isinstance(handle, str) else handle.id for handle in after]


Work: TypeAlias = Task[Any, Any] | Plan | PlanDocument | str
"""What a task of a plan may be: an agent's task, its name, or a plan."""
