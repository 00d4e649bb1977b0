"""Values in a plan that is being built: constants, expressions, handles, and what stands for them.

`template_of` turns a value into the JSON that stands in the plan, with expressions as `${...}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic_core import PydanticSerializationError, to_jsonable_python

from holdfast.schemas.errors import PlanError
from holdfast.schemas.expressions import escape_text, quote_name

__all__ = ["Expression", "TaskHandle", "input_template", "key_template", "template_of"]


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

    @property
    def emitted(self) -> Expression:
        """The items that its handler hands out while it works: for the `over` of a map."""
        return Expression(f"emitted.{quote_name(self.id)}")

    def __getitem__(self, key: str | int) -> Expression:
        return self.output[key]

    __iter__ = None


def input_template(node_id: str, whole: Any, inputs: dict[str, Any]) -> Any:
    """Return the template of a task's input, given as a whole or by name."""
    if whole is not None and inputs:
        raise PlanError(
            f"task {node_id!r} is given an input as a whole and by name"
            f" ({', '.join(inputs)}); choose one"
        )
    return template_of(whole if whole is not None else inputs or None)


def key_template(key: Any) -> str | None:
    """Return an order key as it stands in a plan."""
    if key is None or isinstance(key, Expression):
        return None if key is None else f"${{{key.text}}}"
    return escape_text(str(key))


def template_of(value: Any) -> Any:
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
        return {_name(name): template_of(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [template_of(part) for part in value]
    if isinstance(value, float):
        if value != value or value in (float("inf"), float("-inf")):
            raise PlanError(f"{value} cannot stand in a plan: JSON does not have it")
        return value
    return template_of(_jsonable(value))


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
