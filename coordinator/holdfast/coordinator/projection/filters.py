"""The filter language: which runs and tasks are meant, said in a line of text.

    filter     = all { "or" all }
    all        = one { "and" one }
    one        = "not" one | "(" filter ")" | FIELD OPERATOR VALUE
    OPERATOR   = "=" | "!=" | "<" | ">" | "~"          ~: begins with
    VALUE      = a word, or text in double quotes (\\" and \\\\ within)

It is read by a parser of its own, checked word by word, and becomes bound parameters of a query
(`selecting`): no part of it ever becomes SQL. What cannot be read is told with its place.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from holdfast.schemas.errors import HoldfastError, did_you_mean
from holdfast.schemas.records import RunState, TaskState

__all__ = [
    "FIELDS",
    "And",
    "Compare",
    "Expression",
    "FilterError",
    "Not",
    "Operator",
    "Or",
    "fields_of",
    "parse_filter",
]

FILTER_CHARS_MAX = 4_096
DEPTH_MAX = 50
"""Of parentheses and `not` in each other: more would exhaust the interpreter's stack."""
_TOKEN = re.compile(
    r'\s*(?:(?P<quoted>"(?:[^"\\]|\\.)*")|(?P<operator>!=|=|<|>|~|\(|\))'
    r"|(?P<word>[^\s\"=!<>~()]+)|(?P<bad>\S))"
)
_DURATION = re.compile(r"(\d{1,9})(ms|s|m|h|d)")
_UNITS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


class FilterError(HoldfastError):
    """A filter that cannot be read. `position`: where in its text, from 0."""

    def __init__(self, text: str, position: int, problem: str) -> None:
        self.text, self.position, self.problem = text, position, problem
        super().__init__(f"{problem}\n  {text}\n  {' ' * position}^")


class Operator(StrEnum):
    """How a field is compared."""

    IS = "="
    IS_NOT = "!="
    LESS = "<"
    MORE = ">"
    BEGINS = "~"


@dataclass(frozen=True, slots=True)
class Compare:
    """One condition. `number`: the value where it is one (milliseconds, a count)."""

    field: str
    operator: Operator
    value: str
    number: int = 0


@dataclass(frozen=True, slots=True)
class Not:
    """What must not hold."""

    inner: Expression


@dataclass(frozen=True, slots=True)
class And:
    """What must all hold."""

    parts: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """Of which one must hold."""

    parts: tuple[Expression, ...]


Expression: TypeAlias = Compare | Not | And | Or

_EQUAL = frozenset({Operator.IS, Operator.IS_NOT})
_TEXT = _EQUAL | {Operator.BEGINS}
_SIZE = frozenset({Operator.LESS, Operator.MORE})
FIELDS: dict[str, tuple[frozenset[Operator], str]] = {
    "run": (_TEXT, "the run's id"),
    "plan": (_TEXT, "the name of its plan"),
    "state": (_EQUAL, "the run's state"),
    "order_key": (_TEXT, "the task's order key, else the run's"),
    "age": (_SIZE, "how long ago the run was made: 30s, 10m, 2h, 7d"),
    "agent": (_TEXT, "the agent of a task"),
    "task": (_TEXT, "the task's id in its plan"),
    "handler": (_TEXT, "the name of the agent's task"),
    "status": (_EQUAL, "the task's state"),
    "error": (_TEXT, "the class of a task's failure, with or without its module"),
    "attempt": (_SIZE | _EQUAL, "the number of a task's newest attempt"),
}
"""By name: the operators that a field takes, and what it is."""
_STATES: dict[str, frozenset[str]] = {
    "state": frozenset(state.value for state in RunState),
    "status": frozenset(state.value for state in TaskState),
}
_WORDS = ("and", "or", "not")


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str  # word, quoted, operator, end
    text: str
    position: int


def parse_filter(text: str) -> Expression:
    """Read a filter. Raises `FilterError` naming the place and what may stand there."""
    if len(text) > FILTER_CHARS_MAX:
        raise FilterError(text[:60], 0, f"a filter has at most {FILTER_CHARS_MAX} characters")
    parser = _Parser(text)
    found = parser.either(0)
    parser.expect_end()
    return found


