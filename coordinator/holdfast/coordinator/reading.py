"""Records of the coordinator's topic as inputs of the engine."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from holdfast.bus.port import Received
from holdfast.coordinator.engine import Arrival, Park
from holdfast.coordinator.writing import HEADER_ATTEMPT, HEADER_RUN, HEADER_TASK
from holdfast.schemas.codec import decode
from holdfast.schemas.errors import HoldfastError
from holdfast.schemas.records import (
    Cause,
    CoordinatorEnvelope,
    DeadLetter,
    DeadLetterReason,
    Failure,
    FailureKind,
    Outcome,
    RecordHeader,
    SourceRecord,
    Submission,
    TaskResult,
)

__all__ = ["Unreadable", "read"]

NUMBER_CHARS_MAX = 18


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A record that nobody can read: its dead letter, and what its headers still tell.

    `arrival` is the end of the attempt that the headers name, so that its run hears of it.
    """

    letter: Park
    arrival: Arrival | None


def read(
    received: Received, problem: Callable[[str], str | None], events_from: int
) -> Arrival | Unreadable:
    """Return a record as an input. `problem` tells why a plan cannot be run, or None."""
    try:
        key = (received.key or b"").decode()
        envelope = decode(CoordinatorEnvelope, received.value or b"")
    except (HoldfastError, UnicodeDecodeError) as error:
        return _unreadable(received, str(error))
    cause = Cause(received.partition, received.offset)
    body = envelope.body
    if isinstance(body, Submission):
        return Arrival(envelope, cause, key, problem(body.plan), events_from)
    return Arrival(envelope, cause, key)


def _unreadable(received: Received, reason: str) -> Unreadable:
    headers = {name: value.decode("utf-8", "replace") for name, value in received.headers}
    run_id, task_id = headers.get(HEADER_RUN), headers.get(HEADER_TASK)
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
        return Unreadable(Park(letter), None)
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
    arrival = Arrival(envelope, Cause(received.partition, received.offset), key)
    return Unreadable(Park(letter), arrival)


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
