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
from dataclasses import dataclass
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError
from pydantic_core import PydanticSerializationError, to_jsonable_python

from holdfast.schemas.errors import PlanError
from holdfast.schemas.expressions import escape_text, quote_name
from holdfast.schemas.records import RetryPolicy

__all__ = [
    "NODES_MAX",
    "WIDTH_MAX",
    "Expression",
    "MapSpec",
    "Plan",
    "PlanDocument",
    "Retry",
    "Task",
    "TaskHandle",
    "TaskNode",
    "plan_error",
    "split_task_name",
]

In = TypeVar("In")
Out = TypeVar("Out")

NODES_MAX = 10_000
"""A plan has at most this many tasks."""
WIDTH_MAX = 100_000
"""A map goes over at most this many items."""

NAME = r"^[a-z0-9-]{1,64}$"
_TASK_NAME = re.compile(r"(?P<agent>[a-z0-9-]{1,64})\.(?P<task>[A-Za-z0-9_-]{1,64})")

Seconds = Annotated[float, Field(gt=0, le=10 * 366 * 86_400, allow_inf_nan=False)]
OnDeadLetter = Literal["fail", "wait"]
Order = Literal["strict", "loose"]
OnFailure = Literal["fail", "collect"]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Retry(_Model):
    """When a failed attempt is followed by another: initial_s * factor^(n-1), at most max_s.

    `attempts` counts the first one too. `jitter` is the share of the delay that is drawn at
    random, up and down.
    """

    attempts: int = Field(default=3, ge=1, le=10_000)
    initial_s: float = Field(default=1.0, ge=0, le=86_400, allow_inf_nan=False)
    factor: float = Field(default=2.0, ge=1, le=100, allow_inf_nan=False)
    max_s: float = Field(default=60.0, ge=0, le=30 * 86_400, allow_inf_nan=False)
    jitter: float = Field(default=0.2, ge=0, le=1, allow_inf_nan=False)

    def policy(self) -> RetryPolicy:
        """Return it as it stands in manifests and resolved plans (milliseconds)."""
        return RetryPolicy(
            attempts=self.attempts,
            initial_ms=round(self.initial_s * 1_000),
            factor=self.factor,
            max_ms=round(self.max_s * 1_000),
            jitter=self.jitter,
        )


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


class MapSpec(_Model):
    """A task that is worked once for each item of a list, at most `max_parallel` at a time.

    `on_failure`: the first item that fails fails the map (`fail`), or the map's output holds the
    outputs of those that succeeded (`collect`).
    """

    over: JsonValue
    max_parallel: int = Field(default=16, ge=1, le=WIDTH_MAX)
    on_failure: OnFailure = "fail"


class TaskNode(_Model):
    """One task of a plan. `input`, `order_key` and `map.over` are templates, `when` an expression.

    Without `input` a task gets `{}`, a map's items are the inputs themselves.
    """

    task: str
    input: JsonValue = None
    map: MapSpec | None = None
    after: tuple[str, ...] = ()
    when: str | None = None
    retry: Retry | None = None
    timeout_s: Seconds | None = None
    queue_timeout_s: Seconds | None = None
    order_key: str | None = None
    order: Order = "strict"
    on_dead_letter: OnDeadLetter | None = None


class PlanDocument(_Model):
    """A plan as data. `output` and `order_key` are templates; the latter over the input only.

    Without `output` a run's output is that of its last task; if several tasks have no successor,
    an object of their outputs by task id.
    """

    name: str = Field(pattern=NAME)
    order_key: str | None = None
    deadline_s: Seconds | None = None
    on_dead_letter: OnDeadLetter = "fail"
    output: JsonValue = None
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


