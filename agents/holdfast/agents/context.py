"""What a handler gets: `Context`, or `SyncContext` in a synchronous one."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, overload

from pydantic import BaseModel
from pydantic_core import PydanticSerializationError, to_json

from holdfast.agents.batches import batches
from holdfast.agents.breaker import Breaker
from holdfast.agents.doing import Compensate, EffectCall, StepCall, undoing
from holdfast.agents.errors import CallFailed, DefinitionError
from holdfast.agents.failures import shortened
from holdfast.agents.keyed_state import State, SyncState
from holdfast.agents.planning import RunPlan, SyncRunPlan
from holdfast.agents.sync_waits import SyncWaits
from holdfast.bus.port import Record
from holdfast.schemas.plan import Plan, PlanDocument, Task
from holdfast.schemas.records import TaskEnvelope

if TYPE_CHECKING:
    from holdfast.agents.execution import Execution

__all__ = ["Context", "Publication", "SyncContext", "TaskInfo"]

P = ParamSpec("P")
R = TypeVar("R")
In = TypeVar("In")

PUBLICATIONS_MAX = 250
"""A task publishes so many records at most: they go in one commit with its result."""

_logger = logging.getLogger("holdfast.task")


@dataclass(frozen=True, slots=True)
class TaskInfo:
    """Which attempt of which task it is."""

    agent: str
    task: str
    run_id: str
    task_id: str
    attempt: int
    deadline: datetime | None

    @classmethod
    def of(cls, envelope: TaskEnvelope, agent: str) -> TaskInfo:
        """Return what a handler may know of its envelope."""
        deadline = envelope.deadline_ms
        return cls(
            agent,
            envelope.task,
            envelope.run_id,
            envelope.task_id,
            envelope.attempt,
            None if deadline is None else datetime.fromtimestamp(deadline / 1000, UTC),
        )


@dataclass(frozen=True, slots=True)
class Publication:
    """A record of the user's own."""

    topic: str
    key: bytes | None
    value: bytes | None

    def record(self) -> Record:
        """Return it as the bus takes it."""
        return Record(self.topic, self.key, self.value)


class _TaskLog(logging.LoggerAdapter[logging.Logger]):
    def process(
        self, msg: Any, kwargs: MutableMapping[str, Any]
    ) -> tuple[Any, MutableMapping[str, Any]]:
        info: TaskInfo = self.extra["holdfast"]  # type: ignore[index,assignment]
        return f"{info.run_id}/{info.task_id}#{info.attempt}: {msg}", kwargs


class _BaseContext:
    """What both kinds of context share."""

    def __init__(self, execution: Execution, info: TaskInfo) -> None:
        self._execution = execution
        self._info = info
        self._published = 0
        self._log: _TaskLog | None = None

    @property
    def run_id(self) -> str:
        """The run that the task belongs to."""
        return self._info.run_id

    @property
    def task_id(self) -> str:
        """The task's id in its run."""
        return self._info.task_id

    @property
    def attempt(self) -> int:
        """Which attempt this is, from 1; a resume after a crash keeps the number."""
        return self._info.attempt

    @property
    def deadline(self) -> datetime | None:
        """When the run must be done (UTC), if it has to."""
        return self._info.deadline

    @property
    def log(self) -> logging.LoggerAdapter[logging.Logger]:
        """A logger that names run, task and attempt; `extra` has them under `holdfast`."""
        if self._log is None:
            self._log = _TaskLog(_logger, {"holdfast": self._info})
        return self._log

    def publish(self, topic: str, key: str | bytes | None = None, value: Any = None) -> None:
        """Write a record to a topic of your own, in the commit that closes this task with success.

        `value`: bytes as they are, a string as UTF-8, None as a tombstone, anything else as JSON.
        Nothing is written if the task fails. Raises `DefinitionError`.
        """
        if self._published >= PUBLICATIONS_MAX:
            raise DefinitionError(f"a task can publish at most {PUBLICATIONS_MAX} records")
        if not isinstance(topic, str) or not topic or not topic.isascii():
            raise DefinitionError(f"{topic!r} is no topic name")
        key_bytes = key.encode() if isinstance(key, str) else key
        self._published += 1
        self._execution.publish(Publication(topic, key_bytes, _published_value(topic, value)))

    def progress(self, message: str, fraction: float | None = None) -> None:
        """Tell how far the task has come; `fraction` from 0 to 1. At most one a second is kept."""
        if fraction is not None:
            fraction = min(1.0, max(0.0, float(fraction)))
        self._execution.progress(shortened(str(message)), fraction)


