"""From records of the bus to rows of the tables: pure, and the only place that knows both."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from holdfast.bus.port import Received
from holdfast.coordinator.projection.pauses import pause_columns
from holdfast.coordinator.projection.schedules import schedule_columns
from holdfast.schemas import (
    AgentPause,
    AskEntry,
    AskRow,
    BlobReference,
    CoordinatorJournal,
    DeadLetter,
    Event,
    EventType,
    Failure,
    Manifest,
    Payload,
    PlanRevision,
    RunEntry,
    RunRow,
    ScheduleEntry,
    ScheduleRow,
    Signal,
    SignalEntry,
    SourceRecord,
    TaskEntry,
    TaskRow,
)
from holdfast.schemas.pauses import pause_name

__all__ = ["AskState", "Batch", "Row", "SignalState"]

Row = dict[str, Any]


class AskState(StrEnum):
    """Whether a task still waits for something."""

    OPEN = "open"
    ANSWERED = "answered"
    CLOSED = "closed"  # its task has ended before


class SignalState(StrEnum):
    """What became of a signal."""

    KEPT = "kept"  # until a task waits for it
    TAKEN = "taken"
    REFUSED = "refused"


_ASKS = {
    EventType.TASK_ASKED: AskState.OPEN,
    EventType.TASK_ANSWERED: AskState.ANSWERED,
    EventType.ASK_CLOSED: AskState.CLOSED,
}
_SIGNALS = {
    EventType.SIGNAL_KEPT: SignalState.KEPT,
    EventType.SIGNAL_REFUSED: SignalState.REFUSED,
    EventType.TASK_ANSWERED: SignalState.TAKEN,
}
# Of an ask the last event counts: it may be continued by another run, and asked anew by a task that
# was restarted. The journal says that it is open: any event that is there says more.
_ASK_IN_JOURNAL = 0
# A signal that was refused may be sent again under its id; one that was taken stays so, whatever
# comes later. The journal does not say by whom: the event stands over it.
_SIGNAL_TAKEN = 1 << 62
_SIGNAL_KEPT_IN_JOURNAL = -1


@dataclass(slots=True)
class Batch:
    """What one transaction writes: of each key only the newest row."""

    runs: dict[str, Row] = field(default_factory=dict)
    tasks: dict[tuple[str, str], Row] = field(default_factory=dict)
    plans: dict[str, Row] = field(default_factory=dict)
    replanned: set[str] = field(default_factory=set)
    """Runs that began: what was known of changes of their plans is of older ones of their ids."""
    plan_changes: dict[tuple[str, int], Row] = field(default_factory=dict)
    asks: dict[tuple[str, str], Row] = field(default_factory=dict)
    gone_asks: set[tuple[str, str]] = field(default_factory=set)
    """Tombstoned in the journal: not open any more, whatever the events tell."""
    signals: dict[tuple[str, str], Row] = field(default_factory=dict)
    history: list[Row] = field(default_factory=list)
    dead_letters: dict[str, Row] = field(default_factory=dict)
    recreated: set[str] = field(default_factory=set)
    """Schedules that began, or are gone: what was known of older ones of their names is not."""
    schedules: dict[str, Row] = field(default_factory=dict)
    pauses: dict[tuple[str, str], Row | None] = field(default_factory=dict)
    """By agent and name; None: it is over."""
    agents: dict[bytes, Row | None] = field(default_factory=dict)
    """By record key; None: tombstoned."""

    def add_event(self, received: Received, event: Event) -> None:
        """Take one record of `events`."""
        if event.run is not None:
            self._add_run(event.run)
        if event.task is not None:
            self._add_task(event.run_id, event.task)
        if event.plan is not None:
            self._add_plan(event.run_id, event.plan)
        if event.revision is not None:
            self._add_change(event.run_id, event.revision)
        if event.ask is not None and (state := _ASKS.get(event.type)) is not None:
            self._add_ask(event, event.ask, state, _ASK_IN_JOURNAL + 1 + received.offset)
        if event.signal is not None:
            self._add_signal(received, event, event.signal)
        if event.schedule is not None:
            self._add_schedule(event.schedule, anew=event.type is EventType.SCHEDULE_CREATED)
        if event.pause is not None:
            self._add_pause(event.pause, over=event.type is EventType.AGENT_RESUMED)
        cause, task, ask = event.cause, event.task, event.ask
        command = event.command or event.schedule_command or event.deletion
        task_id = ask.task_id if task is None and ask is not None else None
        self.history.append(
            {
                "partition": received.partition,
                "offset": received.offset,
                "run_id": event.run_id,
                "type": str(event.type),
                "at_ms": event.at_ms,
                "task_id": task_id if task is None else task.task_id,
                "attempt": None if task is None else task.attempt,
                "build_id": None if task is None else task.build_id or None,
                "message": event.message,
                "cause_partition": None if cause is None else cause.partition,
                "cause_offset": None if cause is None else cause.offset,
                "command": None if command is None else json.dumps(asdict(command)),
                "ask": None if ask is None else json.dumps(asdict(ask)),
                "signal": _named(event.signal),
            }
        )

    def add_journal(self, key: str, journal: CoordinatorJournal) -> None:
        """Take one record of the coordinator's journal: what events that are gone had said."""
        body, run_id = journal.body, key.split("/", 2)[1]
        if isinstance(body, ScheduleEntry):
            self._add_schedule(body.row, anew=False)
            self._add_plan(key, body.plan)
            return
        if isinstance(body, AgentPause):
            self._add_pause(body, over=False)
        elif isinstance(body, RunEntry):
            self._add_run(body.row)
            if body.plan:
                self.plans[body.row.run_id] = {"run_id": body.row.run_id, "plan": body.plan}
        elif isinstance(body, TaskEntry):
            self._add_task(run_id, body.row)
        elif isinstance(body, PlanRevision):
            self._add_change(run_id, body)
        elif isinstance(body, AskEntry):
            self._put_ask(run_id, body.row(), AskState.OPEN, _ASK_IN_JOURNAL)
        elif isinstance(body, SignalEntry):
            version = _SIGNAL_TAKEN - 1 if body.taken else _SIGNAL_KEPT_IN_JOURNAL
            state = SignalState.TAKEN if body.taken else SignalState.KEPT
            self._put_signal(_signal(run_id, body.signal, state, version, body.received_ms))

    def drop_journal(self, key: str) -> None:
        """Take a tombstone of the coordinator's journal."""
        kind, run_id, *rest = key.split("/")
        if kind == "schedule":
            if not rest:
                self.schedules.pop(run_id, None)
                self.recreated.add(run_id)
            return
        if kind == "agent":
            self.pauses[run_id, "/".join(rest)] = None
        elif len(rest) == 2 and rest[0] == "ask":
            self.asks.pop((run_id, rest[1]), None)
            self.gone_asks.add((run_id, rest[1]))

    def add_dead_letter(self, letter: DeadLetter) -> None:
        """Take one record of `dead-letters`."""
        self.dead_letters[letter.dead_letter_id] = {
            "dead_letter_id": letter.dead_letter_id,
            "reason": str(letter.reason),
            "failure": _failure(letter.failure),
            "run_id": letter.run_id,
            "task_id": letter.task_id,
            "agent": letter.agent,
            "task": letter.task,
            "attempt": letter.attempt,
            **_payload("input", letter.input),
            "source": None if letter.source is None else json.dumps(_source(letter.source)),
            "at_ms": letter.at_ms,
        }

    def add_manifest(self, key: bytes, manifest: Manifest | None) -> None:
        """Take one record of `agents`; None: the instance has left."""
        if manifest is None:
            self.agents[key] = None
            return
        self.agents[key] = {
            "record_key": key,
            "agent": manifest.agent,
            "instance": manifest.instance,
            "process_id": manifest.process_id,
            "agent_version": manifest.agent_version,
            "build_id": manifest.build_id,
            "tasks": json.dumps([asdict(task) for task in manifest.tasks]),
            "concurrency": manifest.concurrency,
            "started_ms": manifest.started_ms,
            "seen_ms": manifest.seen_ms,
            "breakers": json.dumps([asdict(breaker) for breaker in manifest.breakers]),
        }

    def _add_pause(self, pause: AgentPause, *, over: bool) -> None:
        name = pause_name(pause.order_key)
        self.pauses[pause.agent, name] = None if over else pause_columns(name, pause)

    def _add_schedule(self, row: ScheduleRow, *, anew: bool) -> None:
        if anew:
            self.schedules.pop(row.name, None)
            self.recreated.add(row.name)
        known = self.schedules.get(row.name)
        if known is None or known["version"] < row.version:
            self.schedules[row.name] = schedule_columns(row)

    def _add_plan(self, run_id: str, plan: str) -> None:
        self.plans[run_id] = {"run_id": run_id, "plan": plan}
        self.replanned.add(run_id)
        for key in [key for key in self.plan_changes if key[0] == run_id]:
            del self.plan_changes[key]

    def _add_change(self, run_id: str, revision: PlanRevision) -> None:
        if revision.version == 1:
            self.plans[run_id] = {"run_id": run_id, "plan": revision.change}
            return
        self.plan_changes[run_id, revision.version] = {"run_id": run_id, **asdict(revision)}

    def _add_run(self, row: RunRow) -> None:
        known = self.runs.get(row.run_id)
        if known is None or known["version"] < row.version:
            self.runs[row.run_id] = _run(row)

    def _add_task(self, run_id: str, row: TaskRow) -> None:
        known = self.tasks.get((run_id, row.task_id))
        if known is None or known["version"] < row.version:
            self.tasks[run_id, row.task_id] = _task(run_id, row)

    def _add_ask(self, event: Event, row: AskRow, state: AskState, version: int) -> None:
        ended_ms = None if state is AskState.OPEN else event.at_ms
        known = self._put_ask(event.run_id, row, state, version)
        known["ended_ms"], known["message"] = ended_ms, event.message

    def _put_ask(self, run_id: str, row: AskRow, state: AskState, version: int) -> Row:
        """Set an ask as it is told now: of one run all is told in its order."""
        self.asks[run_id, row.ask_id] = known = {
            "run_id": run_id,
            "ask_id": row.ask_id,
            "version": version,
            "state": state.value,
            **asdict(row),
            "kind": row.kind.value,
            "ended_ms": None,
            "message": "",
        }
        return known

    def _add_signal(self, received: Received, event: Event, signal: Signal) -> None:
        state = _SIGNALS.get(event.type)
        if state is None:  # repeated: what became of it was said before
            return
        taken = state is SignalState.TAKEN
        version = _SIGNAL_TAKEN if taken else received.offset
        row = _signal(event.run_id, signal, state, version, event.at_ms)
        row["message"] = "" if taken else event.message
        row["task_id"] = None if event.ask is None else event.ask.task_id
        self._put_signal(row)

    def _put_signal(self, row: Row) -> None:
        place = row["run_id"], row["signal_key"]
        known = self.signals.get(place)
        if known is None or known["version"] < row["version"]:
            self.signals[place] = row


