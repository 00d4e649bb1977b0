"""What a handler asks of its execution: steps, effects, and what it waits for."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeAlias

from holdfast.agents.breaker import Breaker
from holdfast.agents.errors import DefinitionError
from holdfast.agents.payloads import Payloads
from holdfast.schemas.errors import PlanError
from holdfast.schemas.plan import Task, split_task_name
from holdfast.schemas.records import AskBody, Failure, Payload

__all__ = ["AskCall", "Compensate", "EffectCall", "StepCall", "undoing"]

Compensate: TypeAlias = Task[Any, Any] | str | None
"""The task that undoes a step, or its name."""


def undoing(compensate: Compensate) -> tuple[str, str] | None:
    """Return agent and name of the task that undoes a step; raises `DefinitionError`."""
    if compensate is None:
        return None
    if not isinstance(compensate, Task | str):
        raise DefinitionError(
            f"compensate={compensate!r}: give a task (what @agent.task returns) or its name. It is"
            " worked like any other, wherever and whenever the step has to be undone"
        )
    try:
        return split_task_name(compensate if isinstance(compensate, str) else compensate.full_name)
    except PlanError as error:
        raise DefinitionError(f"compensate: {error}") from None


@dataclass(frozen=True, slots=True)
class StepCall:
    """A step as the handler asks for it; `undo`: agent and name of the task that undoes it."""

    name: str
    key: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    breaker: Breaker | None = None
    undo: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class EffectCall:
    """An effect as the handler asks for it; see `StepCall`."""

    name: str
    key: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    reconcile: Callable[..., Any] | None
    idempotent: bool
    breaker: Breaker | None = None
    undo: tuple[str, str] | None = None

    def __post_init__(self) -> None:
        if self.reconcile is not None and self.idempotent:
            raise DefinitionError(
                f"effect {self.name!r}: give reconcile= or idempotent=True, not both"
            )


@dataclass(frozen=True, slots=True)
class AskCall:
    """Something that a handler waits for.

    `arguments` tell one from another; `what` makes the ask when it is new; `failed` makes the
    error of a failure, `decode` the value of a result.
    """

    name: str
    key: str
    arguments: tuple[Any, ...]
    what: Callable[[], Coroutine[Any, Any, AskBody]]
    failed: Callable[[Failure], Exception]
    decode: Callable[[Payloads, Payload], Coroutine[Any, Any, Any]]
