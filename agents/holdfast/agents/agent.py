"""What a user writes: an agent and its tasks.

reviewer = Agent("reviewer", concurrency=8)

@reviewer.task(retry=Retry(attempts=5), timeout_s=600)
async def review(ctx: Context, source: SourceFile) -> Review: ...
"""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType, NoneType
from typing import Any, Generic, Literal, TypeVar, overload

from pydantic import BaseModel, Field, ValidationError

from holdfast.agents.context import Context, SyncContext
from holdfast.agents.errors import DefinitionError
from holdfast.schemas import plan

__all__ = ["Agent", "AgentTask", "Compatibility", "Retry"]

In = TypeVar("In")
Out = TypeVar("Out")

CONCURRENCY_MAX = 500
"""Places of one process; a slot holds twice as many tasks."""
_NAME = re.compile(r"[a-z0-9-]{1,64}")
_TASK_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")

Compatibility = Literal["backward", "forward", "full", "none"]
"""Which change of a task's types an agent may start with: `backward` (the new code reads what was
written before), `forward` (the old code reads what is written now), `full` (both), `none`."""


class Retry(plan.Retry):
    """When a failed attempt is followed by another: initial_s * factor^(n-1), at most max_s.

    `attempts` counts the first one too; `jitter` is the share of the delay that is drawn at random,
    up and down. A task that raises one of `non_retryable` (or `Fatal`) is not tried again.
    """

    non_retryable: tuple[type[BaseException], ...] = Field(default=(), exclude=True)

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(str(part) for part in first["loc"])
            raise DefinitionError(f"Retry({place}={first['input']!r}): {first['msg']}") from None


