"""Compensation: before a run ends badly, what had succeeded is undone, the last success first.

Each success of a task that can be undone is noted under `undo/<n>`, with what its compensating task
is to get: it is made then, while all that it reads is there (a map's items go, and so do a loop's
rounds). These notes are a stack. Once all that was open has ended, the run is COMPENSATING: the top
of the stack becomes the task `!<task id>` of the run, the next one when that has ended. Items of a
map are undone in a window, as they were worked. See docs/adr/0016.

What cannot be undone is DEAD, whatever the plan says of dead letters, and holds up all below it:
for they were the ground that it stood on.
"""

from __future__ import annotations

from collections.abc import Collection

from holdfast.coordinator.engine.graph import Node
from holdfast.coordinator.engine.run.dispatch import dispatch, encode_input
from holdfast.coordinator.engine.run.failing import failure_of, give_up
from holdfast.coordinator.engine.run.rows import new_task
from holdfast.coordinator.engine.run.transition import Transition
from holdfast.coordinator.engine.state import UNDO, UNDOING
from holdfast.coordinator.engine.states import OPEN_TASK_STATES
from holdfast.coordinator.engine.templates import MappingFailed
from holdfast.schemas.records import (
    Command,
    CommandAction,
    EventType,
    FailureKind,
    Payload,
    RunState,
    TaskEntry,
    TaskState,
    UndoEntry,
)

__all__ = [
    "IN_HAND",
    "begin_undoing",
    "go_on_undoing",
    "left_to_undo",
    "note_success",
    "undo_problem",
    "wants_undoing",
]

_UNDO_RECORDS = 4
"""The most that handing out one takes: its note's removal, and three records of its own."""
IN_HAND = (*OPEN_TASK_STATES, TaskState.DEAD)
"""States of a task `!<id>` that is not over: at work, or stuck."""


def note_success(t: Transition, entry: TaskEntry, output: Payload) -> None:
    """Keep what it takes to undo a task that has succeeded; `entry`: as it was before, with its
    input."""
    node = t.node_of(entry.row.task_id)
    if node.undo is None:
        return
    number = t.overlay.count(UNDO, "") + 1
    try:
        payload, problem = _input(t, node.undo, entry, output), ""
    except MappingFailed as error:
        payload, problem = None, str(error)
    noted = UndoEntry(entry.row.task_id, payload, entry.row.order_key, problem)
    t.overlay.put(f"{UNDO}{number}", noted)


def _input(t: Transition, undo: Node, entry: TaskEntry, output: Payload) -> Payload:
    task_id, wanted = entry.row.task_id, undo.input.bound
    bound = {}
    if "output" in wanted:
        bound["output"] = t.readable(f"the output of task {task_id!r}", output)
    if "given" in wanted:
        given = entry.row.input
        if given is None and "." in task_id:
            given = t.item_input(task_id)
        bound["given"] = t.readable(f"the input of task {task_id!r}", given)
    return encode_input(t, undo, t.document(undo.input, bound))


def wants_undoing(t: Transition) -> bool:
    """Whether something is to be undone before the run ends as it was decided to."""
    run, on = t.run, t.graph.compensate_on
    if not t.overlay.count(UNDO, ""):
        return False
    if run.row.state is RunState.CANCELLING:
        return run.undoes if run.undoes is not None else on in ("cancel", "both")
    return on in ("failure", "both")


def begin_undoing(t: Transition) -> None:
    """All that was open has ended: undo what had succeeded."""
    cancelled = t.run.row.state is RunState.CANCELLING
    entry = t.move_run(RunState.COMPENSATING)
    entry.timer_ms = None  # no deadline cuts it off
    if cancelled:
        entry.undoes = True  # so it is known how the run ends
    count = t.overlay.count(UNDO, "")
    what = f"{count} successes are" if entry.undo_from is None else f"{entry.undo_from!r} is"
    t.emit_run(EventType.RUN_COMPENSATING, f"{what} undone, the last one first")


def go_on_undoing(t: Transition) -> None:
    """Hand out what is to be undone next; what does not fit is left for the next event."""
    wanted = _undone_from(t, t.run.undo_from)
    while number := t.overlay.count(UNDO, ""):
        name = f"{UNDO}{number}"
        noted = t.overlay.get(name)
        assert isinstance(noted, UndoEntry), f"{t.run_id}/{name} is a note"
        node_id = noted.task_id.partition(".")[0]
        is_wanted = wanted is None or node_id in wanted
        node = t.graph.nodes[node_id].undo
        assert node is not None, f"{t.run_id}/{noted.task_id} can be undone"
        if is_wanted and not _has_turn(t, node, noted):
            return
        if t.room() < _UNDO_RECORDS + t.scope.limits.reserve:
            t.more = True
            return
        t.overlay.put(name, None)
        if is_wanted:
            _hand_out(t, node, noted)


def left_to_undo(t: Transition) -> bool:
    """Whether something is still to be undone, is being undone, or stuck."""
    return t.overlay.count(UNDO, "") > 0 or t.count_all(IN_HAND) > 0


def undo_problem(command: Command, entry: TaskEntry) -> str | None:
    """Return why what undoes another task cannot be tried again now, or given up; or None."""
    if entry.row.attempt or command.action is CommandAction.DISCARD:
        return None
    return (
        f"{entry.row.task_id!r} cannot be tried again: its input could not be made when that which"
        " it undoes succeeded, and would not be now; undo it by hand, and discard this"
    )


def _undone_from(t: Transition, task_id: str | None) -> Collection[str] | None:
    """Return a task and all that came of it; None: whatever was done."""
    if task_id is None:
        return None
    nodes = t.graph.nodes
    found, rest = {task_id}, [task_id]
    while rest:
        for name in nodes[rest.pop()].dependants:
            if name not in found:
                found.add(name)
                rest.append(name)
    return found


def _has_turn(t: Transition, node: Node, noted: UndoEntry) -> bool:
    """Whether all that succeeded later is undone; items of one map may be undone side by side."""
    at_work = t.count(IN_HAND, UNDOING)
    if "." not in noted.task_id:
        return at_work == 0
    of_map = t.count(IN_HAND, node.id)
    return at_work == of_map < node.max_parallel


def _hand_out(t: Transition, node: Node, noted: UndoEntry) -> None:
    task = new_task(node.agent, node.task, f"{UNDOING}{noted.task_id}")
    task.row.input = noted.input
    # In the same order as what it undoes: so it has that one's keyed state to itself.
    task.row.order_key = noted.order_key
    if noted.problem:
        give_up(t, node, task, failure_of(FailureKind.SCHEMA, noted.problem))
    else:
        dispatch(t, node, task, noted.input)