def fields_of(expression: Expression) -> frozenset[str]:
    """Return the fields that a filter names."""
    if isinstance(expression, Compare):
        return frozenset({expression.field})
    if isinstance(expression, Not):
        return fields_of(expression.inner)
    return frozenset().union(*(fields_of(part) for part in expression.parts))


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = list(_tokens(text))
        self._at = 0

    @property
    def _next(self) -> _Token:
        return self._tokens[self._at]

    def _take(self) -> _Token:
        token = self._next
        self._at += token.kind != "end"
        return token

    def _is_word(self, word: str) -> bool:
        return self._next.kind == "word" and self._next.text.lower() == word

    def _fail(self, token: _Token, problem: str) -> FilterError:
        return FilterError(self._text, token.position, problem)

    def expect_end(self) -> None:
        """Raise unless all was read."""
        if self._next.kind != "end":
            raise self._fail(self._next, f"'and' or 'or' is missing before {self._next.text!r}")

    def either(self, depth: int) -> Expression:
        """Read conditions that are joined by `or`."""
        return self._joined("or", lambda: self._all(depth), Or)

    def _all(self, depth: int) -> Expression:
        return self._joined("and", lambda: self._one(depth), And)

    def _joined(
        self,
        word: str,
        read: Callable[[], Expression],
        join: Callable[[tuple[Expression, ...]], Expression],
    ) -> Expression:
        parts = [read()]
        while self._is_word(word):
            self._take()
            parts.append(read())
        return parts[0] if len(parts) == 1 else join(tuple(parts))

    def _one(self, depth: int) -> Expression:
        token = self._next
        if depth > DEPTH_MAX:
            raise self._fail(token, f"more than {DEPTH_MAX} parentheses and 'not' in each other")
        if self._is_word("not"):
            self._take()
            return Not(self._one(depth + 1))
        if token.text == "(" and token.kind == "operator":
            self._take()
            found = self.either(depth + 1)
            closing = self._take()
            if closing.text != ")" or closing.kind != "operator":
                raise self._fail(closing, "')' is missing")
            return found
        return self._compare()

    def _compare(self) -> Compare:
        field = self._take()
        if field.kind != "word" or field.text.lower() in _WORDS:
            raise self._fail(field, f"a field is missing: one of {', '.join(FIELDS)}")
        if field.text not in FIELDS:
            hint = did_you_mean(field.text, FIELDS)
            raise self._fail(field, f"no field {field.text!r}{hint}")
        allowed, _ = FIELDS[field.text]
        token = self._take()
        operator = next((each for each in Operator if each == token.text), None)
        if operator is None or token.kind != "operator" or operator not in allowed:
            known = ", ".join(each.value for each in Operator if each in allowed)
            raise self._fail(token, f"{field.text!r} is compared by {known}")
        value = self._take()
        if value.kind not in ("word", "quoted"):
            raise self._fail(value, f"a value for {field.text!r} is missing")
        text = _unquoted(value.text) if value.kind == "quoted" else value.text
        return Compare(field.text, operator, text, self._number(field.text, text, value))

    def _number(self, field: str, text: str, token: _Token) -> int:
        """Return the value of a field that is counted, and check one that is chosen."""
        states = _STATES.get(field)
        if states is not None and text not in states:
            hint = did_you_mean(text, states)
            what = "run" if field == "state" else "task"
            raise self._fail(token, f"no state of a {what} is {text!r}{hint}")
        if field == "age":
            found = _DURATION.fullmatch(text)
            if found is None:
                raise self._fail(token, f"{text!r} is no length of time: 30s, 10m, 2h, 7d")
            return int(found[1]) * _UNITS_MS[found[2]]
        if field == "attempt":
            if not text.isascii() or not text.isdecimal() or len(text) > 9:
                raise self._fail(token, f"{text!r} is no number of an attempt")
            return int(text)
        return 0


def _tokens(text: str) -> Iterator[_Token]:
    at = 0
    while at < len(text) and text[at:].strip():
        found = _TOKEN.match(text, at)
        assert found is not None, "the last choice takes any character"
        kind = found.lastgroup or "bad"
        start = found.start(kind)
        if kind == "bad":
            what = "a quote that is not closed" if found[kind] == '"' else f"{found[kind]!r}"
            raise FilterError(text, start, f"{what} cannot stand here")
        yield _Token(kind, found[kind], start)
        at = found.end()
    yield _Token("end", "the end", len(text))


def _unquoted(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text[1:-1], flags=re.DOTALL)
