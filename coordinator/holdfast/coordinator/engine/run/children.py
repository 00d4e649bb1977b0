"""Runs that a handler starts: submitted by its own run, which hears of their end."""

from __future__ import annotations

import hashlib
import json

from holdfast.coordinator.engine.effects import Tell
from holdfast.coordinator.engine.inputs import Arrival
from holdfast.coordinator.engine.run.failing import failure_of
from holdfast.coordinator.engine.run.transition import Transition
from holdfast.schemas.errors import HoldfastError
from holdfast.schemas.records import (
    Ask,
    AskEntry,
    ChildEnded,
    Command,
    CommandAction,
    CoordinatorEnvelope,
    Failure,
    FailureKind,
    Parent,
    Payload,
    RunAsk,
    Submission,
)
from holdfast.schemas.resolution import ResolvedPlan, render_order_key

__all__ = ["cancel", "child_id", "plan_name", "start", "tell_parent"]

_PREFIX_CHARS_MAX = 100
"""Of the asking run's id, in the id of a child: ids have at most 128 characters."""


def child_id(run_id: str, ask: Ask) -> str:
    """Return the id of the run that an ask starts, where it names none."""
    parts = f"{run_id}\x00{ask.task_id}\x00{ask.name}\x00{ask.key}".encode()
    return f"{run_id[:_PREFIX_CHARS_MAX]}.{hashlib.sha256(parts).hexdigest()[:16]}"


def plan_name(what: RunAsk) -> str:
    """Return the name of the plan that is asked for; "" where it cannot be read."""
    try:
        name = json.loads(what.plan)["name"]
    except (ValueError, LookupError, TypeError):
        return ""
    return name if isinstance(name, str) else ""


def start(t: Transition, arrival: Arrival, entry: AskEntry, what: RunAsk) -> Failure | None:
    """Submit the run that a handler asks for; return why it cannot be."""
    resolved, ask, row = arrival.resolved, entry.ask, t.run.row
    assert isinstance(resolved, ResolvedPlan), "the service has resolved it"
    try:
        document = t.scope.values.document(what.input)
        order_key = render_order_key(resolved.plan.order_key, {"input": document})
    except HoldfastError as error:
        return failure_of(FailureKind.SCHEMA, f"the run cannot be started: {error}")
    plan = resolved.to_json()
    run_id = what.run_id or child_id(t.run_id, ask)
    parent = Parent(t.run_id, t.run.reply_key, ask.task_id, ask.name, ask.key)
    submission = Submission(
        plan=plan,
        input=what.input,
        input_hash=_hash(what),
        # Effects keep their idempotency keys where this run is forked, so those of a child do.
        origin=what.run_id or child_id(row.origin, ask),
        submitted_by=f"{t.run_id}/{ask.task_id}",
        order_key=order_key,
        parent=None if what.detached else parent,
        deadline_ms=None if what.detached else row.deadline_ms,
    )
    entry.child = run_id
    entry.child_key = order_key or run_id
    t.tell(entry.child_key, run_id, submission)
    return None


def _hash(what: RunAsk) -> str:
    digest = hashlib.sha256(what.plan.encode() + b"\0")
    digest.update(what.input if isinstance(what.input, bytes) else repr(what.input).encode())
    return digest.hexdigest()


def cancel(t: Transition, entry: AskEntry) -> None:
    """Nobody waits for a child any more: let it end."""
    if entry.child is None or entry.child_key is None:
        return
    command = Command(
        command_id=f"{t.run_id}/{entry.child}",
        action=CommandAction.CANCEL,
        task_id=None,
        arguments="{}",
        actor=f"run {t.run_id}",
        reason=f"task {entry.ask.task_id!r} of run {t.run_id!r} does not wait for it any more",
    )
    t.tell(entry.child_key, entry.child, command)


def tell_parent(
    parent: Parent, child: str, output: Payload, failure: Failure | None, now_ms: int
) -> Tell:
    """Return the word to the run that asked for `child`."""
    body = ChildEnded(child, parent.task_id, parent.name, parent.key, output, failure)
    return Tell(parent.reply_key, CoordinatorEnvelope(parent.run_id, now_ms, body))
