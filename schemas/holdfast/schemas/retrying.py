"""Which failures are followed by another attempt: `Retry`, and how an error finds its policy.

Classes of errors go by their names (`ValueError`, `crm.api.RateLimited`), so that a plan in YAML
can say what code says. A failure carries the names of its class and of all bases; of the names that
a policy knows, the one nearest to the class that was raised decides, as the most specific `except`
clause would if Python chose among them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, model_validator
from pydantic_core import PydanticCustomError

from holdfast.schemas.records import ErrorRetry, Failure, RetryPolicy

__all__ = [
    "CLASSES_MAX",
    "NEVER",
    "RETRY_AFTER_MAX_S",
    "Retry",
    "error_name",
    "error_names",
    "named_by",
    "rule_for",
]

CLASSES_MAX = 16
"""A failure carries the names of so many classes: its own and its nearest bases."""
RULES_MAX = 32
"""A policy names so many errors in `never`, and so many in `by_error`."""
RETRY_AFTER_MAX_S = 30 * 86_400
"""A failure may ask for the next attempt so much later, and no more."""
NAME_CHARS_MAX = 256
"""The longest name of a class; of a longer one its end is kept."""
_LEFT_OUT = (object, BaseException)

NEVER: Literal["never"] = "never"
"""What `rule_for` answers for an error after which there is no other attempt."""

ErrorRef: TypeAlias = str | type[BaseException]
"""A class of errors, or its name."""


def error_name(kind: type) -> str:
    """Return a class's name with its module; a builtin's stands alone."""
    name = kind.__qualname__ if kind.__module__ == "builtins" else _qualified(kind)
    return name.encode("utf-8", "backslashreplace").decode()[-NAME_CHARS_MAX:]


def _qualified(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def error_names(kind: type) -> list[str]:
    """Return the names of a class and of its bases, the nearest first; at most `CLASSES_MAX`."""
    return [error_name(each) for each in kind.__mro__ if each not in _LEFT_OUT][:CLASSES_MAX]


def named_by(name: str, known: Collection[str]) -> str | None:
    """Return which of the names in `known` means the class `name`: all of it, or its last part."""
    if name in known:
        return name
    last = name.rpartition(".")[2]
    return last if last in known else None


def rule_for(policy: RetryPolicy, failure: Failure) -> ErrorRetry | Literal["never"] | None:
    """Return what a policy says of a failure's class; None: nothing of its own."""
    if not policy.never and not policy.by_error:
        return None
    rules = {rule.error: rule for rule in policy.by_error}
    for name in failure.classes or [failure.error_class]:
        if (found := named_by(name, rules)) is not None:
            return rules[found]
        if named_by(name, policy.never) is not None:
            return NEVER
    return None


def _error_ref(value: Any) -> str:
    if isinstance(value, type) and issubclass(value, BaseException):
        return error_name(value)
    if isinstance(value, str) and _is_name(value):
        return value
    raise PydanticCustomError(
        "error_name",
        "{value} is no class of errors; give a class, or a name as in 'ValueError', 'pkg.Error'",
        {"value": repr(value)[:NAME_CHARS_MAX]},
    )


def _is_name(text: str) -> bool:
    parts = text.replace("<locals>", "locals").split(".")
    return 0 < len(text) <= NAME_CHARS_MAX and all(part.isidentifier() for part in parts)


_Error = Annotated[ErrorRef, PlainValidator(_error_ref)]


class Retry(BaseModel):
    """When a failed attempt is followed by another: initial_s * factor^(n-1), at most max_s.

    `attempts` counts the first one too. `jitter` is the share of the delay that is drawn at
    random, up and down. After one of the errors in `never` there is no other attempt; `by_error`
    gives classes of errors policies of their own, whose attempts are counted apart. Classes, or
    their names with or without the module; bases match too, the nearest one decides.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    attempts: int = Field(default=3, ge=1, le=10_000)
    initial_s: float = Field(default=1.0, ge=0, le=86_400, allow_inf_nan=False)
    factor: float = Field(default=2.0, ge=1, le=100, allow_inf_nan=False)
    max_s: float = Field(default=60.0, ge=0, le=30 * 86_400, allow_inf_nan=False)
    jitter: float = Field(default=0.2, ge=0, le=1, allow_inf_nan=False)
    never: tuple[_Error, ...] = Field(default=(), max_length=RULES_MAX)
    by_error: dict[_Error, Retry] = Field(default_factory=dict, max_length=RULES_MAX)

    @model_validator(mode="after")
    def _check(self) -> Retry:
        for error, rule in self.by_error.items():
            if rule.never or rule.by_error:
                raise PydanticCustomError(
                    "nested_policy",
                    "by_error[{error}] has a never= or by_error= of its own; put them beside it",
                    {"error": str(error)},
                )
            if error in self.never:
                raise PydanticCustomError(
                    "contradiction",
                    "{error} stands in never and in by_error; choose one",
                    {"error": str(error)},
                )
        return self

    def policy(self) -> RetryPolicy:
        """Return it as it stands in manifests and resolved plans (milliseconds).

        The default of `max_s` does not shorten an `initial_s` that is longer.
        """
        max_s = self.max_s
        if "max_s" not in self.model_fields_set:
            max_s = max(max_s, self.initial_s)
        return RetryPolicy(
            attempts=self.attempts,
            initial_ms=round(self.initial_s * 1_000),
            factor=self.factor,
            max_ms=round(max_s * 1_000),
            jitter=self.jitter,
            never=_sorted(self.never),
            by_error=[
                _error_retry(str(error), rule)
                for error, rule in sorted(self.by_error.items(), key=lambda item: str(item[0]))
            ],
        )


def _sorted(errors: Sequence[ErrorRef]) -> list[str]:
    """The same policy is always the same text: a plan's hash goes by it."""
    return sorted({str(error) for error in errors})


def _error_retry(error: str, rule: Retry) -> ErrorRetry:
    own = rule.policy()
    return ErrorRetry(error, own.attempts, own.initial_ms, own.factor, own.max_ms, own.jitter)
