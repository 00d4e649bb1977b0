"""From a record to what becomes of it: a submission, a dead letter, or nothing.

1. Decoded, by the schema registry where it is Avro.
2. Shown to the source's function, which says what to start.
3. The plan is resolved against the agents, and the input checked against it, as a client does.

What is wrong with the record itself is its dead letter, and its neighbours pass. What is wrong
around it (the registry or the store is away, an agent has not come yet or does not offer what the
plan needs) is waited for: that is not poison.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from holdfast.bus.errors import BusUnavailable, Rejected
from holdfast.bus.port import Environment, Received, Record
from holdfast.bus.registry import Registry
from holdfast.client.directory import Directory
from holdfast.client.payloads import Payloads
from holdfast.client.submission import Resolved, Submissions, document_of
from holdfast.schemas import (
    DoesNotFit,
    HoldfastError,
    PlanDocument,
    PlanError,
    Unencodable,
    UnknownSchema,
    agents_of,
    check_plan,
)
from holdfast.schemas.errors import ConfigurationError
from holdfast.schemas.records import FailureKind
from holdfast.sources.definition import Source, Submit, TopicRecord, checked_submit
from holdfast.sources.metrics import Outcome, Pause
from holdfast.sources.values import ValueReader
from holdfast.sources.wire import Kept, Refusal, SourceWire

__all__ = ["Pausing", "RunStarter", "Settled", "SourceTools"]

T = TypeVar("T")

logger = logging.getLogger(__name__)

CONVERT_S = 10.0
"""How long an asynchronous function of a source may take: a record alone tells it all."""
RETRY_FIRST_S = 0.2
RETRY_MAX_S = 5.0


@dataclass(slots=True, eq=False)
class Settled:
    """What becomes of a record: `records` are written in the commit that passes it.

    `kept`: how much of it its dead letter holds, if that is what it is.
    """

    received: Received
    outcome: Outcome
    records: tuple[Record, ...] = ()
    kept: Kept | None = None


class Pausing(Protocol):
    """Hears what a slot waits for."""

    def pause(self, reason: Pause, told: str) -> None:
        """It waits; may be repeated. `told`: for people."""
        ...

    def go_on(self) -> None:
        """It waits no more."""
        ...


@dataclass(frozen=True, slots=True)
class SourceTools:
    """What all slots of one source process share."""

    environment: Environment
    registry: Registry
    directory: Directory
    submissions: Submissions
    payloads: Payloads


class _Refused(Exception):
    """No run can be made of the record."""

    def __init__(self, kind: FailureKind, message: str, cause: BaseException | None = None) -> None:
        super().__init__(message)
        told = "" if cause is None else "".join(traceback.format_exception(cause))
        name = "" if cause is None else f"{type(cause).__module__}.{type(cause).__qualname__}"
        self.refusal = Refusal(kind, message, name, told)


class RunStarter:
    """Settles the records of one slot, one at a time. `check`: `SlotControl.check`."""

    def __init__(
        self,
        source: Source[Any],
        tools: SourceTools,
        wire: SourceWire,
        pausing: Pausing,
        check: Callable[[Record], None],
    ) -> None:
        self._source = source
        self._tools = tools
        self._wire = wire
        self._pausing = pausing
        self._check = check
        self._values = ValueReader(source.topic, tools.registry.known)
        self._written = "" if source.plan is None else source.plan.to_json()

    async def settle(self, received: Received) -> Settled:
        """Return what becomes of a record; waits as long as it takes."""
        if received.value is None:
            return Settled(received, Outcome.EMPTY)
        try:
            submit = await self._ask(received, await self._decode(received.value))
            if submit is None:
                return Settled(received, Outcome.SKIPPED)
            record = await self._submission(received, submit)
        except _Refused as refused:
            return self.bury(received, refused.refusal)
        return Settled(received, Outcome.SUBMITTED, (record,))

    def bury(self, received: Received, refusal: Refusal, behind: Kept | None = None) -> Settled:
        """Return the dead letter of a record, as whole as the bus takes it.

        `behind`: so much of it was refused by the bus already. Raises `Rejected` where not even its
        place is taken: nothing that could be left out.
        """
        logger.warning(
            "source %s: record %s/%d/%d goes to the dead letters: %s",
            self._source.name,
            *received.position,
            refusal.message[:500],
        )
        now_ms = self._tools.environment.now_ms()
        choices = list(Kept)
        for kept in choices if behind is None else choices[choices.index(behind) + 1 :]:
            record = self._wire.dead_letter(received, refusal, now_ms, kept)
            try:
                self._check(record)
            except Rejected:
                if kept is Kept.PLACE:
                    raise
                continue
            return Settled(received, Outcome.DEAD_LETTER, (record,), kept)
        raise RuntimeError(f"the bus does not even take the place of {received.position}")

    # --- 1. what it says -------------------------------------------------------------------------

    async def _decode(self, data: bytes) -> Any:
        try:
            try:
                return self._read(data)
            except UnknownSchema:
                schema_id = self._values.schema_id(data)
                if schema_id is None:
                    raise
                registry = self._tools.registry
                await self._patiently(Pause.REGISTRY, lambda: registry.schema(schema_id))
                return self._read(data)
        except DoesNotFit as error:
            raise _Refused(FailureKind.SCHEMA, f"its value does not fit: {error}") from None
        except HoldfastError as error:
            message = f"its value cannot be read: {error}"
            raise _Refused(FailureKind.UNDECODABLE, message) from None

    def _read(self, data: bytes) -> Any:
        """A model may have validators of the user's: whatever they raise is of this record."""
        try:
            return self._values.read(data)
        except HoldfastError:
            raise
        except Exception as error:  # noqa: BLE001 - see above
            message = f"its value does not fit: {type(error).__name__}: {error}"
            raise _Refused(FailureKind.SCHEMA, message, error) from None

    # --- 2. what is to be started ----------------------------------------------------------------

    async def _ask(self, received: Received, value: Any) -> Submit | None:
        record = TopicRecord(
            received.topic,
            received.partition,
            received.offset,
            received.key,
            value,
            tuple(received.headers),
            received.timestamp_ms,
        )
        bound = asyncio.timeout(CONVERT_S)
        try:
            found = self._source.convert(record)
            if inspect.isawaitable(found):
                async with bound:
                    found = await found
            return checked_submit(found)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is of this record
            if bound.expired():
                message = f"the source's function took longer than {CONVERT_S:g} s"
                raise _Refused(FailureKind.TIMEOUT, message) from None
            message = f"the source's function failed: {type(error).__name__}: {error}"
            raise _Refused(FailureKind.ERROR, message, error) from None

    # --- 3. its submission -----------------------------------------------------------------------

    async def _submission(self, received: Received, submit: Submit) -> Record:
        tools, run_id = self._tools, self._wire.run_id(received)
        document = self._document(submit)
        resolved = await self._resolve(document)
        try:
            prepared = tools.submissions.fill(resolved, submit.input)
        except HoldfastError as error:
            message = f"no run can be started with it: {error}"
            raise _Refused(FailureKind.SCHEMA, message) from None
        except Exception as error:  # noqa: BLE001 - a serializer of the user's, for one
            message = f"no run can be started with it: {type(error).__name__}: {error}"
            raise _Refused(FailureKind.SCHEMA, message, error) from None
        try:
            payload = await self._patiently(
                Pause.BLOBS, lambda: tools.payloads.pack(run_id, prepared.input)
            )
            by = self._wire.submitted_by(received)
            submission = prepared.submission(run_id, payload, by)
            record = self._wire.submission(received, submission, tools.environment.now_ms())
            self._check(record)
        except (ConfigurationError, Rejected, Unencodable) as error:
            raise _Refused(FailureKind.TOO_LARGE, str(error)) from None
        return record

    def _document(self, submit: Submit) -> PlanDocument:
        try:
            document = document_of(submit.work, submit.order_key, submit.deadline_s)
            if document is not self._source.plan:
                check_plan(document)
        except PlanError as error:
            raise _Refused(FailureKind.SCHEMA, f"no run can be started: {error}") from None
        except Exception as error:  # noqa: BLE001 - what a function gives may be anything at all
            message = f"no run can be started: {type(error).__name__}: {error}"
            raise _Refused(FailureKind.SCHEMA, message, error) from None
        return document

    async def _resolve(self, document: PlanDocument) -> Resolved:
        """Wait until the agents offer what the plan asks for: that may change without the record.

        What of a plan is wrong by itself was found before.
        """
        written = self._written if document is self._source.plan else None
        pause_s = RETRY_FIRST_S
        while True:
            try:
                resolved = await self._tools.submissions.resolve(document, written)
            except PlanError as error:
                missing = agents_of(document) - self._tools.directory.manifests.keys()
                self._pausing.pause(Pause.AGENTS if missing else Pause.PLAN, str(error))
            except UnknownSchema as error:
                self._pausing.pause(Pause.REGISTRY, str(error))
            except (BusUnavailable, OSError) as error:
                self._pausing.pause(Pause.BUS, str(error))
            else:
                self._pausing.go_on()
                return resolved
            await asyncio.sleep(pause_s)
            pause_s = min(RETRY_MAX_S, pause_s * 2)

    async def _patiently(self, reason: Pause, call: Callable[[], Awaitable[T]]) -> T:
        pause_s = RETRY_FIRST_S
        while True:
            try:
                found = await call()
            except (BusUnavailable, OSError) as error:
                self._pausing.pause(reason, str(error))
            else:
                self._pausing.go_on()
                return found
            await asyncio.sleep(pause_s)
            pause_s = min(RETRY_MAX_S, pause_s * 2)
