"""Records of the coordinator's topic as inputs of the engine."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from holdfast.bus.port import Received
from holdfast.coordinator.engine import Arrival, Emit, Park
from holdfast.coordinator.writing import (
    HEADER_ATTEMPT,
    HEADER_DEAD_LETTER,
    HEADER_RUN,
    HEADER_TASK,
)
from holdfast.schemas.codec import decode
from holdfast.schemas.errors import HoldfastError, Undecodable
from holdfast.schemas.records import (
    Cause,
    ChildEnded,
    CoordinatorEnvelope,
    DeadLetter,
    DeadLetterReason,
    Event,
    EventType,
    Failure,
    FailureKind,
    Outcome,
    RecordHeader,
    ScheduleCommand,
    SourceRecord,
    SourceSlot,
    StateDeletion,
    Submission,
    TaskResult,
)
from holdfast.schemas.schedules import SCHEDULE_PREFIX

__all__ = ["Unreadable", "read"]

NUMBER_CHARS_MAX = 18
NAME_CHARS_MAX = 256
"""Of a task's id: events repeat it, and have to fit into a record themselves."""
_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}(~[0-9]{1,10})?")
_SCHEDULE_ID = re.compile(SCHEDULE_PREFIX + r"[a-z0-9-]{1,64}")
"""As in docs/protocol.md. Anybody can write to the topic, and ids are parts of journal keys: what
has a slash would come back from the journal as a part of another run."""
_SOURCE = re.compile(r"[a-z0-9-]{1,57}")
PARTITION_MAX = 2**31 - 1
_STATE_ENTITY = re.compile(r"state/[a-z0-9-]{1,64}")


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A record that nobody can read: its dead letter, and what its headers still tell.

    `arrival` is the end of the attempt that the headers name, so that its run hears of it;
    `answer`, where they name a run alone, tells who submitted or commanded.
    """

    letter: Park
    arrival: Arrival | None
    answer: Emit | None = None


def read(received: Received, events_from: int) -> Arrival | Unreadable:
    """Return a record as an input; `Lookup` fills in what it names."""
    try:
        key = (received.key or b"").decode()
        envelope = decode(CoordinatorEnvelope, received.value or b"")
        _check_names(envelope)
    except (HoldfastError, UnicodeDecodeError) as error:
        return _unreadable(received, str(error))
    cause = Cause(received.partition, received.offset)
    body = envelope.body
    if isinstance(body, Submission):
        return Arrival(envelope, cause, key, events_from=events_from)
    buried = any(name == HEADER_DEAD_LETTER for name, _ in received.headers)
    return Arrival(envelope, cause, key, buried=buried)


def _check_names(envelope: CoordinatorEnvelope) -> None:
    if isinstance(envelope.body, StateDeletion):
        if _STATE_ENTITY.fullmatch(envelope.run_id) is None:
            raise Undecodable(f"{envelope.run_id[:NAME_CHARS_MAX]!r} stands for no agent's state")
        return
    if _SCHEDULE_ID.fullmatch(envelope.run_id):
        if not isinstance(envelope.body, ScheduleCommand | ChildEnded):
            raise Undecodable(f"a {type(envelope.body).__name__} is nothing for a schedule")
        return
    if isinstance(envelope.body, ScheduleCommand):
        raise Undecodable(f"{envelope.run_id[:NAME_CHARS_MAX]!r} is no schedule/<name>")
    if _RUN_ID.fullmatch(envelope.run_id) is None:
        raise Undecodable(f"{envelope.run_id[:NAME_CHARS_MAX]!r} is no run id")
    source = envelope.body.source if isinstance(envelope.body, Submission) else None
    if source is not None and not _is_source(source):
        raise Undecodable(f"{source.name[:NAME_CHARS_MAX]!r}, {source.partition} is no source")
    task_id = getattr(envelope.body, "task_id", None)
    if task_id is not None and len(task_id) > NAME_CHARS_MAX:
        raise Undecodable(f"{task_id[:NAME_CHARS_MAX]!r}… is no task id")


def _is_source(source: SourceSlot) -> bool:
    """Whether a topic and a partition can be made of it."""
    named = _SOURCE.fullmatch(source.name) is not None
    return named and 0 <= source.partition <= PARTITION_MAX


def _unreadable(received: Received, reason: str) -> Unreadable:
    headers = {name: value.decode("utf-8", "replace") for name, value in received.headers}
    run_id, task_id = headers.get(HEADER_RUN), headers.get(HEADER_TASK)
    if run_id is not None and not (_RUN_ID.fullmatch(run_id) or _SCHEDULE_ID.fullmatch(run_id)):
        run_id = None
    if task_id is not None and len(task_id) > NAME_CHARS_MAX:
        task_id = None
    text = headers.get(HEADER_ATTEMPT, "")
    attempt = int(text) if text.isdecimal() and len(text) <= NUMBER_CHARS_MAX else 0
    place = f"{received.topic}/{received.partition}/{received.offset}"
    failure = Failure(
        FailureKind.UNDECODABLE, "", f"record {place} cannot be read: {reason}", "", False
    )
    letter = DeadLetter(
        dead_letter_id=place,
        reason=DeadLetterReason.UNDECODABLE,
        failure=failure,
        run_id=run_id,
        task_id=task_id,
        agent="",
        task=None,
        attempt=attempt,
        input=None,
        source=_source(received),
        at_ms=received.timestamp_ms,
    )
    if not run_id or not task_id or not attempt:
        return Unreadable(Park(letter), None, _answer(received, run_id, failure))
    result = TaskResult(
        task_id=task_id,
        attempt=attempt,
        outcome=Outcome.FAILED,
        output=None,
        failure=failure,
        steps=[],
        started_ms=received.timestamp_ms,
        finished_ms=received.timestamp_ms,
        resumes=0,
        instance="",
        build_id="",
    )
    envelope = CoordinatorEnvelope(run_id, received.timestamp_ms, result)
    key = (received.key or b"").decode("utf-8", "replace")
    cause = Cause(received.partition, received.offset)
    arrival = Arrival(envelope, cause, key, buried=True)
    return Unreadable(Park(letter), arrival)


def _answer(received: Received, run_id: str | None, failure: Failure) -> Emit | None:
    """A submission of a later version, for one: unanswered, its client would wait for ever."""
    if not run_id:
        return None
    cause = Cause(received.partition, received.offset)
    schedule = run_id.startswith(SCHEDULE_PREFIX)
    kind = EventType.SCHEDULE_REFUSED if schedule else EventType.COMMAND_REFUSED
    at_ms = received.timestamp_ms
    return Emit(Event(run_id, kind, at_ms, cause, None, None, failure.message))


def _source(received: Received) -> SourceRecord:
    return SourceRecord(
        received.topic,
        received.partition,
        received.offset,
        received.key,
        received.value,
        [RecordHeader(name, value) for name, value in received.headers],
        hashlib.sha256(received.value or b"").hexdigest(),
    )
