"""The records that a slot reads: tasks, control records, and those that nobody can read."""

from __future__ import annotations

from holdfast.agents.agent_words import take_agent_word
from holdfast.agents.interrupts import interrupt_for
from holdfast.agents.ledger import Identity, Incoming, Ledger, first_that_fits
from holdfast.agents.metrics import AgentMetrics
from holdfast.agents.runs import Runs
from holdfast.agents.wire import (
    AgentTopics,
    Kept,
    RecordMaker,
    TaskHeaders,
    check_names,
    trace_of,
    undecodable,
)
from holdfast.bus.port import Received, Record
from holdfast.schemas import Undecodable, decode
from holdfast.schemas.records import ControlAction, ControlEnvelope, Failure, TaskEnvelope

__all__ = ["Reading"]


class Reading:
    """Tells the ledger what was read, and stops the bodies that must not go on for it."""

    def __init__(
        self,
        topics: AgentTopics,
        identity: Identity,
        ledger: Ledger,
        records: RecordMaker,
        runs: Runs,
        metrics: AgentMetrics,
    ) -> None:
        self._topics = topics
        self._identity = identity
        self._ledger = ledger
        self._records = records
        self._runs = runs
        self._metrics = metrics

    def read(self, received: Received, now_ms: int) -> None:
        """Take a record of this slot's key."""
        if received.topic == self._topics.tasks:
            self._read_task(received, now_ms)
        else:
            self._read_control(received, now_ms)

    def _read_task(self, received: Received, now_ms: int) -> None:
        value = received.value
        try:
            if value is None:
                raise Undecodable("a task record without a value")
            envelope = decode(TaskEnvelope, value)
            check_names(
                envelope.run_id,
                envelope.task_id,
                envelope.attempt,
                envelope.reply_key,
                envelope.order_key,
            )
        except Undecodable as error:
            self._bury(received, undecodable(error), now_ms)
            return
        if envelope.attempt > 1:
            self._metrics.retries.inc()
        trace = trace_of(received.headers) if received.headers else None
        incoming = Incoming(envelope, received.offset, len(value), trace)
        superseded = self._ledger.read(incoming, now_ms)
        if superseded is not None:
            self._runs.drop(superseded, interrupt_for("superseded by a newer attempt"))

    def _read_control(self, received: Received, now_ms: int) -> None:
        try:
            control = decode(ControlEnvelope, received.value or b"")
            if take_agent_word(self._ledger, control, received):
                return
            check_names(control.run_id, control.task_id, control.attempt, control.reply_key)
        except Undecodable as error:
            self._bury(received, undecodable(error), now_ms)
            return
        if control.action is ControlAction.RELEASE:
            self._ledger.release(control, received.position)
            return
        if control.action is ControlAction.REPLY:
            self._ledger.reply(control, received.position, now_ms)
            return
        entry = self._ledger.cancel(control, received.position, now_ms)
        run = None if entry is None else self._runs.get(entry)
        if run is not None:
            self._runs.interrupt(run, interrupt_for(control.reason))

    def _bury(self, received: Received, failure: Failure, now_ms: int) -> None:
        """Keep a record that nobody can read, and tell the coordinator if its headers allow."""
        self._metrics.undecodable.inc()
        self._ledger.skip(received.topic, received.offset)
        answers: list[Record] = []
        about = TaskHeaders.of(received.headers)
        if about is not None and received.topic == self._topics.tasks:
            instance = self._identity.instance
            answer = self._records.undecodable_answer(received, about, failure, now_ms, instance)
            answers.append(answer)
        choices = [
            [self._records.dead_letter(received, failure, now_ms, kept), *answers] for kept in Kept
        ]
        self._ledger.post(first_that_fits(choices))
