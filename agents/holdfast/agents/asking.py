"""What handlers can wait for, as asks: what each sends, and what comes of its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Iterable
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticSerializationError, to_jsonable_python

from holdfast.agents.errors import (
    CallFailed,
    DefinitionError,
    PlanRefused,
    RunFailed,
    SignalTimeout,
)
from holdfast.agents.execution import AskCall, Execution
from holdfast.agents.payloads import AvroCodec, Payloads
from holdfast.bus.registry import Registry
from holdfast.schemas import DocumentCodec, PayloadCodec, Unencodable, encode_json
from holdfast.schemas.plan import Plan, PlanDocument, Task, split_task_name
from holdfast.schemas.plan_change import PlanChange, PlanChangeDocument
from holdfast.schemas.records import (
    AskBody,
    CallAsk,
    Failure,
    FailureKind,
    Payload,
    PlanAsk,
    RunAsk,
    SignalAsk,
    SleepAsk,
    StepEntry,
)
from holdfast.schemas.run_ids import check_run_id

__all__ = ["RETURNED_PLAN", "Asking", "ask_all", "seconds_of"]

WAIT_MAX_S = 10 * 366 * 86_400.0
SIGNAL_SUBJECT = "signal"
RETURNED_PLAN = "returned-plan"
"""The name of the step of a handler that returns a change of the plan; its keys are attempts."""

Duration = float | int | timedelta


def seconds_of(duration: Duration, what: str) -> float:
    """Return a duration in seconds; raises `DefinitionError` for one that nobody can wait for."""
    seconds = duration.total_seconds() if isinstance(duration, timedelta) else float(duration)
    if not 0 <= seconds <= WAIT_MAX_S:
        raise DefinitionError(f"{what}: {duration!r} is not between 0 and 10 years")
    return seconds


@dataclass(frozen=True, slots=True)
class Asking:
    """Makes the asks of one execution. `run_id` is its run's."""

    run_id: str
    payloads: Payloads
    registry: Registry

    def sleep(self, name: str, duration: Duration, key: str) -> AskCall:
        """See `Context.sleep`."""
        seconds = seconds_of(duration, f"sleep {name!r}")

        async def what() -> AskBody:
            return SleepAsk(round(seconds * 1_000))

        return AskCall(name, key, ("sleep", seconds), what, _failed(CallFailed), _nothing)

    def signal(
        self, signal: str, kind: Any, timeout: Duration | None, name: str, key: str
    ) -> AskCall:
        """See `Context.wait_for`."""
        seconds = None if timeout is None else seconds_of(timeout, f"wait for {signal!r}")

        async def what() -> AskBody:
            timeout_ms = None if seconds is None else round(seconds * 1_000)
            schema_id = None
            if kind is not None:
                subject = f"{SIGNAL_SUBJECT}.{signal}"
                schema_id = await self.registry.register(subject, _codec(kind).schema)
            return SignalAsk(signal, schema_id, timeout_ms)

        def failed(failure: Failure) -> Exception:
            kind_of = SignalTimeout if failure.kind is FailureKind.TIMEOUT else CallFailed
            return kind_of(failure)

        return AskCall(name, key, ("signal", signal, seconds), what, failed, self._decoder(kind))

    def call(
        self, task: Task[Any, Any] | str, given: Any, order_key: str | None, name: str, key: str
    ) -> AskCall:
        """See `Context.call`."""
        full_name = task if isinstance(task, str) else task.full_name
        agent, task_name = split_task_name(full_name)
        document = _document(given, f"the input of {full_name}")
        kind = None if isinstance(task, str) else task.output_type

        async def what() -> AskBody:
            payload = await self.payloads.pack(self.run_id, encode_json(document))
            return CallAsk(agent, task_name, payload, order_key=order_key)

        arguments = ("call", full_name, document, order_key)
        return AskCall(name, key, arguments, what, _failed(CallFailed), self._decoder(kind))

    def call_many(
        self, task: Task[Any, Any] | str, given: Iterable[Any], name: str | None
    ) -> list[AskCall]:
        """See `Context.call_many`."""
        step = name or (task if isinstance(task, str) else task.full_name)
        return [self.call(task, item, None, step, str(at)) for at, item in enumerate(given)]

    def run(
        self,
        plan: Plan | PlanDocument,
        given: Any,
        run_id: str | None,
        step: tuple[str, str],
        *,
        detached: bool,
    ) -> AskCall:
        """See `Context.start_run`."""
        if run_id is not None:
            check_run_id(run_id)
        text = plan.to_json()
        document = _document(given, "the run's input")

        async def what() -> AskBody:
            payload = await self.payloads.pack(self.run_id, encode_json(document))
            return RunAsk(text, payload, run_id, detached)

        arguments = ("run", text, document, run_id, detached)
        return AskCall(*step, arguments, what, _failed(RunFailed), self._decoder(None))

    def plan(self, change: PlanChange | PlanChangeDocument, name: str, key: str) -> AskCall:
        """See `RunPlan.apply`."""
        text = change.to_json()
        return self._change(text, ("plan", text), name, key)

    def returned_plan(self, change: Any, made: Collection[StepEntry], attempt: int) -> AskCall:
        """Return the ask of a handler that returns a change of the plan.

        `made`: those of this task that are journaled. The first that was not refused stands, even
        if another execution returns something else: it is made already. One that was refused ended
        its attempt; the next one may return a better change. Raises `Unencodable`, `PlanError`.
        """
        if not isinstance(change, PlanChange | PlanChangeDocument):
            raise Unencodable(f"the handler returned a {type(change).__name__}, not a PlanChange")
        standing = (e.key for e in made if e.failure is None or e.attempt == attempt)
        key = next(standing, str(attempt))
        return self._change(change.to_json(), ("returned plan",), RETURNED_PLAN, key)

    def _change(self, text: str, arguments: tuple[Any, ...], name: str, key: str) -> AskCall:
        async def what() -> AskBody:
            return PlanAsk(text)

        return AskCall(name, key, arguments, what, _failed(PlanRefused), self._decoder(None))

    def _decoder(self, kind: Any) -> Callable[[Payloads, Payload], Coroutine[Any, Any, Any]]:
        async def decode(payloads: Payloads, payload: Payload) -> Any:
            data = await payloads.unpack(payload)
            if not data:
                return None
            if kind is not None:
                return await payloads.decode(AvroCodec(_codec(kind), 0, self.registry), data)
            return DocumentCodec(self.registry.known).decode(data)

        return decode


