"""A loop: a task that is worked again until a condition holds, at most so often.

The loop's own entry counts its rounds (`next_index` have begun, `row.done` have ended); a round is
a task of its own, `<loop's id>.<round>`, from 1. Only the last one is kept: it is the next one's
`previous`, and its output is the loop's in the end. A round that fails fails the loop.
"""

from __future__ import annotations

from typing import Any

from holdfast.coordinator.engine.graph import Loop, Node
from holdfast.coordinator.engine.run.dispatch import dispatch, encode_input, order_key
from holdfast.coordinator.engine.run.failing import end_task, failure_of, give_up
from holdfast.coordinator.engine.run.rows import crowded, new_task, next_task, touch_task
from holdfast.coordinator.engine.run.transition import Transition
from holdfast.coordinator.engine.states import TASK_ENDS
from holdfast.coordinator.engine.templates import MappingFailed
from holdfast.schemas.records import EventType, Failure, FailureKind, TaskEntry, TaskState

__all__ = ["begin_loop", "go_on_loop"]

_ROUND_RECORDS = 8
"""The most that a round takes: the end of one, the start of the next, the loop's own."""


def begin_loop(t: Transition, node: Node, entry: TaskEntry) -> None:
    """Start a loop with its first round."""
    after = next_task(t.run_id, entry, TaskState.EXPANDED)
    after.row.total = _loop(node).at_most
    after.row.started_ms = t.now_ms
    t.put(after)
    t.emit_task(EventType.TASK_EXPANDED, after.row)
    go_on_loop(t, node)


def go_on_loop(t: Transition, node: Node) -> None:
    """Draw the conclusion from the round that has ended, if one has; begin the next, or end."""
    entry = t.task(node.id)
    if entry is None or entry.row.state is not TaskState.EXPANDED or t.ending:
        return
    rounds = entry.next_index
    last = t.task(f"{node.id}.{rounds}") if rounds else None
    if rounds and (last is None or last.row.state not in TASK_ENDS):
        return  # it is at work, or waits for a person
    if t.room() < _ROUND_RECORDS + t.scope.limits.reserve:
        t.more = True
        return
    if last is not None and _ended(t, node, entry, last):
        return
    if t.starting:
        _begin_round(t, node, last)


def _ended(t: Transition, node: Node, entry: TaskEntry, last: TaskEntry) -> bool:
    """End the loop if `last` was its last round."""
    rounds, loop = entry.next_index, _loop(node)
    if last.row.state is not TaskState.SUCCEEDED:
        reason = "" if last.row.failure is None else f": {last.row.failure.message}"
        kind = FailureKind.ERROR if last.row.failure is None else last.row.failure.kind
        _fail(t, entry, failure_of(kind, f"round {rounds} did not succeed{reason}"))
        return True
    try:
        holds = loop.until.make(t.document(loop.until, _bound(t, last, rounds), node=node))
    except MappingFailed as error:
        _fail(t, entry, failure_of(FailureKind.SCHEMA, f"after round {rounds}: {error}"))
        return True
    if holds or (rounds >= loop.at_most and not loop.fails_exhausted):
        _succeed(t, entry, last)
        return True
    if rounds >= loop.at_most:
        message = f"'until' did not hold after {rounds} rounds, which is all it may have"
        _fail(t, entry, failure_of(FailureKind.ERROR, message))
        return True
    return False


def _bound(t: Transition, last: TaskEntry, rounds: int) -> dict[str, Any]:
    output = t.readable(f"the output of round {rounds}", last.row.output)
    return {"output": output, "round": rounds}


def _succeed(t: Transition, entry: TaskEntry, last: TaskEntry) -> None:
    after = next_task(t.run_id, entry, TaskState.SUCCEEDED)
    after.row.done = entry.next_index
    after.row.output = last.row.output
    after.row.finished_ms = t.now_ms
    if crowded(after.row.input, after.row.output):
        after.row.input = None
    t.put(after)
    t.overlay.put(last.row.task_id, None)
    t.emit_task(EventType.TASK_SUCCEEDED, after.row)


def _fail(t: Transition, entry: TaskEntry, failure: Failure) -> None:
    counted = touch_task(entry)
    counted.row.done = entry.next_index
    end_task(t, counted, TaskState.FAILED, failure)


def _begin_round(t: Transition, node: Node, last: TaskEntry | None) -> None:
    """Begin the next round; its predecessor, whose output it has read, is forgotten."""
    entry = t.task(node.id)
    assert entry is not None, f"loop {t.run_id}/{node.id} is there"
    number = entry.next_index + 1
    after = touch_task(entry)
    after.next_index = number
    after.row.done = number - 1
    t.put(after)
    if last is not None:
        told = f"round {number - 1} of at most {after.row.total} is done"
        t.emit_task(EventType.TASK_PROGRESSED, after.row, told)
    task = new_task(node.agent, node.task, f"{node.id}.{number}")
    try:
        previous = None if last is None else t.readable("the round before", last.row.output)
        bound = {"previous": previous, "round": number}
        payload = encode_input(t, node, t.document(node.input, bound, node=node))
        task.row.order_key = order_key(t, node, payload, bound)
    except MappingFailed as error:
        give_up(t, node, task, failure_of(FailureKind.SCHEMA, f"round {number}: {error}"))
    else:
        task.row.input = payload
        dispatch(t, node, task, payload)
    if last is not None:
        t.overlay.put(last.row.task_id, None)
    begun = t.task(task.row.task_id)
    if begun is not None and begun.row.state in TASK_ENDS:
        _ended(t, node, after, begun)


def _loop(node: Node) -> Loop:
    assert node.loop is not None, f"{node.id} is no loop"
    return node.loop