def _signal(run_id: str, signal: Signal, state: SignalState, version: int, at_ms: int) -> Row:
    return {
        "run_id": run_id,
        "signal_key": hashlib.sha256(signal.signal_id.encode()).hexdigest()[:32],
        "version": version,
        "state": state.value,
        "signal_id": signal.signal_id,
        "signal": signal.signal,
        **_payload("payload", signal.payload),
        "actor": signal.actor,
        "task_id": None,
        "at_ms": at_ms,
        "message": "",
    }


def _named(signal: Signal | None) -> str | None:
    if signal is None:
        return None
    named = {"signal_id": signal.signal_id, "signal": signal.signal, "actor": signal.actor}
    return json.dumps(named)


def _run(row: RunRow) -> Row:
    return {
        "run_id": row.run_id,
        "version": row.version,
        "plan_name": row.plan_name,
        "state": row.state.value,
        **_payload("input", row.input),
        **_payload("output", row.output),
        "failure": _failure(row.failure),
        "order_key": row.order_key,
        "origin": row.origin,
        "submitted_by": row.submitted_by,
        "input_hash": row.input_hash,
        "created_ms": row.created_ms,
        "deadline_ms": row.deadline_ms,
        "finished_ms": row.finished_ms,
        "plan_version": row.plan_version,
        "successor": row.successor,
        "predecessor": row.predecessor,
        "start_ms": row.start_ms,
    }