async def ask_all(execution: Execution, calls: Iterable[AskCall], max_parallel: int) -> list[Any]:
    """Ask all of it, at most `max_parallel` at once; return each answer, or its `CallFailed`.

    Raises `DefinitionError` where none may be asked at once.
    """
    if max_parallel < 1:
        raise DefinitionError(f"max_parallel={max_parallel!r}: at least one call must be allowed")
    places = asyncio.Semaphore(max_parallel)

    async def one(call: AskCall) -> Any:
        async with places:
            try:
                return await execution.drive(execution.ask(call))
            except CallFailed as failed:
                return failed

    return await asyncio.gather(*(one(call) for call in calls))


async def _nothing(payloads: Payloads, payload: Payload) -> None:
    """A sleep has no result."""
    del payloads, payload


def _failed(kind: type[CallFailed]) -> Callable[[Failure], Exception]:
    return kind


@lru_cache(maxsize=1_024)
def _codec(kind: Any) -> PayloadCodec[Any]:
    return PayloadCodec(kind)


def _document(given: Any, what: str) -> Any:
    if given is None:
        return {}
    try:
        return to_jsonable_python(given, by_alias=isinstance(given, BaseModel))
    except PydanticSerializationError as error:
        raise DefinitionError(f"{what} cannot be written as JSON: {error}") from None
