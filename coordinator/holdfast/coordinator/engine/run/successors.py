"""Continue as new: a run that has succeeded is followed by another of the same plan.

The successor is submitted in the commit that closes its predecessor, under `<base>~<n>`; nothing of
the predecessor stays but its marker, which knows the way on. Who waits for the end of a run that
another one started waits for that of the last in the row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from holdfast.coordinator.engine.effects import Tell
from holdfast.coordinator.engine.run.children import SUCCESSOR_MARK, known_to, plan_hash
from holdfast.coordinator.engine.run.transition import Transition
from holdfast.coordinator.engine.templates import Template
from holdfast.schemas.codec import encode_json
from holdfast.schemas.records import (
    ChildEnded,
    Command,
    CommandAction,
    CoordinatorEnvelope,
    EventType,
    Marker,
    Payload,
    RunEntry,
    Submission,
)
from holdfast.schemas.resolution import render_order_key

__all__ = ["Successor", "find_successor", "next_id", "pass_on", "submit_successor"]


@dataclass(frozen=True, slots=True)
class Successor:
    """The run that follows. `key`: of its records on the coordinator's topic."""

    run_id: str
    key: str
    submission: Submission


def next_id(run_id: str) -> str:
    """Return the id of the run that follows: `<base>~1`, `<base>~2` ..."""
    base, _, number = run_id.partition(SUCCESSOR_MARK)
    return f"{base}{SUCCESSOR_MARK}{int(number) + 1 if number.isdecimal() else 1}"


def find_successor(t: Transition, output: Payload) -> Successor | None:
    """Return what follows the run, whose output is `output`, if anything does.

    Raises `MappingFailed`, `PlanError`, `Unencodable`; `Blocked` while something must be fetched.
    """
    after, run = t.graph.continuation, t.run
    if after is None or not after.when.make(_document(t, after.when, output)):
        return None
    value = after.input.make(_document(t, after.input, output))
    run_id = next_id(t.run_id)
    payload = t.scope.values.payload(run_id, encode_json(value))
    order_key = render_order_key(t.graph.order_key, {"input": value})
    submission = Submission(
        plan=t.plan_source,
        input=payload,
        input_hash=plan_hash(t.plan_source, payload),
        origin=next_id(run.row.origin),
        submitted_by=run.row.submitted_by,
        order_key=order_key,
        parent=run.parent,
        deadline_ms=_inherited_deadline(t),
        predecessor=t.run_id,
        source=run.source,
    )
    return Successor(run_id, order_key or run_id, submission)


def _document(t: Transition, template: Template, output: Payload) -> Any:
    bound = {}
    if "output" in template.bound:
        bound["output"] = t.readable("the run's output", output)
    return t.document(template, bound)


def _inherited_deadline(t: Transition) -> int | None:
    """Return the deadline that whoever started the run gave it; the plan's own begins anew."""
    row, own_ms = t.run.row, t.graph.deadline_ms
    began_ms = row.created_ms if row.start_ms is None else row.start_ms
    if own_ms is not None and row.deadline_ms == began_ms + own_ms:
        return None
    return row.deadline_ms


def submit_successor(t: Transition, successor: Successor) -> None:
    """Submit it, and let the run that waits for this one wait for it."""
    t.tell(successor.key, successor.run_id, successor.submission)
    parent = t.run.parent
    if parent is None:
        return
    word = ChildEnded(
        known_to(parent, t.run_id), parent.task_id, parent.name, parent.key, None, None
    )
    word.successor, word.successor_key = successor.run_id, successor.key
    envelope = CoordinatorEnvelope(parent.run_id, t.now_ms, word)
    t.effects.append(Tell(parent.reply_key, envelope))


def pass_on(t: Transition, command: Command, marker: Marker | None) -> bool:
    """Give a cancel on to the run that followed, if there is one: who gave it means them all.

    The closed run itself may still be there: to remove its records may take many events.
    """
    if command.action is not CommandAction.CANCEL:
        return False
    known = t.overlay.get("")
    closed = known.row if isinstance(known, RunEntry) else marker
    if closed is None or closed.successor is None or closed.successor_key is None:
        return False
    t.tell(closed.successor_key, closed.successor, command)
    told = f"run {t.run_id!r} goes on as {closed.successor!r}, which is told"
    t.emit_note(EventType.COMMAND_ACCEPTED, told, command)
    return True
