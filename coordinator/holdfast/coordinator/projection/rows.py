"""From records of the bus to rows of the tables: pure, and the only place that knows both."""

from __future__ import annotations

import base64
import json
from dataclasses import asdict, dataclass, field
from typing import Any

from holdfast.bus.port import Received
from holdfast.schemas import (
    BlobReference,
    CoordinatorJournal,
    DeadLetter,
    Event,
    Failure,
    Manifest,
    Payload,
    RunEntry,
    RunRow,
    SourceRecord,
    TaskEntry,
    TaskRow,
)

__all__ = ["Batch", "Row"]

Row = dict[str, Any]


@dataclass(slots=True)
class Batch:
    """What one transaction writes: of each key only the newest row."""

    runs: dict[str, Row] = field(default_factory=dict)
    tasks: dict[tuple[str, str], Row] = field(default_factory=dict)
    plans: dict[str, Row] = field(default_factory=dict)
    history: list[Row] = field(default_factory=list)
    dead_letters: dict[str, Row] = field(default_factory=dict)
    agents: dict[bytes, Row | None] = field(default_factory=dict)
    """By record key; None: tombstoned."""

    def add_event(self, received: Received, event: Event) -> None:
        """Take one record of `events`."""
        if event.run is not None:
            self._add_run(event.run)
        if event.task is not None:
            self._add_task(event.run_id, event.task)
        if event.plan is not None:
            self.plans[event.run_id] = {"run_id": event.run_id, "plan": event.plan}
        cause, task, command = event.cause, event.task, event.command
        self.history.append(
            {
                "partition": received.partition,
                "offset": received.offset,
                "run_id": event.run_id,
                "type": str(event.type),
                "at_ms": event.at_ms,
                "task_id": None if task is None else task.task_id,
                "attempt": None if task is None else task.attempt,
                "message": event.message,
                "cause_partition": None if cause is None else cause.partition,
                "cause_offset": None if cause is None else cause.offset,
                "command": None if command is None else json.dumps(asdict(command)),
            }
        )

    def add_journal(self, key: str, journal: CoordinatorJournal) -> None:
        """Take one record of the coordinator's journal: what events that are gone had said."""
        body = journal.body
        if isinstance(body, RunEntry):
            self._add_run(body.row)
            self.plans[body.row.run_id] = {"run_id": body.row.run_id, "plan": body.plan}
        elif isinstance(body, TaskEntry):
            self._add_task(key.split("/", 2)[1], body.row)

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
        }

    def _add_run(self, row: RunRow) -> None:
        known = self.runs.get(row.run_id)
        if known is None or known["version"] < row.version:
            self.runs[row.run_id] = _run(row)

    def _add_task(self, run_id: str, row: TaskRow) -> None:
        known = self.tasks.get((run_id, row.task_id))
        if known is None or known["version"] < row.version:
            self.tasks[run_id, row.task_id] = _task(run_id, row)


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
    }


def _task(run_id: str, row: TaskRow) -> Row:
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
        "order_key": row.order_key,
        "dispatched_ms": row.dispatched_ms,
        "started_ms": row.started_ms,
        "finished_ms": row.finished_ms,
        "retry_ms": row.retry_ms,
        "total": row.total,
        "done": row.done,
        "failed": row.failed,
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
