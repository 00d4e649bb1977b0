"""What a user writes: an agent and its tasks.

reviewer = Agent("reviewer", concurrency=8)

@reviewer.task(retry=Retry(attempts=5), timeout_s=600)
async def review(ctx: Context, source: SourceFile) -> Review: ...
"""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType, NoneType
from typing import Any, Generic, Literal, TypeVar, overload

from pydantic import BaseModel, ValidationError

from holdfast.agents.breaker import Breaker
from holdfast.agents.context import Context, SyncContext
from holdfast.agents.errors import DefinitionError
from holdfast.schemas import ConfigurationError, PlanError, check_state_name, plan
from holdfast.schemas.plan import plan_error, split_task_name
from holdfast.schemas.plan_change import PlanChange, PlanChangeDocument, PlanVersion
from holdfast.schemas.plan_settings import Compensation
from holdfast.schemas.plan_tasks import Undoing, said_undoing
from holdfast.schemas.records import RetryPolicy

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
    up and down. A task that raises one of `never` (or `Fatal`) is not tried again. `by_error`:
    policies of their own for classes of errors, whose attempts are counted apart.

        Retry(attempts=5, never=(ValueError,), by_error={RateLimited: Retry(attempts=50)})

    Classes, or their names ("crm.RateLimited"); bases match too, and the nearest one decides.
    """

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(str(part) for part in first["loc"] if part != "[key]")
            given = f"{place}={first['input']!r}" if place else "..."
            raise DefinitionError(f"Retry({given}): {first['msg']}") from None


@dataclass(frozen=True, kw_only=True)
class AgentTask(plan.Task[In, Out], Generic[In, Out]):
    """A task with its handler. Calling it calls the handler, as a test would."""

    handler: Callable[..., Any]
    compatibility: Compatibility = "backward"
    uses: tuple[Breaker, ...] = ()
    compensate: Compensation | None = None
    returns_plan: bool = False
    """Its handler returns a `PlanChange`; its output is the `PlanVersion` that this made."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the handler, with a context of your own making."""
        return self.handler(*args, **kwargs)

    @cached_property
    def is_async(self) -> bool:
        """Whether the handler is a coroutine function."""
        return inspect.iscoroutinefunction(self.handler)

    @cached_property
    def policy(self) -> RetryPolicy:
        """Its retries, as its manifest says them."""
        return (self.retry or plan.Retry()).policy()

    def call(self, context: Context | SyncContext, value: Any) -> Any:
        """Call the handler as the runtime does; one that takes no input is given none."""
        if self.input_type is None:
            return self.handler(context)
        return self.handler(context, value)