class Context(_BaseContext):
    """What an asynchronous handler gets."""

    @property
    def plan(self) -> RunPlan:
        """The plan of this task's run, to be changed while it runs."""
        return RunPlan(self._execution)

    @property
    def state(self) -> State:
        """What this agent keeps under the task's order key, from one task to the next."""
        return State(self._execution)

    @overload
    async def step(
        self,
        name: str,
        function: Callable[..., Awaitable[R]],
        *args: Any,
        key: str = "",
        breaker: Breaker | None = None,
        compensate: Compensate = None,
    ) -> R: ...

    @overload
    async def step(
        self,
        name: str,
        function: Callable[..., R],
        *args: Any,
        key: str = "",
        breaker: Breaker | None = None,
        compensate: Compensate = None,
    ) -> R: ...

    async def step(
        self,
        name: str,
        function: Callable[..., Any],
        *args: Any,
        key: str = "",
        breaker: Breaker | None = None,
        compensate: Compensate = None,
    ) -> Any:
        """Run `function(*args)` once; return its journaled result, now and in later executions.

        (`name`, `key`) names the step in its task: use each pair once. A synchronous function
        runs in a thread. The result is encoded by the function's return annotation (plain JSON
        data without one). An exception is not journaled: the next attempt runs the function again.

        `breaker`: what the function needs; while it is open the call waits, without a place.

        `compensate`: the task that undoes it, whose input is the step's result; worked where this
        task does not succeed, or its run ends badly (`compensate_on` of the plan).

        Raises `DuplicateStep`, `StepMismatch`, `DefinitionError`, and what the function raises.
        """
        call = StepCall(name, key, function, args, breaker, undoing(compensate))
        return await self._execution.drive(self._execution.step(call))

    @overload
    async def effect(
        self,
        name: str,
        function: Callable[..., Awaitable[R]],
        *args: Any,
        key: str = "",
        reconcile: Callable[..., Any] | None = None,
        idempotent: bool = False,
        breaker: Breaker | None = None,
        compensate: Compensate = None,
    ) -> R: ...

    @overload
    async def effect(
        self,
        name: str,
        function: Callable[..., R],
        *args: Any,
        key: str = "",
        reconcile: Callable[..., Any] | None = None,
        idempotent: bool = False,
        breaker: Breaker | None = None,
        compensate: Compensate = None,
    ) -> R: ...

    async def effect(
        self,
        name: str,
        function: Callable[..., Any],
        *args: Any,
        key: str = "",
        reconcile: Callable[..., Any] | None = None,
        idempotent: bool = False,
        breaker: Breaker | None = None,
        compensate: Compensate = None,
    ) -> Any:
        """Change the world: `function(*args, idempotency_key=…)`, with the intent committed before.

        The idempotency key stays the same over attempts, resumes and forks. When an earlier call
        was begun and its outcome is not known (its process died, or it raised something else than
        `EffectNotApplied`): `reconcile(*args, idempotency_key=…)` returns the
        result it had (or raises `EffectNotApplied`, and it is called); `idempotent=True` calls it
        again with the same key; otherwise the task is parked (`EffectOutcomeUnknown`).

        `breaker` and `compensate` as in `step`; the intent is committed once the call is let
        through.
        """
        undo = undoing(compensate)
        call = EffectCall(name, key, function, args, reconcile, idempotent, breaker, undo)
        return await self._execution.drive(self._execution.effect(call))

    async def emit(self, item: Any) -> None:
        """Hand out an item while this task goes on; see `emit_many`, which is faster for many."""
        await self.emit_many((item,))

    async def emit_many(self, items: Iterable[Any]) -> None:
        """Hand out items (models, or JSON data) to the maps over them, in their order, each once.

        A map whose `over` is `<this task>.emitted` begins with the first. Returns once its list has
        taken them: while it is far behind, this waits, without a place. An execution that comes
        here again must hand out the same items: take what changes from a step. Where no map goes
        over them, they are passed over. Raises `DefinitionError`, `StepMismatch`, `CallFailed`.
        """
        for batch in batches(items):
            await self._execution.drive(self._execution.emit(batch))

    async def patched(self, name: str) -> bool:
        """Tell whether this task takes the new way of a change of the code: `name` names it.

        True for a task that no other code has brought beyond this point, and from then on in all
        its executions; False for one that older code has: it keeps to the old way, to its end.
        Raises `DefinitionError`.
        """
        answer: bool = await self._execution.drive(self._execution.patched(name))
        return answer

    async def sleep(self, name: str, duration: float | timedelta, *, key: str = "") -> None:
        """Wait, for days if need be: no process and no place is needed meanwhile.

        `duration` in seconds, at most ten years. (`name`, `key`) names it, as it does a step.
        """
        call = self._execution.asking.sleep(name, duration, key)
        await self._execution.drive(self._execution.ask(call))

    @overload
    async def wait_for(
        self,
        signal: str,
        kind: type[R],
        *,
        timeout: float | timedelta | None = None,
        name: str | None = None,
        key: str = "",
    ) -> R: ...

    @overload
    async def wait_for(
        self,
        signal: str,
        kind: None = None,
        *,
        timeout: float | timedelta | None = None,
        name: str | None = None,
        key: str = "",
    ) -> Any: ...

    async def wait_for(
        self,
        signal: str,
        kind: type[Any] | None = None,
        *,
        timeout: float | timedelta | None = None,
        name: str | None = None,
        key: str = "",
    ) -> Any:
        """Wait for a signal of this name into the run; return what it says, as a `kind`.

        One that was sent before is kept until it is waited for. What does not fit `kind` is refused
        to its sender, and the wait goes on. Raises `SignalTimeout`.
        """
        call = self._execution.asking.signal(signal, kind, timeout, name or signal, key)
        return await self._execution.drive(self._execution.ask(call))

    async def call(
        self,
        task: Task[In, R] | str,
        given: In | Any = None,
        *,
        order_key: str | None = None,
        name: str | None = None,
        key: str = "",
    ) -> R:
        """Have another agent's task worked, as a part of this run; return its output.

        The process may end meanwhile, and the handler be replayed: it is called once. A cancel and
        the deadline of the run reach it. Raises `CallFailed` when it does not succeed.
        """
        full_name = task if isinstance(task, str) else task.full_name
        call = self._execution.asking.call(task, given, order_key, name or full_name, key)
        result: R = await self._execution.drive(self._execution.ask(call))
        return result

    async def call_many(
        self,
        task: Task[In, R] | str,
        given: Iterable[In | Any],
        *,
        max_parallel: int = 16,
        name: str | None = None,
    ) -> list[R | CallFailed]:
        """Call a task for each of `given`, at most `max_parallel` at once; return all outcomes.

        In the order of `given`: its output, or the `CallFailed` of one that did not succeed.
        Raises `DefinitionError`.
        """
        from holdfast.agents.asking import ask_all

        execution = self._execution
        calls = execution.asking.call_many(task, given, name)
        return await ask_all(execution, calls, max_parallel)

    async def start_run(
        self,
        plan: Plan | PlanDocument,
        given: Any = None,
        *,
        run_id: str | None = None,
        detached: bool = False,
        name: str | None = None,
        key: str = "",
    ) -> Any:
        """Start another run; return its output when it has ended, or its id if `detached`.

        It ends with this task: a cancel reaches it, and so does the deadline; a detached one lives
        on. Raises `PlanError` for a `run_id` that no run can have, `RunFailed` when it does not
        succeed, or cannot be started.
        """
        step = (name or f"run-{plan.name}", key)
        call = self._execution.asking.run(plan, given, run_id, step, detached=detached)
        return await self._execution.drive(self._execution.ask(call))


