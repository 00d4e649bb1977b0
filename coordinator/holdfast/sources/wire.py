"""Submissions and dead letters of a source, as the records that the bus takes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import Enum

from holdfast.bus.port import Received, Record
from holdfast.schemas.codec import encode
from holdfast.schemas.records import (
    CoordinatorEnvelope,
    DeadLetter,
    DeadLetterReason,
    Failure,
    FailureKind,
    RecordHeader,
    SourceRecord,
    SourceSlot,
    Submission,
)

__all__ = ["Kept", "Refusal", "SourceTopics", "SourceWire"]

HEADER_RUN = "holdfast-run"
HEADER_REPLY_KEY = "holdfast-reply-key"
HEADER_SOURCE = "holdfast-source"

TEXT_CHARS_MAX = 16_384
"""Of a message or a traceback in a dead letter: it stands beside the whole record."""

_REASONS = {
    FailureKind.UNDECODABLE: DeadLetterReason.UNDECODABLE,
    FailureKind.SCHEMA: DeadLetterReason.SCHEMA,
    FailureKind.TOO_LARGE: DeadLetterReason.SCHEMA,
    FailureKind.ERROR: DeadLetterReason.EXHAUSTED,
    FailureKind.TIMEOUT: DeadLetterReason.EXHAUSTED,
}


@dataclass(frozen=True, slots=True)
class SourceTopics:
    """The topics of one source, and its group, by their whole names."""

    group: str
    topic: str
    control: str
    coordinator: str
    dead_letters: str


class Kept(Enum):
    """How much of a record its dead letter keeps: the first that the bus takes."""

    ALL = "all"
    HEADERS = "all but the value"
    PLACE = "its place and the hash of its value"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why no run can be made of a record."""

    kind: FailureKind
    message: str
    error_class: str = ""
    traceback: str = ""

    def failure(self) -> Failure:
        """Return it as it stands in records."""
        message, traceback = self.message[:TEXT_CHARS_MAX], self.traceback[-TEXT_CHARS_MAX:]
        return Failure(self.kind, self.error_class, message, traceback, retryable=False)


class SourceWire:
    """Makes the records of one source. `group`: its name without the namespace."""

    def __init__(self, name: str, group: str, topics: SourceTopics) -> None:
        self._name = name
        self._group = group
        self._topics = topics

    def run_id(self, received: Received) -> str:
        """Return the id of the run that a record starts: the same each time."""
        return f"{self._name}-{received.partition}-{received.offset}"

    def submitted_by(self, received: Received) -> str:
        """Return who submits the run, for people."""
        return f"source {self._name} ({_place(received)})"

    def submission(self, received: Received, submission: Submission, now_ms: int) -> Record:
        """Return a submission on its way to the coordinator. It is told of by `RunEnded`."""
        run_id = self.run_id(received)
        submission.source = SourceSlot(self._name, received.partition)
        key = (submission.order_key or run_id).encode()
        slot = f"{self._name}/{received.partition}".encode()
        headers = ((HEADER_RUN, run_id.encode()), (HEADER_REPLY_KEY, key), (HEADER_SOURCE, slot))
        value = encode(CoordinatorEnvelope(run_id, now_ms, submission))
        return Record(self._topics.coordinator, key, value, headers)

    def dead_letter(
        self, received: Received, refusal: Refusal, now_ms: int, kept: Kept = Kept.ALL
    ) -> Record:
        """Return a record's dead letter. Its id names the source: two may read one topic."""
        source = SourceRecord(
            received.topic,
            received.partition,
            received.offset,
            received.key if kept is not Kept.PLACE else None,
            received.value if kept is Kept.ALL else None,
            [RecordHeader(name, value) for name, value in received.headers]
            if kept is not Kept.PLACE
            else [],
            hashlib.sha256(received.value or b"").hexdigest(),
        )
        what = "control/" if received.topic == self._topics.control else ""
        letter_id = f"{self._group}/{what}{received.partition}/{received.offset}"
        letter = DeadLetter(
            dead_letter_id=letter_id,
            reason=_REASONS[refusal.kind],
            failure=refusal.failure(),
            run_id=None,
            task_id=None,
            agent=self._group,
            task=None,
            attempt=0,
            input=None,
            source=source,
            at_ms=now_ms,
        )
        return Record(self._topics.dead_letters, letter_id.encode(), encode(letter))


def _place(received: Received) -> str:
    return f"{received.topic}/{received.partition}/{received.offset}"