@dataclass(frozen=True, slots=True)
class Expression:
    """A JMESPath expression over the run's document; `[...]` selects further.

    Its `str()` is the text, so that conditions can be put together: f"{files['total']} > `0`".
    """

    text: str

    def __getitem__(self, key: str | int) -> Expression:
        if isinstance(key, int):
            return Expression(f"{self.text}[{key}]")
        return Expression(f"{self.text}.{quote_name(key)}")

    def __str__(self) -> str:
        return self.text

    def __bool__(self) -> bool:
        raise PlanError(
            f"expression {self.text!r} has no value while the plan is being written;"
            " put the condition into when=..."
        )

    # `for x in expression` would go on for ever: every index gives another expression.
    __iter__ = None


@dataclass(frozen=True, slots=True)
class TaskHandle:
    """A task of the plan being built; where a value is expected it stands for its whole output."""

    id: str

    @property
    def output(self) -> Expression:
        """The task's whole output."""
        return Expression(f"tasks.{quote_name(self.id)}")

    def __getitem__(self, key: str | int) -> Expression:
        return self.output[key]

    __iter__ = None


class Plan:
    """Builds a `PlanDocument`. Values given as inputs are constants, expressions, or handles.

    Raises `PlanError` where a name, an id or a value cannot be used; references and cycles are
    checked as a whole, when the plan is submitted (`check_plan` does it at once).
    """

    item = Expression("item")
    """In the inputs of a map: the item at hand."""

    def __init__(
        self,
        name: str,
        *,
        order_key: Any = None,
        deadline_s: float | None = None,
        output: Any = None,
        on_dead_letter: OnDeadLetter = "fail",
    ) -> None:
        self.name = name
        self.order_key = order_key
        self.deadline_s = deadline_s
        self.output = output
        self.on_dead_letter = on_dead_letter
        self._nodes: dict[str, TaskNode] = {}

    @classmethod
    def of_task(cls, task: Task[Any, Any] | str) -> Plan:
        """Return the plan of a lone task: its input is the run's, its output the run's."""
        name = _full_name(task)
        plan = cls(name.replace(".", "-").replace("_", "-").lower()[:64])
        plan.task("task", task, plan.input())
        return plan

    def input(self, field: str | None = None) -> Expression:
        """Return one field of the run's input, or all of it."""
        return Expression("input" if field is None else f"input.{quote_name(field)}")

    def task(
        self,
        id: str,  # noqa: A002 - it is the word of the plan's format
        task: Task[Any, Any] | str,
        input: Any = None,  # noqa: A002
        /,
        *,
        after: Iterable[TaskHandle | str] = (),
        when: Expression | str | None = None,
        retry: Retry | None = None,
        timeout_s: float | None = None,
        queue_timeout_s: float | None = None,
        order_key: Any = None,
        order: Order = "strict",
        on_dead_letter: OnDeadLetter | None = None,
        **inputs: Any,
    ) -> TaskHandle:
        """Add a task. Its input is `inputs`, or `input` as a whole (a mapping, an expression).

        Settings that are left out are the task's own. Raises `PlanError`.
        """
        return self._add(
            id,
            task=_full_name(task),
            input=_input(id, input, inputs),
            after=_ids(after),
            when=None if when is None else str(when),
            retry=retry,
            timeout_s=timeout_s,
            queue_timeout_s=queue_timeout_s,
            order_key=_key_template(order_key),
            order=order,
            on_dead_letter=on_dead_letter,
        )

    def map(
        self,
        id: str,  # noqa: A002
        task: Task[Any, Any] | str,
        input: Any = None,  # noqa: A002
        /,
        *,
        over: Any,
        max_parallel: int = 16,
        on_failure: OnFailure = "fail",
        after: Iterable[TaskHandle | str] = (),
        when: Expression | str | None = None,
        retry: Retry | None = None,
        timeout_s: float | None = None,
        queue_timeout_s: float | None = None,
        order_key: Any = None,
        order: Order = "strict",
        on_dead_letter: OnDeadLetter | None = None,
        **inputs: Any,
    ) -> TaskHandle:
        """Add a task that is worked once for each item of `over` (an expression or a list).

        Without inputs each item is the input; with them, `plan.item` stands for the item at hand.
        """
        spec = {
            "over": _template(over),
            "max_parallel": max_parallel,
            "on_failure": on_failure,
        }
        return self._add(
            id,
            task=_full_name(task),
            map=spec,
            input=_input(id, input, inputs),
            after=_ids(after),
            when=None if when is None else str(when),
            retry=retry,
            timeout_s=timeout_s,
            queue_timeout_s=queue_timeout_s,
            order_key=_key_template(order_key),
            order=order,
            on_dead_letter=on_dead_letter,
        )

    def document(self) -> PlanDocument:
        """Return the plan as data; raises `PlanError`."""
        try:
            return PlanDocument(
                name=self.name,
                order_key=_key_template(self.order_key),
                deadline_s=self.deadline_s,
                on_dead_letter=self.on_dead_letter,
                output=_template(self.output),
                tasks=self._nodes,
            )
        except ValidationError as error:
            raise plan_error(error, f"plan {self.name!r}") from None

    def to_json(self) -> str:
        """Return the canonical JSON of `document()`."""
        return self.document().to_json()

    def _add(self, node_id: str, **fields: Any) -> TaskHandle:
        if re.fullmatch(NAME, node_id) is None:
            raise PlanError(
                f"plan {self.name!r}: task id {node_id!r}: ids are 1 to 64 of a-z, 0-9 and '-'"
            )
        if node_id in self._nodes:
            raise PlanError(f"plan {self.name!r} has two tasks with the id {node_id!r}")
        try:
            self._nodes[node_id] = TaskNode.model_validate(fields)
        except ValidationError as error:
            raise plan_error(error, f"plan {self.name!r}, task {node_id!r}") from None
        return TaskHandle(node_id)