def _task(run_id: str, row: TaskRow) -> Row:
    error = None if row.failure is None else row.failure.error_class or str(row.failure.kind)
    return {
        "run_id": run_id,
        "task_id": row.task_id,
        "version": row.version,
        "agent": row.agent,
        "task": row.task,
        "state": row.state.value,
        "attempt": row.attempt,
        **_payload("input", row.input),
        **_payload("output", row.output),
        "failure": _failure(row.failure),
        "steps": json.dumps([asdict(step) for step in row.steps]) if row.steps else "[]",
        "resumes": row.resumes,
        "instance": row.instance,
        "build_id": row.build_id,
        "order_key": row.order_key,
        "dispatched_ms": row.dispatched_ms,
        "started_ms": row.started_ms,
        "finished_ms": row.finished_ms,
        "retry_ms": row.retry_ms,
        "total": row.total,
        "done": row.done,
        "failed": row.failed,
        "child": row.child,
        "ruling": None if row.ruling is None else json.dumps(asdict(row.ruling)),
        "error": error,
        "error_name": None if error is None else error.rpartition(".")[2],
    }


def _payload(name: str, payload: Payload) -> Row:
    blob = payload if isinstance(payload, BlobReference) else None
    return {
        name: None if blob is not None else payload,
        f"{name}_blob": None if blob is None else blob.name,
        f"{name}_blob_bytes": None if blob is None else blob.size_bytes,
    }


def _failure(failure: Failure | None) -> str | None:
    return None if failure is None else json.dumps(asdict(failure))


def _source(source: SourceRecord) -> Row:
    return {
        "topic": source.topic,
        "partition": source.partition,
        "offset": source.offset,
        "key": _base64(source.key),
        "value": _base64(source.value),
        "headers": [
            {"name": header.name, "value": _base64(header.value)} for header in source.headers
        ],
        "sha256": source.sha256,
    }


def _base64(data: bytes | None) -> str | None:
    return None if data is None else base64.b64encode(data).decode()
