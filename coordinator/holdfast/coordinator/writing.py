"""Effects of the engine, and values of the journal, as records of the bus."""

from __future__ import annotations

import json

from holdfast.bus.port import Received, Record
from holdfast.bus.topics import Topics
from holdfast.coordinator.engine import (
    Effect,
    Emit,
    Park,
    Report,
    SendControl,
    SendTask,
    Tell,
    Value,
)
from holdfast.schemas.codec import encode
from holdfast.schemas.records import (
    ChildEnded,
    ControlEnvelope,
    CoordinatorJournal,
    DeadLetter,
    Parent,
    Parked,
    RecordHeader,
    Submission,
    TaskEnvelope,
)

__all__ = [
    "HEADER_ATTEMPT",
    "HEADER_DEAD_LETTER",
    "HEADER_PARENT",
    "HEADER_REPLY_KEY",
    "HEADER_RUN",
    "HEADER_SOURCE",
    "HEADER_TASK",
    "PARENT_FIELDS",
    "Writing",
]

HEADER_RUN = "holdfast-run"
HEADER_TASK = "holdfast-task"
HEADER_ATTEMPT = "holdfast-attempt"
HEADER_REPLY_KEY = "holdfast-reply-key"
HEADER_DEAD_LETTER = "holdfast-dead-letter"
"""On a result: the id of the dead letter that its writer has made of it already."""
HEADER_PARENT = "holdfast-parent"
"""On a submission, and on the end of a run: who waits for that end, as a JSON list of run, reply
key, task, step, its key, and the run that ends. So that they hear of a record that nobody can
read."""
PARENT_FIELDS = 6
HEADER_SOURCE = "holdfast-source"
"""On a submission: the source that waits for the end of its run, `<name>/<partition>`."""


class Writing:
    """Makes the records of one slot; `events` are written to its own partition by number."""

    def __init__(self, topics: Topics, partition: int) -> None:
        self._events = topics.events
        self._dead_letters = topics.dead_letters
        self._partition = partition
        self._topics = topics
        self._names: dict[tuple[str, str], str] = {}

    def effect(self, effect: Effect) -> Record:
        """Return the record that carries out an effect; raises `Unencodable`."""
        if isinstance(effect, Emit):
            event = effect.event
            key = event.run_id.encode()
            return Record(self._events, key, encode(event), (), self._partition)
        if isinstance(effect, SendTask):
            return self._send("tasks", effect)
        if isinstance(effect, SendControl):
            return self._send("control", effect)
        if isinstance(effect, Tell):
            return self._tell(effect)
        if isinstance(effect, Report):
            return self._report(effect)
        return self.dead_letter(effect)

    def _tell(self, tell: Tell) -> Record:
        envelope, key = tell.envelope, tell.key.encode()
        headers = [(HEADER_RUN, envelope.run_id.encode()), (HEADER_REPLY_KEY, key)]
        body = envelope.body
        parent = source = None
        child = envelope.run_id
        if isinstance(body, Submission):
            parent, source = body.parent, body.source
        elif isinstance(body, ChildEnded):
            child = body.child_run_id
            parent = Parent(envelope.run_id, tell.key, body.task_id, body.name, body.key)
        if parent is not None:
            fields = (parent.run_id, parent.reply_key, parent.task_id, parent.name, parent.key)
            headers.append((HEADER_PARENT, json.dumps([*fields, child]).encode()))
        if source is not None:
            headers.append((HEADER_SOURCE, f"{source.name}/{source.partition}".encode()))
        return Record(self._topics.coordinator, key, encode(envelope), tuple(headers))

    def _report(self, report: Report) -> Record:
        """Return what a source is told: its slot's own partition, by number."""
        source, ended = report.source, report.ended
        topic = self._topics.control(self._topics.source_group(source.name))
        return Record(topic, ended.run_id.encode(), encode(ended), (), source.partition)

    def dead_letter(self, park: Park) -> Record:
        """Return the record of a dead letter: a task's under its run's id, a record's by place."""
        letter: DeadLetter = park.letter
        key = letter.dead_letter_id if letter.run_id is None or letter.source else letter.run_id
        return Record(self._dead_letters, key.encode(), encode(letter))

    @staticmethod
    def journal(value: Value) -> bytes:
        """Return a value as the journal holds it."""
        return encode(CoordinatorJournal(value))

    @staticmethod
    def parked(received: Received) -> bytes:
        """Return a record of the coordinator's topic as the journal holds it while it waits."""
        headers = [RecordHeader(name, value) for name, value in received.headers]
        parked = Parked(
            received.offset, received.key, received.value, headers, received.timestamp_ms
        )
        return encode(CoordinatorJournal(parked))

    def _send(self, kind: str, effect: SendTask | SendControl) -> Record:
        envelope: TaskEnvelope | ControlEnvelope = effect.envelope
        headers = (
            (HEADER_RUN, envelope.run_id.encode()),
            (HEADER_TASK, envelope.task_id.encode()),
            (HEADER_ATTEMPT, str(envelope.attempt).encode()),
            (HEADER_REPLY_KEY, envelope.reply_key.encode()),
        )
        topic = self._topic(kind, effect.agent)
        if isinstance(effect, SendControl) and effect.partition is not None:
            return Record(topic, None, encode(envelope), (), effect.partition)
        return Record(topic, effect.key.encode(), encode(envelope), headers)

    def _topic(self, kind: str, agent: str) -> str:
        name = self._names.get((kind, agent))
        if name is None:
            topics = self._topics
            name = topics.tasks(agent) if kind == "tasks" else topics.control(agent)
            self._names[kind, agent] = name
        return name