def _full_name(task: Task[Any, Any] | str) -> str:
    name = task if isinstance(task, str) else task.full_name
    split_task_name(name)
    return name


def _ids(after: Iterable[TaskHandle | str]) -> list[str]:
    if isinstance(after, str | TaskHandle):
        after = [after]
    return [handle if isinstance(handle, str) else handle.id for handle in after]


def _input(node_id: str, whole: Any, inputs: dict[str, Any]) -> Any:
    if whole is not None and inputs:
        raise PlanError(
            f"task {node_id!r} is given an input as a whole and by name"
            f" ({', '.join(inputs)}); choose one"
        )
    return _template(whole if whole is not None else inputs or None)


def _key_template(key: Any) -> str | None:
    if key is None or isinstance(key, Expression):
        return None if key is None else f"${{{key.text}}}"
    return escape_text(str(key))


def _template(value: Any) -> Any:
    """Return what stands for `value` in a plan: JSON, with expressions as `${...}`."""
    if isinstance(value, TaskHandle):
        value = value.output
    if isinstance(value, Expression):
        return f"${{{value.text}}}"
    if value is None or isinstance(value, bool | int):
        return value
    if type(value) is str:
        return escape_text(value)
    if isinstance(value, Mapping):
        return {_name(name): _template(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_template(part) for part in value]
    if isinstance(value, float):
        if value != value or value in (float("inf"), float("-inf")):
            raise PlanError(f"{value} cannot stand in a plan: JSON does not have it")
        return value
    return _template(_jsonable(value))


def _name(name: Any) -> str:
    if not isinstance(name, str):
        raise PlanError(f"{name!r} cannot be a name in a plan: JSON's names are strings")
    return str(name)


def _jsonable(value: Any) -> Any:
    try:
        plain = to_jsonable_python(value)
    except PydanticSerializationError:
        plain = value
    if type(plain) not in (type(None), bool, int, float, str, list, dict):
        raise PlanError(f"a {type(value).__name__} cannot stand in a plan: JSON does not have it")
    return plain