class SyncContext(SyncWaits, _BaseContext):
    """What a synchronous handler gets: the same, but its methods block the handler's thread."""

    @property
    def plan(self) -> SyncRunPlan:
        """See `Context.plan`."""
        return SyncRunPlan(self._execution)

    @property
    def state(self) -> SyncState:
        """See `Context.state`."""
        return SyncState(self._execution)

    def step(
        self,
        name: str,
        function: Callable[..., R],
        *args: Any,
        key: str = "",
        breaker: Breaker | None = None,
        compensate: Compensate = None,
    ) -> R:
        """See `Context.step`; the function runs in the handler's own thread, which it keeps."""
        call = StepCall(name, key, function, args, breaker, undoing(compensate))
        result: R = self._execution.drive_in_thread(self._execution.step(call))
        return result

    def effect(
        self,
        name: str,
        function: Callable[..., R],
        *args: Any,
        key: str = "",
        reconcile: Callable[..., Any] | None = None,
        idempotent: bool = False,
        breaker: Breaker | None = None,
        compensate: Compensate = None,
    ) -> R:
        """See `Context.effect`; the function runs in the handler's own thread."""
        undo = undoing(compensate)
        call = EffectCall(name, key, function, args, reconcile, idempotent, breaker, undo)
        result: R = self._execution.drive_in_thread(self._execution.effect(call))
        return result


def _published_value(topic: str, value: Any) -> bytes | None:
    if value is None or isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, BaseModel):
        return value.model_dump_json().encode()
    try:
        return to_json(value)
    except PydanticSerializationError as error:
        raise DefinitionError(
            f"a value for topic {topic!r} is neither bytes nor anything that JSON can hold: {error}"
        ) from None
