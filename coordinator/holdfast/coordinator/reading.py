"""Records of the coordinator's topic as inputs of the engine."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass

from holdfast.bus.port import Received
from holdfast.coordinator.engine import Arrival, Emit, Park, Report, Tell, tell_parent
from holdfast.coordinator.writing import (
    HEADER_ATTEMPT,
    HEADER_DEAD_LETTER,
    HEADER_PARENT,
    HEADER_RUN,
    HEADER_SOURCE,
    HEADER_TASK,
    PARENT_FIELDS,
)
from holdfast.schemas.codec import decode
from holdfast.schemas.errors import HoldfastError, Undecodable
from holdfast.schemas.pauses import AGENT_PREFIX
from holdfast.schemas.records import (
    Cause,
    ChildEnded,
    Command,
    CoordinatorEnvelope,
    DeadLetter,
    DeadLetterReason,
    Event,
    EventType,
    Failure,
    FailureKind,
    Outcome,
    Parent,
    RecordHeader,
    RunEnded,
    ScheduleCommand,
    SourceRecord,
    SourceSlot,
    StateDeletion,
    Submission,
    TaskResult,
)
from holdfast.schemas.run_ids import is_run_id
from holdfast.schemas.schedules import SCHEDULE_PREFIX

__all__ = ["Unreadable", "read"]

NUMBER_CHARS_MAX = 18
NAME_CHARS_MAX = 256
"""Of a task's id: events repeat it, and have to fit into a record themselves."""
_AGENT_ID = re.compile(AGENT_PREFIX + r"[a-z0-9-]{1,64}")
_SCHEDULE_ID = re.compile(SCHEDULE_PREFIX + r"[a-z0-9-]{1,64}")
_SOURCE = re.compile(r"[a-z0-9-]{1,57}")
PARTITION_MAX = 2**31 - 1
_STATE_ENTITY = re.compile(r"state/[a-z0-9-]{1,64}")


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A record that nobody can read: its dead letter, and what its headers still tell.

    `arrival` is the end of the attempt that the headers name, so that its run hears of it;
    `answers`, where they name a run alone, tell who submitted or commanded, and who waits for the
    end of that run: its parent, its source.
    """

    letter: Park
    arrival: Arrival | None
    answers: tuple[Emit | Tell | Report, ...] = ()


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
    if _AGENT_ID.fullmatch(envelope.run_id):
        if not isinstance(envelope.body, Command):
            raise Undecodable(f"a {type(envelope.body).__name__} is nothing for an agent")
        return
    if isinstance(envelope.body, ScheduleCommand):
        raise Undecodable(f"{envelope.run_id[:NAME_CHARS_MAX]!r} is no schedule/<name>")
    if not is_run_id(envelope.run_id):
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
    if run_id is not None and not _names_entity(run_id):
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
        return Unreadable(Park(letter), None, _answers(received, run_id, failure))
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


def _names_entity(text: str) -> bool:
    return is_run_id(text) or any(
        known.fullmatch(text) is not None for known in (_SCHEDULE_ID, _AGENT_ID)
    )


def _answers(
    received: Received, run_id: str | None, failure: Failure
) -> tuple[Emit | Tell | Report, ...]:
    """A submission of a later version, for one: unanswered, who waits for it would for ever."""
    headers, at_ms = dict(received.headers), received.timestamp_ms
    found = (
        _event(received, run_id, failure),
        _told_parent(headers.get(HEADER_PARENT), failure, at_ms),
        _told_source(headers.get(HEADER_SOURCE), run_id, at_ms),
    )
    return tuple(each for each in found if each is not None)


def _told_parent(header: bytes | None, failure: Failure, at_ms: int) -> Tell | None:
    """Return the end of a run as its parent is told it; see `Writing` for the header."""
    try:
        fields = json.loads(header or b"null")
    except ValueError:
        return None
    if not isinstance(fields, list) or len(fields) != PARENT_FIELDS:
        return None
    if not all(isinstance(each, str) for each in fields):
        return None
    parent_id, reply_key, task_id, name, key, child = fields
    if not (is_run_id(parent_id) or _SCHEDULE_ID.fullmatch(parent_id)):
        return None
    if len(task_id) > NAME_CHARS_MAX:
        return None
    return tell_parent(
        Parent(parent_id, reply_key, task_id, name, key), child, None, failure, at_ms
    )


def _told_source(header: bytes | None, run_id: str | None, at_ms: int) -> Report | None:
    name, _, partition = (header or b"").decode("utf-8", "replace").rpartition("/")
    if run_id is None or not partition.isdecimal() or len(partition) > NUMBER_CHARS_MAX:
        return None
    source = SourceSlot(name, int(partition))
    return Report(source, RunEnded(run_id, None, at_ms)) if _is_source(source) else None


def _event(received: Received, run_id: str | None, failure: Failure) -> Emit | None:
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
