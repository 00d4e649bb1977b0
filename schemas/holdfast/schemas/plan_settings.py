"""Settings of a plan's tasks, and of the plan, beside what is to be done: joins, loops, shares.

Part of the model behind plans (`holdfast.schemas.plan`), in a file of its own.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    JsonValue,
    Tag,
    field_validator,
)

from holdfast.schemas.retrying import Retry

__all__ = [
    "ROUNDS_MAX",
    "UNDOING",
    "CompensateOn",
    "Compensation",
    "ContinueAsNew",
    "FailureShare",
    "Join",
    "Losers",
    "Model",
    "OnExhausted",
    "OnFailure",
    "Reduce",
    "Repeat",
    "Seconds",
    "step_undoing_id",
]

ROUNDS_MAX = 1_000
"""A task is repeated at most this often."""
UNDOING = "!"
"""What the ids of tasks begin with that undo others: `!<task id>`. No plan can have such an id."""


def step_undoing_id(task_id: str, name: str, key: str) -> str:
    """Return the id of the task that undoes a step of a task: `!~` and 16 hex digits."""
    parts = f"{task_id}\x00{name}\x00{key}".encode()
    return f"{UNDOING}~{hashlib.sha256(parts).hexdigest()[:16]}"


def _checked_join(value: Any) -> Any:
    is_count = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    if value not in ("all", "any", "first-success") and not is_count:
        raise ValueError("it is 'all', 'any', 'first-success', or how many must have succeeded")
    return value


Join = Annotated[Literal["all", "any", "first-success"] | int, BeforeValidator(_checked_join)]
Losers = Literal["cancel", "leave"]
OnExhausted = Literal["succeed", "fail"]
CompensateOn = Literal["failure", "cancel", "both", "never"]
Seconds = Annotated[float, Field(gt=0, le=10 * 366 * 86_400, allow_inf_nan=False)]


class Model(BaseModel):
    """What all parts of a plan have in common: no unknown settings, no changes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class FailureShare(Model):
    """How many items of a map may fail: a count (0, 1, 2 ...), or a share between 0 and 1."""

    at_most: int | float = Field(union_mode="left_to_right")

    @field_validator("at_most")
    @classmethod
    def _check(cls, value: float) -> float:
        is_share = isinstance(value, float) and 0 < value < 1
        if not is_share and not (isinstance(value, int) and value >= 0):
            raise ValueError("it is a count (0, 1, 2 ...), or a share between 0 and 1")
        return value

    def allowed(self, items: int) -> int:
        """Return how many of `items` may fail."""
        return self.at_most if isinstance(self.at_most, int) else int(self.at_most * items)


OnFailure = Annotated[
    Annotated[Literal["fail", "collect"], Tag("word")] | Annotated[FailureShare, Tag("share")],
    Discriminator(lambda value: "word" if isinstance(value, str) else "share"),
]


class Reduce(Model):
    """A task that folds a map's outputs, chunk by chunk, in the order of the list.

    Its input is `{"previous": <what it made of the chunks before, null first>, "items": [...]}`;
    the map's output is what it makes of the last chunk.
    """

    task: str


class Repeat(Model):
    """A task that is worked again, until `until` holds or `at_most` rounds are done.

    `until` is an expression over `output` (of the round that has just ended), `round` (from 1),
    `input` and `tasks`. The task's input may read `previous` (the output of the round before; null
    in the first) and `round`. `on_exhausted`: what the task is when no round was the last.
    """

    until: str
    at_most: int = Field(ge=1, le=ROUNDS_MAX)
    on_exhausted: OnExhausted = "succeed"


class Compensation(Model):
    """The task that undoes another one, where its run ends badly after that one succeeded.

    `input` is a template over `output` and `given` (the output and the input of the task that is
    undone) and `input` (the run's); without it, the output is the input. In a plan the name of the
    task alone may stand for it. Of a map each item is undone, of a loop each round.
    """

    task: str
    input: JsonValue = "${output}"
    retry: Retry | None = None
    timeout_s: Seconds | None = None


class ContinueAsNew(Model):
    """When a run that has succeeded is followed by another of the same plan.

    `when` is an expression, `input` the template of the next run's input; both over `input`,
    `tasks` and `output` (the run's).
    """

    when: str
    input: JsonValue
