"""Templates of a plan, compiled: which documents they read, and what they make of them.

`holdfast.schemas.expressions` defines what a template is. Here each is turned once into nested
closures, since one is evaluated for every task of every run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from jmespath.exceptions import JMESPathError

from holdfast.schemas.errors import HoldfastError
from holdfast.schemas.expressions import compile_expression, expression_in, truthy

__all__ = ["MappingFailed", "Template", "compile_condition", "compile_template"]

Document = Mapping[str, Any]
_Make = Callable[[Document], Any]


class MappingFailed(HoldfastError):
    """An expression failed on the values it met; the message names field and expression."""


@dataclass(frozen=True, slots=True)
class Template:
    """A compiled template. `tasks` are the ids whose outputs it reads; `input`: the run's too.

    `bound`: what else it reads: the item at hand, the round, what came before.
    """

    make: _Make
    tasks: frozenset[str]
    input: bool
    bound: frozenset[str]


def compile_template(template: Any, field: str) -> Template:
    """Compile a JSON value with `${...}` strings; `field` names it in messages.

    Raises `PlanError` for an expression that is wrong.
    """
    references: set[tuple[str, str | None]] = set()
    make = _compile(template, field, references)
    return _template(make, references)


def compile_condition(text: str, field: str) -> Template:
    """Compile a bare expression, or one in `${...}`, to a template whose value is true or false."""
    references: set[tuple[str, str | None]] = set()
    search = _expression(text if (whole := _whole(text)) is None else whole, field, references)
    return _template(lambda document: truthy(search(document)), references)


def _whole(text: str) -> str | None:
    return expression_in(text) if text.startswith("${") else None


def _template(make: _Make, references: set[tuple[str, str | None]]) -> Template:
    tasks = frozenset(name for root, name in references if root == "tasks" and name is not None)
    roots = {root for root, _ in references}
    return Template(make, tasks, "input" in roots, frozenset(roots - {"input", "tasks"}))


def _compile(template: Any, field: str, references: set[tuple[str, str | None]]) -> _Make:
    if isinstance(template, str):
        text = expression_in(template) if "${" in template else None
        if text is not None:
            return _expression(text, field, references)
        plain = template.replace("$${", "${")
        return lambda _: plain
    if isinstance(template, Mapping):
        members = [(k, _compile(v, f"{field}.{k}", references)) for k, v in template.items()]
        return lambda document: {name: make(document) for name, make in members}
    if isinstance(template, list | tuple):
        parts = [_compile(v, f"{field}[{i}]", references) for i, v in enumerate(template)]
        return lambda document: [make(document) for make in parts]
    return lambda _: template


def _expression(text: str, field: str, references: set[tuple[str, str | None]]) -> _Make:
    compiled = compile_expression(text)
    references.update((reference.root, reference.name) for reference in compiled.references)
    search = compiled.search

    def make(document: Document) -> Any:
        try:
            return search(document)
        except (JMESPathError, TypeError, ValueError, RecursionError, AttributeError) as error:
            first = str(error).partition("\n")[0]
            raise MappingFailed(f"{field}: expression {text!r} failed: {first}") from None

    return make
