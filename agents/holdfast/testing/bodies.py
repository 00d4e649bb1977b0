"""What of a user's code ran in a simulation, when, where, and how it ended.

Each handler, step, effect and `reconcile` is seen as it begins and as it ends; both are moments at
which its process may be made to die (`Watch`). The wrappers stand between the runtime and the
user's functions; the runtime itself knows nothing of them.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NoReturn, Protocol, TypeAlias, TypeVar, cast

from holdfast.agents import Agent, Context, SyncContext
from holdfast.agents.agent import AgentTask
from holdfast.agents.asking import Asking
from holdfast.agents.batches import Batch
from holdfast.agents.context import Publication, TaskInfo
from holdfast.agents.doing import AskCall, EffectCall, StepCall
from holdfast.agents.execution import Execution
from holdfast.agents.keyed_state import StateUse
from holdfast.agents.procedures import Body, Procedure
from holdfast.agents.step_results import is_async
from holdfast.testing.sim.skipping import USERS_CODE
from holdfast.testing.sim.threads import halt_thread

__all__ = ["BodyKind", "Call", "Watch", "watched_agent"]

T = TypeVar("T")

BodyKind: TypeAlias = Literal["handler", "step", "effect", "reconcile"]


@dataclass(eq=False)
class Call:
    """One call of a user's function.

    `name`, `key`: the step's or effect's; of a handler its task's name. `idempotency_key`: what an
    effect was given. `process`: the agent's process, and which start of it (`scout#2`). `at_ms`:
    virtual wall time. `outcome` stays `running` where the process died in it.
    """

    kind: BodyKind
    name: str
    key: str
    run_id: str
    task_id: str
    attempt: int
    process: str
    at_ms: int
    arguments: tuple[Any, ...]
    idempotency_key: str | None = None
    outcome: Literal["running", "returned", "raised", "cancelled"] = "running"
    error: str = ""
    waits_in: asyncio.Task[Any] | None = field(default=None, repr=False)

    def __str__(self) -> str:
        key = f" (key {self.key!r})" if self.key else ""
        of = f"{self.run_id}/{self.task_id} attempt {self.attempt}"
        if self.kind == "handler":
            return f"the handler {self.name!r} of {of}"
        return f"{self.kind} {self.name!r}{key} of {of}"


class Watch(Protocol):
    """Who looks on."""

    def begins(self, call: Call) -> bool:
        """Take note; True: its process has just been killed."""
        ...

    def ends(self, call: Call) -> bool:
        """The same, when it has returned."""
        ...

    def place(self) -> tuple[str, int]:
        """Return the process that runs now (`scout#1`), and its wall time in ms."""
        ...


def watched_agent(agent: Agent, watch: Watch) -> Agent:
    """Return the agent, with all its handlers watched."""
    copy = Agent(
        agent.name,
        concurrency=agent.concurrency,
        version=agent.version,
        state=agent.state,
        breaker=agent.breaker,
    )
    for task in agent.tasks.values():
        copy.add(replace(task, handler=_watched_handler(task, watch)))
    for (_, build), task in agent.kept.items():
        copy.add_kept(build, replace(task, handler=_watched_handler(task, watch)))
    return copy


def _watched_handler(task: AgentTask[Any, Any], watch: Watch) -> Callable[..., Any]:
    if task.is_async:

        @functools.wraps(task.handler)
        async def handler(context: Context, *given: Any) -> Any:
            execution, info = context._execution, context._info  # noqa: SLF001
            own = Context(cast(Execution, _Watched(execution, info, watch)), info)
            runner = _Runner(watch, _call_of(info, watch, "handler", info.task, "", given))
            return await runner.run(task.handler, (own, *given), {})

        return handler

    @functools.wraps(task.handler)
    def sync_handler(context: SyncContext, *given: Any) -> Any:
        execution, info = context._execution, context._info  # noqa: SLF001
        own = SyncContext(cast(Execution, _Watched(execution, info, watch)), info)
        runner = _Runner(watch, _call_of(info, watch, "handler", info.task, "", given))
        return runner.run_in_thread(task.handler, (own, *given), {})

    return sync_handler


class _Watched:
    """What a context asks of its execution, with each body watched."""

    def __init__(self, execution: Execution, info: TaskInfo, watch: Watch) -> None:
        self._execution = execution
        self._info = info
        self._watch = watch

    def step(self, call: StepCall) -> Procedure:
        """See `Execution.step`."""
        procedure = self._execution.step(call)
        return self._bodies_watched(procedure, lambda _: ("step", call.name, call.key))

    def effect(self, call: EffectCall) -> Procedure:
        """See `Execution.effect`."""

        def told(body: Body) -> tuple[BodyKind, str, str]:
            asks = body.function is call.reconcile and call.reconcile is not call.function
            return ("reconcile" if asks else "effect", call.name, call.key)

        return self._bodies_watched(self._execution.effect(call), told)

    @property
    def asking(self) -> Asking:
        """See `Execution.asking`."""
        return self._execution.asking

    @property
    def state_use(self) -> StateUse:
        """See `Execution.state_use`."""
        return self._execution.state_use

    def kept(self, name: str, kind: Any, default: Any) -> Procedure:
        """See `Execution.kept`."""
        return self._execution.kept(name, kind, default)

    def on_loop(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """See `Execution.on_loop`."""
        return self._execution.on_loop(coroutine)

    def ask(self, call: AskCall) -> Procedure:
        """See `Execution.ask`."""
        return self._execution.ask(call)

    def emit(self, batch: Batch) -> Procedure:
        """See `Execution.emit`."""
        return self._execution.emit(batch)

    def patched(self, name: str) -> Procedure:
        """See `Execution.patched`."""
        return self._execution.patched(name)

    async def drive(self, procedure: Procedure) -> Any:
        """See `Execution.drive`."""
        return await self._execution.drive(procedure)

    def drive_in_thread(self, procedure: Procedure) -> Any:
        """See `Execution.drive_in_thread`."""
        return self._execution.drive_in_thread(procedure)

    def publish(self, publication: Publication) -> None:
        """See `Execution.publish`."""
        self._execution.publish(publication)

    def progress(self, message: str, fraction: float | None) -> None:
        """See `Execution.progress`."""
        self._execution.progress(message, fraction)

    def _bodies_watched(
        self, procedure: Procedure, told: Callable[[Body], tuple[BodyKind, str, str]]
    ) -> Procedure:
        value, error = None, None
        while True:
            try:
                operation = procedure.throw(error) if error else procedure.send(value)
            except StopIteration as stop:
                return stop.value
            if isinstance(operation, Body):
                operation = self._watched_body(operation, *told(operation))
            value, error = None, None
            try:
                value = yield operation
            except GeneratorExit:
                procedure.close()
                raise
            except BaseException as raised:  # noqa: BLE001 it is the procedure's to deal with
                error = raised

    def _watched_body(self, body: Body, kind: BodyKind, name: str, key: str) -> Body:
        watch, info = self._watch, self._info

        def runner() -> _Runner:
            call = _call_of(info, watch, kind, name, key, body.arguments)
            call.idempotency_key = body.extra.get("idempotency_key")
            return _Runner(watch, call)

        async def run(*arguments: Any, **extra: Any) -> Any:
            return await runner().run(body.function, arguments, extra)

        def run_in_thread(*arguments: Any, **extra: Any) -> Any:
            return runner().run_in_thread(body.function, arguments, extra)

        function = run if is_async(body.function) else run_in_thread
        return Body(function, body.arguments, body.extra)


class _Runner:
    """Carries out one call."""

    def __init__(self, watch: Watch, call: Call) -> None:
        self._watch = watch
        self._call = call

    async def run(
        self, function: Callable[..., Any], arguments: tuple[Any, ...], extra: dict[str, Any]
    ) -> Any:
        """Call a coroutine function."""
        call = self._call
        call.waits_in = asyncio.current_task()
        with self._seen():
            if self._watch.begins(call):
                await _stand_still()
            result = await function(*arguments, **extra)
            call.outcome = "returned"
            if self._watch.ends(call):
                await _stand_still()
        return result

    def run_in_thread(
        self, function: Callable[..., Any], arguments: tuple[Any, ...], extra: dict[str, Any]
    ) -> Any:
        """Call a plain function, in the thread that it is to run in."""
        call = self._call
        with self._seen():
            if self._watch.begins(call):
                halt_thread()
            result = function(*arguments, **extra)
            if inspect.isawaitable(result):
                return self._rest(result)  # a plain function that returns a coroutine
            call.outcome = "returned"
            if self._watch.ends(call):
                halt_thread()
        return result

    async def _rest(self, awaitable: Any) -> Any:
        call = self._call
        call.waits_in = asyncio.current_task()
        with self._seen():
            result = await awaitable
            call.outcome = "returned"
            if self._watch.ends(call):
                await _stand_still()
        return result

    @contextmanager
    def _seen(self) -> Iterator[None]:
        token = USERS_CODE.set(True)
        try:
            yield
        except asyncio.CancelledError:
            self._call.outcome = "cancelled"
            raise
        except GeneratorExit:  # its world has ended; nobody was there to see
            raise
        except Exception as error:
            self._call.outcome, self._call.error = "raised", f"{type(error).__name__}: {error}"
            raise
        finally:
            # In another context only where a dead coroutine is unwound.
            if self._call.outcome != "running":
                self._call.waits_in = None
                USERS_CODE.reset(token)


def _call_of(
    info: TaskInfo,
    watch: Watch,
    kind: BodyKind,
    name: str,
    key: str,
    arguments: tuple[Any, ...],
) -> Call:
    process, at_ms = watch.place()
    task = (info.run_id, info.task_id, info.attempt)
    return Call(kind, name, key, *task, process, at_ms, arguments)


async def _stand_still() -> NoReturn:
    """Never go on: the process is dead, and so is everything behind this line."""
    await asyncio.get_running_loop().create_future()
    raise AssertionError("a dead process goes on")