class Agent:
    """An independent service that works tasks: one consumer group on its own task topic.

    `concurrency` is per process, over all its slots. `state`: the types of what its handlers keep
    under an order key (`ctx.state`), by name; with it a change that could not read what is kept is
    refused when the agent starts, and every other name is an error. `breaker` counts the failures
    of its tasks; while it is open none of them is started.
    """

    def __init__(
        self,
        name: str,
        *,
        concurrency: int = 8,
        version: str = "",
        state: Mapping[str, Any] | None = None,
        breaker: Breaker | None = None,
    ) -> None:
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
        try:
            self._state = {check_state_name(each): kind for each, kind in (state or {}).items()}
        except ConfigurationError as error:
            raise DefinitionError(f"agent {name!r}: {error}") from None
        self.name = name
        self.concurrency = concurrency
        self.version = version
        _check_breakers(f"agent {name!r}: breaker", () if breaker is None else (breaker,))
        self.breaker = breaker
        self._tasks: dict[str, AgentTask[Any, Any]] = {}
        self._kept: dict[tuple[str, str], AgentTask[Any, Any]] = {}

    def __repr__(self) -> str:
        return f"Agent({self.name!r}, tasks={sorted(self._tasks)})"

    @property
    def state(self) -> Mapping[str, Any]:
        """The types of what it keeps under an order key, by name; empty: not declared."""
        return MappingProxyType(self._state)

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
        progress_timeout_s: float | None = None,
        compatibility: Compatibility = "backward",
        uses: Iterable[Breaker] = (),
        compensate: Undoing = None,
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
        progress_timeout_s: float | None = None,
        compatibility: Compatibility = "backward",
        uses: Iterable[Breaker] = (),
        compensate: Undoing = None,
    ) -> Any:
        """Make a handler one of the agent's tasks; usable with and without arguments.

        A handler is `(ctx, input) -> output` or `(ctx) -> output`, plain or `async`; input and
        output are pydantic models (or `-> None`), told by its annotations; one `-> PlanChange`
        changes the plan of its run by what it returns. `name` is the function's name unless given.
        `timeout_s` counts while the handler runs, `queue_timeout_s` while it waits to, and
        `progress_timeout_s` while it runs and neither commits a step nor calls `ctx.progress`.
        `uses`: breakers of what it cannot work without: it is not started while one of them is
        open. `compensate`: the agent's task that undoes it, in every plan that says nothing else:
        a task, its name, or a mapping, see `Compensation`. Raises `DefinitionError` for what cannot
        work.
        """
        limits = (timeout_s, queue_timeout_s, progress_timeout_s)
        options = TaskOptions(name, retry, *limits, compatibility, tuple(uses), compensate)
        decorator = TaskDecorator(self, options)
        return decorator if handler is None else decorator(handler)

    @property
    def kept(self) -> Mapping[tuple[str, str], AgentTask[Any, Any]]:
        """Older handlers of its tasks, by the task's name and the build whose tasks they end."""
        return MappingProxyType(self._kept)

    def keep(
        self, task: AgentTask[Any, Any], *builds: str
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Keep an older handler of `task`, for the tasks that one of `builds` has begun.

            @reviewer.keep(review, "1.4")
            async def review_1_4(ctx: Context, source: SourceFile) -> Review: ...  # as it was

        Such a task is worked by it to its end; one that has journaled no step by the new handler.
        A build is what `holdfast agents` shows, or the part of it before `+holdfast-`. Retries and
        time-outs are those of `task`. Raises `DefinitionError`.
        """
        where = f"keep({task.full_name})"
        if self._tasks.get(task.name) is not task:
            raise DefinitionError(f"{where}: agent {self.name!r} has no such task")
        if not builds or not all(isinstance(each, str) and each for each in builds):
            raise DefinitionError(f"{where}: name the builds whose tasks the handler is to end")

        def decorator(handler: Callable[..., Any]) -> Callable[..., Any]:
            types = _types_of(handler, where)
            older = replace(
                task,
                handler=handler,
                input_type=types.input,
                output_type=types.output,
                returns_plan=types.returns_plan,
            )
            for each in builds:
                self.add_kept(each, older)
            return handler

        return decorator

    def add_kept(self, build: str, task: AgentTask[Any, Any]) -> None:
        """Take in an older handler; raises `DefinitionError` if the build has one already."""
        if (task.name, build) in self._kept:
            raise DefinitionError(
                f"agent {self.name!r} has two handlers of {task.name!r} for build {build!r}"
            )
        self._kept[task.name, build] = task

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
    progress_timeout_s: float | None
    compatibility: Compatibility
    uses: tuple[Breaker, ...] = ()
    compensate: Undoing = None

    def check(self, where: str) -> None:
        """Raise `DefinitionError` for values that cannot be used."""
        for option, value in (
            ("timeout_s", self.timeout_s),
            ("queue_timeout_s", self.queue_timeout_s),
            ("progress_timeout_s", self.progress_timeout_s),
        ):
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if value is not None and not (number and 0 < value < float("inf")):
                raise DefinitionError(f"{where}: {option}={value!r} must be seconds above 0")
        if self.retry is not None and not isinstance(self.retry, plan.Retry):
            raise DefinitionError(f"{where}: retry={self.retry!r} must be a Retry(...)")
        _check_breakers(f"{where}: uses", self.uses)
        if self.compatibility not in typing.get_args(Compatibility):
            known = ", ".join(typing.get_args(Compatibility))
            raise DefinitionError(
                f"{where}: compatibility={self.compatibility!r} is none of {known}"
            )


def _compensation(where: str, agent: str, said: Undoing) -> Compensation | None:
    """Return what undoes a task of `agent`; raises `DefinitionError`."""
    if said is None or said is False:
        return None
    if not isinstance(said, plan.Task | str | Compensation | Mapping):
        raise DefinitionError(
            f"{where}: compensate={said!r}: give a task of the agent (what @agent.task returns),"
            " its name, or a mapping with task, input, retry and timeout_s"
        )
    try:
        found = Compensation.model_validate(said_undoing(said))
        owner = split_task_name(found.task)[0]
    except ValidationError as error:
        raise DefinitionError(f"{where}: {plan_error(error, 'compensate')}") from None
    except PlanError as error:
        raise DefinitionError(f"{where}: compensate: {error}") from None
    if owner != agent:
        raise DefinitionError(
            f"{where}: compensate: {found.task!r} is another agent's task: an agent says how it"
            " undoes its own work itself; name another agent's in the plan"
        )
    return found


def _check_breakers(where: str, breakers: Iterable[Breaker]) -> None:
    for breaker in breakers:
        if not isinstance(breaker, Breaker):
            raise DefinitionError(f"{where}={breaker!r} must be a Breaker(...)")


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
        types = _types_of(handler, where)
        task: AgentTask[Any, Any] = AgentTask(
            agent=agent.name,
            name=name,
            input_type=types.input,
            output_type=types.output,
            retry=options.retry,
            timeout_s=options.timeout_s,
            queue_timeout_s=options.queue_timeout_s,
            progress_timeout_s=options.progress_timeout_s,
            description=inspect.cleandoc(handler.__doc__ or ""),
            handler=handler,
            compatibility=options.compatibility,
            uses=options.uses,
            compensate=_compensation(where, agent.name, options.compensate),
            returns_plan=types.returns_plan,
        )
        agent.add(task)
        return task


@dataclass(frozen=True, slots=True)
class _Types:
    """What a handler takes and gives; None: nothing."""

    input: type[BaseModel] | None
    output: type[BaseModel] | None
    returns_plan: bool


def _types_of(handler: Callable[..., Any], where: str) -> _Types:
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
    if output in (PlanChange, PlanChangeDocument):
        return _Types(input_type, PlanVersion, returns_plan=True)
    output_type = None if output is NoneType else _model(output, f"{where}: output")
    return _Types(input_type, output_type, returns_plan=False)


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
