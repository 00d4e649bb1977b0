"""Drafts, progress and dead letters as the records that the bus takes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum

from holdfast.agents.ledger import Answer, Draft, Entry
from holdfast.bus.port import Headers, Received, Record
from holdfast.schemas import Undecodable, encode
from holdfast.schemas.records import (
    AgentJournal,
    AgentPause,
    Ask,
    ControlEnvelope,
    CoordinatorEnvelope,
    DeadLetter,
    DeadLetterReason,
    Failure,
    FailureKind,
    Outcome,
    RecordHeader,
    SourceRecord,
    StateDeletion,
    TaskProgress,
    TaskResult,
)
from holdfast.schemas.state_keys import ORDER_KEY_CHARS_MAX, order_record_key, state_entity

__all__ = [
    "AgentTopics",
    "Kept",
    "RecordMaker",
    "TaskHeaders",
    "check_names",
    "deletion_in",
    "trace_of",
    "undecodable",
]

HEADER_RUN = "holdfast-run"
HEADER_DEAD_LETTER = "holdfast-dead-letter"
HEADER_TASK = "holdfast-task"
HEADER_ATTEMPT = "holdfast-attempt"
HEADER_REPLY_KEY = "holdfast-reply-key"
HEADER_TRACE = "traceparent"

ATTEMPT_MAX = 2**63 - 1
NAME_CHARS_MAX = 256
DELETION_CHARS_MAX = 2_000
"""Of each text of a deletion: the audit trail repeats them."""
KEY_CHARS_MAX = ORDER_KEY_CHARS_MAX
"""Of names and keys of a record: results repeat them, and have to fit into a record themselves."""


@dataclass(frozen=True, slots=True)
class AgentTopics:
    """The topics of one agent, by their whole names."""

    tasks: str
    control: str
    coordinator: str
    dead_letters: str


@dataclass(frozen=True, slots=True)
class TaskHeaders:
    """Which attempt a record is about, readable without any schema."""

    run_id: str
    task_id: str
    attempt: int
    reply_key: str

    @classmethod
    def of(cls, headers: Headers) -> TaskHeaders | None:
        """Return what the headers say; None if one is missing, no text, or no name."""
        found = dict(headers)
        try:
            about = cls(
                found[HEADER_RUN].decode(),
                found[HEADER_TASK].decode(),
                int(found[HEADER_ATTEMPT]),
                found[HEADER_REPLY_KEY].decode(),
            )
            check_names(about.run_id, about.task_id, about.attempt, about.reply_key)
        except (KeyError, ValueError, Undecodable):
            return None
        return about

    def headers(self, trace: bytes | None = None) -> Headers:
        """Return them as headers."""
        found = (
            (HEADER_RUN, self.run_id.encode()),
            (HEADER_TASK, self.task_id.encode()),
            (HEADER_ATTEMPT, str(self.attempt).encode()),
            (HEADER_REPLY_KEY, self.reply_key.encode()),
        )
        return found if trace is None else (*found, (HEADER_TRACE, trace))


def check_names(run_id: str, task_id: str, attempt: int, *keys: str | None) -> None:
    """Raise `Undecodable` for names that no record of ours has.

    The journal could not read them back: an accepted task would be forgotten by the next restart.
    """
    for what, name in (("run", run_id), ("task", task_id)):
        if not 0 < len(name) <= NAME_CHARS_MAX or "/" in name:
            raise Undecodable(
                f"{name[:NAME_CHARS_MAX]!r} is no {what} id: it has 1 to {NAME_CHARS_MAX} "
                "characters, none of them a slash"
            )
    if not 0 < attempt <= ATTEMPT_MAX:
        raise Undecodable(f"attempts are numbered from 1; this is {attempt}")
    if any(key is not None and len(key) > KEY_CHARS_MAX for key in keys):
        raise Undecodable(f"a key has more than {KEY_CHARS_MAX} characters")


def deletion_in(control: ControlEnvelope, key: bytes | None) -> StateDeletion:
    """Return what a control record wants deleted; raises `Undecodable` for what cannot be."""
    deletion = control.deletion
    if deletion is None:
        raise Undecodable("a word to delete state that does not say which")
    if key != order_record_key(deletion.order_key):
        raise Undecodable("a word to delete state under a key that is not its order key's")
    if len(deletion.order_key) > ORDER_KEY_CHARS_MAX:
        raise Undecodable(f"an order key has more than {ORDER_KEY_CHARS_MAX} characters")
    for text in (deletion.deletion_id, deletion.name, deletion.actor, deletion.reason):
        if text is not None and len(text) > DELETION_CHARS_MAX:
            raise Undecodable(f"a text has more than {DELETION_CHARS_MAX} characters")
    return replace(deletion, deleted=[])


def pause_in(control: ControlEnvelope, key: bytes | None) -> AgentPause:
    """Return what a control record pauses or resumes; raises `Undecodable` for what cannot be."""
    pause = control.pause
    if pause is None:
        raise Undecodable(f"a word to {control.action} that does not say what")
    if pause.order_key is not None and key != order_record_key(pause.order_key):
        raise Undecodable(f"a word to {control.action} under a key that is not its order key's")
    for text in (pause.order_key, pause.actor, pause.reason):
        if text is not None and len(text) > ORDER_KEY_CHARS_MAX:
            raise Undecodable(f"a text has more than {ORDER_KEY_CHARS_MAX} characters")
    return pause


def trace_of(headers: Headers) -> bytes | None:
    """Return the trace context that a record came with."""
    for name, value in headers:
        if name == HEADER_TRACE:
            return value
    return None


class Kept(Enum):
    """How much of an undecodable record its dead letter keeps."""

    ALL = "all"
    HEADERS = "all but the value"
    PLACE = "its place and the hash of its value"


class RecordMaker:
    """Makes records for one slot. `journal` is `SlotControl.journal`."""

    def __init__(
        self,
        topics: AgentTopics,
        agent: str,
        build_id: str,
        journal: Callable[[str, bytes | None], Record],
    ) -> None:
        self._topics = topics
        self._agent = agent
        self._build_id = build_id
        self._journal = journal

    def of(self, draft: Draft, now_ms: int) -> list[Record]:
        """Return all records of a draft: journal, published, result."""
        records = [
            self._journal(key, None if body is None else encode(AgentJournal(body, self._build_id)))
            for key, body in draft.writes
        ]
        records += draft.records
        if draft.deleted is not None:
            records.append(self._deleted(draft.deleted, now_ms))
        if draft.answer is not None:
            trace = draft.entry.trace if draft.entry is not None else None
            records.append(self.answer(draft.answer, now_ms, trace))
        return records

    def _deleted(self, deletion: StateDeletion, now_ms: int) -> Record:
        """Return what was deleted, on its way into the audit trail."""
        entity = state_entity(self._agent)
        value = encode(CoordinatorEnvelope(entity, now_ms, deletion))
        return Record(self._topics.coordinator, entity.encode(), value)

    def answer(self, answer: Answer, now_ms: int, trace: bytes | None = None) -> Record:
        """Return a result on its way to the coordinator."""
        result = answer.result
        about = TaskHeaders(answer.run_id, result.task_id, result.attempt, answer.reply_key)
        value = encode(CoordinatorEnvelope(answer.run_id, now_ms, result))
        return Record(
            self._topics.coordinator, answer.reply_key.encode(), value, about.headers(trace)
        )

    def progress(self, entry: Entry, message: str, fraction: float | None, now_ms: int) -> Record:
        """Return what a handler says of how far it is."""
        envelope = entry.envelope
        assert envelope is not None
        body = TaskProgress(envelope.task_id, entry.attempt, message, fraction)
        value = encode(CoordinatorEnvelope(envelope.run_id, now_ms, body))
        about = TaskHeaders(envelope.run_id, envelope.task_id, entry.attempt, envelope.reply_key)
        return Record(
            self._topics.coordinator,
            envelope.reply_key.encode(),
            value,
            about.headers(entry.trace),
        )

    def ask(self, entry: Entry, ask: Ask, now_ms: int) -> Record:
        """Return an ask on its way to the coordinator."""
        envelope = entry.envelope
        assert envelope is not None
        value = encode(CoordinatorEnvelope(envelope.run_id, now_ms, ask))
        about = TaskHeaders(envelope.run_id, ask.task_id, ask.attempt, envelope.reply_key)
        return Record(
            self._topics.coordinator,
            envelope.reply_key.encode(),
            value,
            about.headers(entry.trace),
        )

    def dead_letter(
        self, received: Received, failure: Failure, now_ms: int, kept: Kept = Kept.ALL
    ) -> Record:
        """Return the dead letter of an undecodable record. What does not fit into a record beside
        the rest is left out; the hash of its value remains."""
        about = TaskHeaders.of(received.headers)
        source = _source(received)
        if kept is not Kept.ALL:
            source.value = None
        if kept is Kept.PLACE:
            source.key, source.headers = None, []
        where = _letter_id(received)
        letter = DeadLetter(
            dead_letter_id=where,
            reason=DeadLetterReason.UNDECODABLE,
            failure=failure,
            run_id=about.run_id if about else None,
            task_id=about.task_id if about else None,
            agent=self._agent,
            task=None,
            attempt=about.attempt if about else 0,
            input=None,
            source=source,
            at_ms=now_ms,
        )
        return Record(self._topics.dead_letters, where.encode(), encode(letter))

    def undecodable_answer(
        self, received: Received, about: TaskHeaders, failure: Failure, now_ms: int, instance: str
    ) -> Record:
        """Return the result of an attempt whose envelope cannot be read.

        Its header names the dead letter that holds the record whole, so that the coordinator
        writes no second one.
        """
        result = TaskResult(
            about.task_id,
            about.attempt,
            Outcome.FAILED,
            None,
            failure,
            [],
            now_ms,
            now_ms,
            0,
            instance,
            self._build_id,
        )
        record = self.answer(Answer(about.run_id, about.reply_key, result), now_ms)
        letter = (HEADER_DEAD_LETTER, _letter_id(received).encode())
        return record._replace(headers=(*record.headers, letter))


def _letter_id(received: Received) -> str:
    return f"{received.topic}/{received.partition}/{received.offset}"


def undecodable(error: Exception) -> Failure:
    """Return the failure of a record that is not what it claims to be."""
    return Failure(FailureKind.UNDECODABLE, type(error).__name__, str(error), "", retryable=False)


def _source(received: Received) -> SourceRecord:
    return SourceRecord(
        received.topic,
        received.partition,
        received.offset,
        received.key,
        received.value,
        [RecordHeader(name, value) for name, value in received.headers],
        _sha256(received),
    )


def _sha256(received: Received) -> str:
    return hashlib.sha256(received.value or b"").hexdigest()
