"""What handlers can wait for, as asks: what each sends, and what comes of its answer."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticSerializationError, to_jsonable_python

from holdfast.agents.errors import CallFailed, DefinitionError, RunFailed, SignalTimeout
from holdfast.agents.execution import AskCall
from holdfast.agents.payloads import AvroCodec, Payloads
from holdfast.bus.registry import Registry
from holdfast.schemas import DocumentCodec, PayloadCodec, encode_json
from holdfast.schemas.plan import Plan, PlanDocument, Task, split_task_name
from holdfast.schemas.records import (
    AskBody,
    CallAsk,
    Failure,
    FailureKind,
    Payload,
    RunAsk,
    SignalAsk,
    SleepAsk,
)

__all__ = ["Asking", "seconds_of"]

WAIT_MAX_S = 10 * 366 * 86_400.0
SIGNAL_SUBJECT = "signal"

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
    now_ms: Callable[[], int]
    payloads: Payloads
    registry: Registry

    def sleep(self, name: str, duration: Duration, key: str) -> AskCall:
        """See `Context.sleep`."""
        seconds = seconds_of(duration, f"sleep {name!r}")

        async def what() -> AskBody:
            return SleepAsk(self.now_ms() + round(seconds * 1_000))

        return AskCall(name, key, ("sleep", seconds), what, _failed(CallFailed), _nothing)

    def signal(
        self, signal: str, kind: Any, timeout: Duration | None, name: str, key: str
    ) -> AskCall:
        """See `Context.wait_for`."""
        seconds = None if timeout is None else seconds_of(timeout, f"wait for {signal!r}")

        async def what() -> AskBody:
            until_ms = None if seconds is None else self.now_ms() + round(seconds * 1_000)
            schema_id = None
            if kind is not None:
                subject = f"{SIGNAL_SUBJECT}.{signal}"
                schema_id = await self.registry.register(subject, _codec(kind).schema)
            return SignalAsk(signal, schema_id, until_ms)

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
        text = plan.to_json()
        document = _document(given, "the run's input")

        async def what() -> AskBody:
            payload = await self.payloads.pack(self.run_id, encode_json(document))
            return RunAsk(text, payload, run_id, detached)

        arguments = ("run", text, document, run_id, detached)
        return AskCall(*step, arguments, what, _failed(RunFailed), self._decoder(None))

    def _decoder(self, kind: Any) -> Callable[[Payloads, Payload], Coroutine[Any, Any, Any]]:
        async def decode(payloads: Payloads, payload: Payload) -> Any:
            data = await payloads.unpack(payload)
            if not data:
                return None
            if kind is not None:
                return await payloads.decode(AvroCodec(_codec(kind), 0, self.registry), data)
            return DocumentCodec(self.registry.known).decode(data)

        return decode


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
