"""Runs that a handler starts: submitted by its own run, which hears of their end."""

from __future__ import annotations

import hashlib

from holdfast.coordinator.engine.effects import Tell
from holdfast.coordinator.engine.inputs import Arrival
from holdfast.coordinator.engine.run.failing import failure_of
from holdfast.coordinator.engine.run.transition import Transition
from holdfast.schemas.command_arguments import CancelArguments
from holdfast.schemas.errors import HoldfastError
from holdfast.schemas.records import (
    AskEntry,
    ChildEnded,
    Command,
    CommandAction,
    CoordinatorEnvelope,
    Failure,
    FailureKind,
    Outcome,
    Parent,
    Payload,
    RunAsk,
    RunState,
    Submission,
)
from holdfast.schemas.resolution import ResolvedPlan, render_order_key
from holdfast.schemas.run_ids import check_run_id
from holdfast.schemas.schedules import SCHEDULE_PREFIX

__all__ = [
    "SUCCESSOR_MARK",
    "cancel",
    "cancel_child",
    "child_id",
    "known_to",
    "plan_hash",
    "start",
    "tell_parent",
]

_OUTCOMES = {
    RunState.SUCCEEDED: Outcome.SUCCEEDED,
    RunState.FAILED: Outcome.FAILED,
    RunState.CANCELLED: Outcome.CANCELLED,
}
SUCCESSOR_MARK = "~"
"""What stands, in the id of a run that continues another, between that one's id and a number."""
_PREFIX_CHARS_MAX = 100
"""Of the asking run's id, in the id of a child: ids have at most 128 characters."""


def child_id(run_id: str, task_id: str, name: str, key: str) -> str:
    """Return the id of the run that an ask starts, where it names none.

    That of a plan within the plan has the empty name, which no step has.
    """
    parts = f"{run_id}\x00{task_id}\x00{name}\x00{key}".encode()
    prefix = run_id[:_PREFIX_CHARS_MAX].replace(SUCCESSOR_MARK, "-")
    return f"{prefix}.{hashlib.sha256(parts).hexdigest()[:16]}"


def start(t: Transition, arrival: Arrival, entry: AskEntry, what: RunAsk) -> Failure | None:
    """Submit the run that a handler asks for; return why it cannot be."""
    resolved, ask, row = arrival.resolved, entry.ask, t.run.row
    assert isinstance(resolved, ResolvedPlan), "the service has resolved it"
    try:
        if what.run_id is not None:
            check_run_id(what.run_id)
        document = t.scope.values.document(what.input)
        order_key = render_order_key(resolved.plan.order_key, {"input": document})
    except HoldfastError as error:
        return failure_of(FailureKind.SCHEMA, f"the run cannot be started: {error}")
    plan = resolved.to_json()
    task = t.task(ask.task_id)
    again = f"\x00{task.journal_from}" if task is not None and task.journal_from else ""
    # A restarted task starts a run of its own once more; the origin below stays the same.
    run_id = what.run_id or child_id(t.run_id, ask.task_id, ask.name, ask.key + again)
    parent = Parent(t.run_id, t.run.reply_key, ask.task_id, ask.name, ask.key)
    submission = Submission(
        plan=plan,
        input=what.input,
        input_hash=plan_hash(what.plan, what.input),
        # Effects keep their idempotency keys where this run is forked, so those of a child do.
        origin=what.run_id or child_id(row.origin, ask.task_id, ask.name, ask.key),
        submitted_by=f"{t.run_id}/{ask.task_id}",
        order_key=order_key,
        parent=None if what.detached else parent,
        # What undoes is not cut off by a deadline that has passed.
        deadline_ms=None if what.detached or t.compensating else row.deadline_ms,
    )
    entry.child = run_id
    entry.child_key = order_key or run_id
    t.tell(entry.child_key, run_id, submission)
    return None


def plan_hash(plan: str, run_input: Payload) -> str:
    """Return the hash over plan and input of a run that another run submits."""
    digest = hashlib.sha256(plan.encode() + b"\0")
    digest.update(run_input if isinstance(run_input, bytes) else repr(run_input).encode())
    return digest.hexdigest()


def cancel(t: Transition, entry: AskEntry) -> None:
    """Nobody waits for a child any more: let it end."""
    if entry.child is not None and entry.child_key is not None:
        cancel_child(t, entry.ask.task_id, entry.child, entry.child_key)


def cancel_child(t: Transition, task_id: str, child: str, child_key: str) -> None:
    """Tell a run that `task_id` does not wait for it any more."""
    command = Command(
        command_id=f"{t.run_id}/{child}",
        action=CommandAction.CANCEL,
        task_id=None,
        # What was said of compensation holds for all of the tree.
        arguments=CancelArguments(compensate=t.run.undoes).to_json(),
        actor=f"run {t.run_id}",
        reason=f"task {task_id!r} of run {t.run_id!r} does not wait for it any more",
    )
    t.tell(child_key, child, command)


def tell_parent(
    parent: Parent,
    child: str,
    output: Payload,
    failure: Failure | None,
    now_ms: int,
    state: RunState | None = None,
) -> Tell:
    """Return the word to the run or schedule that asked for `child`; `state` None: refused."""
    if parent.run_id.startswith(SCHEDULE_PREFIX):
        output = None  # a schedule asks how its runs end, not what they give
    body = ChildEnded(
        known_to(parent, child), parent.task_id, parent.name, parent.key, output, failure
    )
    body.outcome = None if state is None else _OUTCOMES.get(state)
    return Tell(parent.reply_key, CoordinatorEnvelope(parent.run_id, now_ms, body))


def known_to(parent: Parent, child: str) -> str:
    """Return the id under which `parent` knows a run: a schedule by the first id of a row."""
    if parent.run_id.startswith(SCHEDULE_PREFIX):
        return child.partition(SUCCESSOR_MARK)[0]
    return child
