"""Selections and conditions: JMESPath over what a run knows, and templates that hold them.

An expression is a JMESPath string over the document

    {"input": <the run's input>, "tasks": {"<task id>": <its output>}, "item": <a map's item>}

and, where a task is repeated, `round` (from 1), `previous` (the output of the round before) and
`output` (of the round that has just ended; for `continue_as_new`: of the run); in a compensation
`given` and `output`, the input and output of the task that it undoes. `emitted.<task id>` stands
alone, in what a map goes over: the items that the task's handler hands out while it works.

A *template* is any JSON value in which a string that is wholly `${...}` is an expression; in any
other string `$${` stands for `${`, and a bare `${` is an error (text is not interpolated: an
expression's result keeps its type).

References are found in the syntax tree, not by searching the text: `tasks.list.files[?tasks]` names
one task. What names no single task (`tasks.*`, `keys(tasks)`) is refused, since nothing could say
what to wait for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, cast, get_args

import jmespath
from jmespath.exceptions import JMESPathError
from jmespath.functions import Functions

from holdfast.schemas.errors import PlanError, did_you_mean

__all__ = [
    "CompiledExpression",
    "Reference",
    "Root",
    "compile_expression",
    "escape_text",
    "evaluate",
    "expression_in",
    "expressions_in",
    "quote_name",
    "render",
    "truthy",
]

EXPRESSION_CHARS_MAX = 4_096
"""Longer expressions are refused: the parser is recursive."""

_WHOLE = re.compile(r"\$\{(.*)\}", re.DOTALL)
_BARE = re.compile(r"(?<!\$)\$\{")
_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

Document = Mapping[str, Any]


Root = Literal["input", "tasks", "item", "previous", "round", "output", "given", "emitted"]
"""What an expression may begin with; which of them exist depends on where it stands."""


@dataclass(frozen=True, slots=True)
class Reference:
    """What an expression reads. `field` is the first field selected from it, if one is named.

    `name` is a task's id for `tasks` and `emitted`, for `input` a field of the run's (None: all).
    `required` says that the expression is a plain path: without it the result would be null.
    """

    root: Root
    name: str | None
    field: str | None = None
    required: bool = False


@dataclass(frozen=True, slots=True)
class CompiledExpression:
    """A checked expression. `path` is set when it is nothing but names: a.b.c."""

    text: str
    references: tuple[Reference, ...]
    search: Callable[[Any], Any]
    path: tuple[str, ...] | None


def quote_name(name: str) -> str:
    """Return `name` as JMESPath writes an identifier."""
    return name if _PLAIN_NAME.fullmatch(name) else json.dumps(name)


def escape_text(text: str) -> str:
    """Return the template that renders to `text` as it stands."""
    return text.replace("${", "$${")


@lru_cache(maxsize=4_096)
def compile_expression(text: str) -> CompiledExpression:
    """Parse and check an expression; raises `PlanError` with the place of the mistake."""
    if len(text) > EXPRESSION_CHARS_MAX:
        raise PlanError(
            f"expression of {len(text)} characters; at most {EXPRESSION_CHARS_MAX} are allowed"
        )
    try:
        parsed = jmespath.compile(text)
        tree = cast("dict[str, Any]", parsed.parsed)
    except RecursionError:
        raise PlanError(f"expression {_shorten(text)!r} is nested too deeply") from None
    except JMESPathError as error:
        raise PlanError(_syntax_message(text, error)) from None
    path = _plain_path(tree)
    references = tuple(_References(text, path is not None).of(tree))
    search = parsed.search if path is None else _path_search(path)
    return CompiledExpression(text, references, search, path)


def evaluate(text: str, document: Document) -> Any:
    """Return what the expression selects (None where there is nothing).

    Raises `PlanError` when the expression is wrong, or fails on this document (a function got
    a value of a wrong type).
    """
    expression = compile_expression(text)
    try:
        return expression.search(document)
    except (JMESPathError, TypeError, ValueError, RecursionError) as error:
        first = str(error).partition("\n")[0]
        raise PlanError(f"expression {_shorten(text)!r} failed: {first}") from None


def truthy(value: Any) -> bool:
    """Whether JMESPath counts `value` as true: all but false, null, "", [] and {} (0 is true)."""
    return not (value is None or value is False or value in ("", [], {}))


def expression_in(text: str) -> str | None:
    """Return the expression if `text` is wholly `${...}`, None if it is plain text.

    Raises `PlanError` for a `${` that is neither whole nor escaped.
    """
    whole = _WHOLE.fullmatch(text)
    if whole:
        return whole[1].strip()
    if _BARE.search(text):
        raise PlanError(
            f"{_shorten(text)!r}: an expression must be the whole string;"
            " write $${ for a plain ${"
        )
    return None


def expressions_in(template: Any) -> Iterator[CompiledExpression]:
    """Yield each expression of a template; raises `PlanError` for one that is wrong."""
    if isinstance(template, str):
        text = expression_in(template)
        if text is not None:
            yield compile_expression(text)
    elif isinstance(template, Mapping):
        for value in template.values():
            yield from expressions_in(value)
    elif isinstance(template, list | tuple):
        for value in template:
            yield from expressions_in(value)


def render(template: Any, document: Document) -> Any:
    """Return the template's value: each expression replaced by what it selects."""
    if isinstance(template, str):
        if "${" not in template:
            return template
        text = expression_in(template)
        return template.replace("$${", "${") if text is None else evaluate(text, document)
    if isinstance(template, Mapping):
        return {name: render(value, document) for name, value in template.items()}
    if isinstance(template, list | tuple):
        return [render(value, document) for value in template]
    return template