@dataclass(frozen=True, kw_only=True)
class AgentTask(plan.Task[In, Out], Generic[In, Out]):
    """A task with its handler. Calling it calls the handler, as a test would."""

    handler: Callable[..., Any]
    compatibility: Compatibility = "backward"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the handler, with a context of your own making."""
        return self.handler(*args, **kwargs)

    @cached_property
    def is_async(self) -> bool:
        """Whether the handler is a coroutine function."""
        return inspect.iscoroutinefunction(self.handler)

    @property
    def non_retryable(self) -> tuple[type[BaseException], ...]:
        """Exceptions after which the task is not tried again."""
        return self.retry.non_retryable if isinstance(self.retry, Retry) else ()

    def call(self, context: Context | SyncContext, value: Any) -> Any:
        """Call the handler as the runtime does; one that takes no input is given none."""
        if self.input_type is None:
            return self.handler(context)
        return self.handler(context, value)


class Agent:
    """An independent service that works tasks: one consumer group on its own task topic.

    `concurrency` is per process, over all its slots.
    """

    def __init__(self, name: str, *, concurrency: int = 8, version: str = "") -> None:
        if not isinstance(name, str) or _NAME.fullmatch(name) is None:
            raise DefinitionError(
                f"agent name {name!r} cannot be used: 1 to 64 of a-z, 0-9 and '-'"
            )
        if isinstance(concurrency, bool) or not isinstance(concurrency, int):
            raise DefinitionError(f"agent {name!r}: concurrency must be a number")
        if not 1 <= concurrency <= CONCURRENCY_MAX:
            raise DefinitionError(
                f"agent {name!r}: concurrency {concurrency} is outside 1 to {CONCURRENCY_MAX}; "
                "start more processes instead"
            )
        self.name = name
        self.concurrency = concurrency
        self.version = version
        self._tasks: dict[str, AgentTask[Any, Any]] = {}

    def __repr__(self) -> str:
        return f"Agent({self.name!r}, tasks={sorted(self._tasks)})"

    @property
    def tasks(self) -> Mapping[str, AgentTask[Any, Any]]:
        """Its tasks by name."""
        return MappingProxyType(self._tasks)

    @overload
    def task(self, handler: Callable[[Any, In], Awaitable[Out]], /) -> AgentTask[In, Out]: ...

    @overload
    def task(self, handler: Callable[[Any], Awaitable[Out]], /) -> AgentTask[None, Out]: ...

    @overload
    def task(self, handler: Callable[[Any, In], Out], /) -> AgentTask[In, Out]: ...

    @overload
    def task(self, handler: Callable[[Any], Out], /) -> AgentTask[None, Out]: ...

    @overload
    def task(
        self,
        /,
        *,
        name: str | None = None,
        retry: Retry | None = None,
        timeout_s: float | None = None,
        queue_timeout_s: float | None = None,
        compatibility: Compatibility = "backward",
    ) -> TaskDecorator: ...

    def task(
        self,
        handler: Callable[..., Any] | None = None,
        /,
        *,
        name: str | None = None,
        retry: Retry | None = None,
        timeout_s: float | None = None,
        queue_timeout_s: float | None = None,
        compatibility: Compatibility = "backward",
    ) -> Any:
        """Make a handler one of the agent's tasks; usable with and without arguments.

        A handler is `(ctx, input) -> output` or `(ctx) -> output`, plain or `async`; input and
        output are pydantic models (or `-> None`), told by its annotations. `name` is the
        function's name unless given. `timeout_s` counts while the handler runs, `queue_timeout_s`
        while it waits to. Raises `DefinitionError` for what cannot work.
        """
        options = TaskOptions(name, retry, timeout_s, queue_timeout_s, compatibility)
        decorator = TaskDecorator(self, options)
        return decorator if handler is None else decorator(handler)

    def add(self, task: AgentTask[Any, Any]) -> None:
        """Take in a task; raises `DefinitionError` for a name that is taken."""
        if task.name in self._tasks:
            raise DefinitionError(f"agent {self.name!r} has two tasks named {task.name!r}")
        self._tasks[task.name] = task


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """What `@agent.task(...)` was given."""

    name: str | None
    retry: Retry | None
    timeout_s: float | None
    queue_timeout_s: float | None
    compatibility: Compatibility

    def check(self, where: str) -> None:
        """Raise `DefinitionError` for values that cannot be used."""
        for option, value in (
            ("timeout_s", self.timeout_s),
            ("queue_timeout_s", self.queue_timeout_s),
        ):
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if value is not None and not (number and 0 < value < float("inf")):
                raise DefinitionError(f"{where}: {option}={value!r} must be seconds above 0")
        if self.retry is not None and not isinstance(self.retry, plan.Retry):
            raise DefinitionError(f"{where}: retry={self.retry!r} must be a Retry(...)")
        if self.compatibility not in typing.get_args(Compatibility):
            known = ", ".join(typing.get_args(Compatibility))
            raise DefinitionError(
                f"{where}: compatibility={self.compatibility!r} is none of {known}"
            )


class TaskDecorator:
    """What `@agent.task(...)` returns."""

    def __init__(self, agent: Agent, options: TaskOptions) -> None:
        self._agent = agent
        self._options = options

    @overload
    def __call__(self, handler: Callable[[Any, In], Awaitable[Out]], /) -> AgentTask[In, Out]: ...

    @overload
    def __call__(self, handler: Callable[[Any], Awaitable[Out]], /) -> AgentTask[None, Out]: ...

    @overload
    def __call__(self, handler: Callable[[Any, In], Out], /) -> AgentTask[In, Out]: ...

    @overload
    def __call__(self, handler: Callable[[Any], Out], /) -> AgentTask[None, Out]: ...

    def __call__(self, handler: Callable[..., Any], /) -> Any:
        """Make `handler` a task."""
        agent, options = self._agent, self._options
        name = options.name if options.name is not None else getattr(handler, "__name__", "")
        where = f"task {agent.name}.{name}"
        if _TASK_NAME.fullmatch(name) is None:
            raise DefinitionError(
                f"{where}: give it a name= of 1 to 64 letters, digits, '_' and '-'"
            )
        options.check(where)
        if inspect.isgeneratorfunction(handler) or inspect.isasyncgenfunction(handler):
            raise DefinitionError(f"{where}: a handler returns its output, it cannot yield")
        input_type, output_type = _types_of(handler, where)
        task: AgentTask[Any, Any] = AgentTask(
            agent=agent.name,
            name=name,
            input_type=input_type,
            output_type=output_type,
            retry=options.retry,
            timeout_s=options.timeout_s,
            queue_timeout_s=options.queue_timeout_s,
            description=inspect.cleandoc(handler.__doc__ or ""),
            handler=handler,
            compatibility=options.compatibility,
        )
        agent.add(task)
        return task


def _types_of(
    handler: Callable[..., Any], where: str
) -> tuple[type[BaseModel] | None, type[BaseModel] | None]:
    try:
        hints = typing.get_type_hints(handler)
        parameters = list(inspect.signature(handler).parameters.values())
    except Exception as error:  # noqa: BLE001 unknown names and odd callables raise many kinds
        raise DefinitionError(
            f"{where}: its annotations cannot be read: {error}. They must name things of the "
            "module's own top level"
        ) from None
    kinds = {p.kind for p in parameters}
    if not 1 <= len(parameters) <= 2 or not kinds <= {
        inspect.Parameter.POSITIONAL_ONLY,
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
    }:
        raise DefinitionError(f"{where}: a handler takes (ctx, input) or (ctx), nothing else")
    _check_context(hints.get(parameters[0].name), handler, where)
    input_type = None
    if len(parameters) == 2:
        input_type = _model(hints.get(parameters[1].name), f"{where}: input {parameters[1].name!r}")
    if "return" not in hints:
        raise DefinitionError(f"{where}: annotate what it returns (a pydantic model, or None)")
    output = hints["return"]
    return input_type, None if output is NoneType else _model(output, f"{where}: output")


def _model(annotation: Any, where: str) -> type[BaseModel]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = "nothing" if annotation is None else getattr(annotation, "__name__", repr(annotation))
    raise DefinitionError(f"{where} must be annotated with a pydantic model, found {found}")


def _check_context(annotation: Any, handler: Callable[..., Any], where: str) -> None:
    if annotation is SyncContext and inspect.iscoroutinefunction(handler):
        raise DefinitionError(f"{where}: an async handler gets a Context, not a SyncContext")
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        raise DefinitionError(f"{where}: the first parameter is the context, then comes the input")
