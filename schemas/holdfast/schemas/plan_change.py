"""Changes of a run's plan, made while it runs: as data, and how they are written in Python.

    change = PlanChange()
    pages = change.map("pages", reader, over=found.links)        # new tasks, as in a `Plan`
    change.task("summary", writer, pages=pages, list=change.existing("list")["files"])
    change.replace.task("report", "editor.report", summary=change.existing("summary"))
    change.skip("fallback")
    change.cancel("slow-search")

The same as data is a `PlanChangeDocument`. `holdfast.schemas.plan_versions` resolves it and makes
the plan that it leads to.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Self

from pydantic import BaseModel, Field, ValidationError, model_validator

from holdfast.schemas.errors import PlanError
from holdfast.schemas.plan import NAME, TaskBuilder, TaskNode, plan_error
from holdfast.schemas.plan_settings import Model
from holdfast.schemas.plan_values import TaskHandle

__all__ = [
    "CHANGE_BYTES_MAX",
    "CHANGE_TASKS_MAX",
    "PlanChange",
    "PlanChangeDocument",
    "PlanVersion",
]

CHANGE_TASKS_MAX = 1_000
"""One change names at most this many tasks: resolved, it must fit into a record."""
CHANGE_BYTES_MAX = 256 * 1024
"""The longest text of a change, in UTF-8."""

Id = Annotated[str, Field(pattern=NAME)]


class PlanVersion(BaseModel):
    """What a task gives whose handler returns a `PlanChange`: the version of the plan it made."""

    version: int


class PlanChangeDocument(Model):
    """A change as data. `add`: new tasks; `replace`, `skip`: of tasks that have not been started;
    `cancel`: of tasks in any state (one that has ended stays as it is)."""

    add: dict[Id, TaskNode] = Field(default_factory=dict)
    replace: dict[Id, TaskNode] = Field(default_factory=dict)
    skip: tuple[Id, ...] = ()
    cancel: tuple[Id, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        ids = [*self.add, *self.replace, *self.skip, *self.cancel]
        if len(ids) > CHANGE_TASKS_MAX:
            raise ValueError(
                f"it names {len(ids)} tasks; at most {CHANGE_TASKS_MAX} are taken: make several"
            )
        if len(set(ids)) < len(ids):
            twice = next(name for name in ids if ids.count(name) > 1)
            raise ValueError(f"it names task {twice!r} twice")
        return self

    def to_json(self) -> str:
        """Return the canonical JSON: the same change always gives the same text.

        Raises `PlanError` for more than `CHANGE_BYTES_MAX`.
        """
        text = self.model_dump_json(exclude_defaults=True)
        size = len(text.encode())
        if size > CHANGE_BYTES_MAX:
            raise PlanError(
                f"plan change: {size} bytes; at most {CHANGE_BYTES_MAX} are taken: make several, or"
                " let the new tasks read large inputs from the outputs of others"
            )
        return text

    @classmethod
    def from_json(cls, text: str | bytes) -> PlanChangeDocument:
        """Read a change from JSON; raises `PlanError`."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise plan_error(error, "plan change") from None

    @property
    def nodes(self) -> dict[str, TaskNode]:
        """All tasks that it brings, new ones and replacements."""
        return {**self.add, **self.replace}

    @property
    def dropped(self) -> tuple[str, ...]:
        """Tasks that are not to be worked any more."""
        return self.skip + self.cancel

    def __bool__(self) -> bool:
        """Whether it changes anything."""
        return bool(self.add or self.replace or self.skip or self.cancel)


class PlanChange(TaskBuilder):
    """Builds a `PlanChangeDocument`: `task` and `map` add tasks, as they do in a `Plan`.

    What the tasks refer to is checked when the change is made: against the plan as it is then.
    """

    def __init__(self) -> None:
        super().__init__("plan change")
        self.replace = TaskBuilder("plan change, replace")
        """`replace.task(…)` and `replace.map(…)` take the place of tasks that were not started."""
        self._skip: dict[str, None] = {}
        self._cancel: dict[str, None] = {}

    def __repr__(self) -> str:
        return f"<PlanChange {self.to_json()}>"

    def existing(self, id: str) -> TaskHandle:  # noqa: A002 - it is the word of the plan's format
        """Return a task that the run's plan has already, to be used in inputs and `after`."""
        return TaskHandle(id)

    def skip(self, *ids: TaskHandle | str) -> None:
        """Let tasks that have not been started never be; who waits for them gets null."""
        self._skip.update(dict.fromkeys(_ids(ids)))

    def cancel(self, *ids: TaskHandle | str) -> None:
        """Let tasks end, whatever state they are in; who waits for them goes on as if skipped."""
        self._cancel.update(dict.fromkeys(_ids(ids)))

    def document(self) -> PlanChangeDocument:
        """Return the change as data; raises `PlanError`."""
        try:
            return PlanChangeDocument(
                add=self._nodes,
                replace=dict(self.replace.nodes),
                skip=tuple(self._skip),
                cancel=tuple(self._cancel),
            )
        except ValidationError as error:
            raise plan_error(error, "plan change") from None

    def to_json(self) -> str:
        """Return the canonical JSON of `document()`."""
        return self.document().to_json()


def _ids(handles: Iterable[TaskHandle | str]) -> list[str]:
    return [handle if isinstance(handle, str) else handle.id for handle in handles]