# --- reading the syntax tree -------------------------------------------------------------------


def _plain_path(node: dict[str, Any]) -> tuple[str, ...] | None:
    if node["type"] == "field":
        return (node["value"],)
    if node["type"] == "subexpression" and all(c["type"] == "field" for c in node["children"]):
        return tuple(child["value"] for child in node["children"])
    return None


def _path_search(path: tuple[str, ...]) -> Callable[[Any], Any]:
    """Nine in ten expressions are plain paths: twenty times faster than the tree's interpreter."""

    def search(value: Any) -> Any:
        for name in path:
            if not isinstance(value, (dict, Mapping)):  # a dict is told five times as fast
                return None
            value = value.get(name)
        return value

    return search


_ROOT = object()
_TASKS = object()
_EMITTED = object()


class _References:
    """Follows, through the tree, what still is the document, or its `tasks`.

    Each node is looked at with what it is applied to; it answers what comes out: the document
    (`_ROOT`), all tasks (`_TASKS`), one thing in them (a `Reference`), or anything else (None).
    """

    def __init__(self, text: str, plain: bool) -> None:
        self._text = text
        self._plain = plain
        self._found: dict[Reference, None] = {}

    def of(self, tree: dict[str, Any]) -> list[Reference]:
        self._use(self._follow(tree, _ROOT))
        return list(self._found)

    def _follow(self, node: dict[str, Any], source: Any) -> Any:
        kind, children = node["type"], node["children"]
        if kind == "field":
            return self._field(node["value"], source)
        if kind == "current":
            return source
        if kind in ("subexpression", "pipe", "index_expression"):
            self._check_negation(kind, children)
            for child in children:
                source = self._follow(child, source)
            return source
        if kind.endswith("projection"):
            # Left is applied to the source, the rest to each element of what came out.
            self._use(self._follow(children[0], source))
            for child in children[1:]:
                self._use(self._follow(child, None))
            return None
        if kind in ("literal", "identity"):
            return None
        if kind in ("index", "slice"):
            self._use(source)
            return None
        if kind == "function_expression":
            self._check_function(node["value"])
        for child in children:
            # `&expression` is applied to the elements of another argument, all else to the source.
            self._use(self._follow(child, None if kind == "expref" else source))
        return None

    def _field(self, name: str, source: Any) -> Any:
        if source is _ROOT:
            return self._root_field(name)
        if source is _TASKS:
            return Reference("tasks", name, None, self._plain)
        if source is _EMITTED:
            return Reference("emitted", name, None, self._plain)
        if isinstance(source, Reference):
            if source.root == "input" and source.name is None:
                return Reference("input", name, None, source.required)
            self._found[Reference(source.root, source.name, name, source.required)] = None
        return None

    def _root_field(self, name: str) -> Any:
        if name == "tasks":
            return _TASKS
        if name == "emitted":
            return _EMITTED
        if name in get_args(Root):
            return Reference(cast(Root, name), None, None, self._plain)
        raise PlanError(
            f"expression {_shorten(self._text)!r}: unknown name {name!r};"
            " it starts with input, tasks.<id> or item; where a task is repeated, also with"
            " previous, round or output; in a compensation with given or output; what a map goes"
            " over may be emitted.<id>"
        )

    def _check_negation(self, kind: str, children: list[Any]) -> None:
        """JMESPath reads `!a.b` as `(!a).b`, which is null: a condition that never holds."""
        if kind == "subexpression" and children[0]["type"] == "not_expression":
            raise PlanError(
                f"expression {_shorten(self._text)!r}: '!' binds closer than '.'; write !(a.b)"
            )

    def _check_function(self, name: str) -> None:
        known = Functions.FUNCTION_TABLE
        if name not in known:
            raise PlanError(
                f"expression {_shorten(self._text)!r}: unknown function {name!r}"
                f"{did_you_mean(name, known)}"
            )

    def _use(self, value: Any) -> None:
        """Note what an expression, or a part of it, ends in."""
        if value is _EMITTED:
            raise PlanError(
                f"expression {_shorten(self._text)!r} names no task: write emitted.<id>"
            )
        if value is _ROOT or value is _TASKS:
            what = "the whole document" if value is _ROOT else "all tasks"
            raise PlanError(
                f"expression {_shorten(self._text)!r} reads {what};"
                " name what it needs: tasks.<id>, input or item"
            )
        if isinstance(value, Reference):
            self._found[value] = None


def _syntax_message(text: str, error: JMESPathError) -> str:
    column = getattr(error, "lex_position", None)
    place = "" if column is None else f" at character {column + 1}"
    lines = str(error).split("\n")
    reason = lines[0].partition(": Parse error at")[0].rstrip(":")
    reason = reason.removeprefix("Bad jmespath expression: ")
    hint = "; quote names that hold '-': tasks.\"list-all\"" if "'-'" in reason else ""
    return f"expression {_shorten(text)!r}{place}: {reason}{hint}"


def _shorten(text: str) -> str:
    return text if len(text) <= 80 else text[:77] + "..."
