"""How a run ends: decided, swept, closed, forgotten.

A run that is to end badly first asks for the end of everything that is open (`sweep`), and closes
when all of it was answered, or when the grace is over; before that, what had succeeded is undone
where the plan says how (`undoing`). A closed run leaves a marker; its records
are removed at once where they fit into the event, else by continuations, its own record last.
"""

from __future__ import annotations

from holdfast.coordinator.engine.counting import UNDOING
from holdfast.coordinator.engine.graph import Node
from holdfast.coordinator.engine.run import children
from holdfast.coordinator.engine.run.arriving import answer_taken
from holdfast.coordinator.engine.run.asks import close_asks
from holdfast.coordinator.engine.run.cancelling import ask_to_cancel, cut
from holdfast.coordinator.engine.run.dropping import leaves_parts
from holdfast.coordinator.engine.run.failing import failure_of
from holdfast.coordinator.engine.run.folding import far_ahead, leaves_fold
from holdfast.coordinator.engine.run.output import run_output
from holdfast.coordinator.engine.run.rows import crowded
from holdfast.coordinator.engine.run.successors import (
    Successor,
    find_successor,
    submit_successor,
)
from holdfast.coordinator.engine.run.transition import Transition
from holdfast.coordinator.engine.run.undoing import (
    begin_undoing,
    go_on_due,
    go_on_undoing,
    is_undoing,
    left_to_undo,
    wants_undoing,
)
from holdfast.coordinator.engine.state import closed_key
from holdfast.coordinator.engine.states import OPEN_TASK_STATES, TASK_ENDS
from holdfast.coordinator.engine.templates import MappingFailed
from holdfast.schemas.errors import HoldfastError
from holdfast.schemas.records import (
    AskEntry,
    ControlAction,
    EventType,
    Failure,
    FailureKind,
    Marker,
    RunEntry,
    RunState,
    TaskEntry,
    TaskState,
)

__all__ = ["bury", "cancel_run", "close_run", "fail_run", "settle"]

_SWEEP_RECORDS = 4
"""The most that ending one task takes: event, journal, control, dead letter."""
_BURY_RECORDS = 3
"""The most that forgetting one record takes: its removal, a cancel and a release."""
_SWEPT = (
    TaskState.PENDING,
    TaskState.DISPATCHED,
    TaskState.RETRYING,
    TaskState.DEAD,
    TaskState.EXPANDED,
)


def fail_run(t: Transition, failure: Failure) -> None:
    """Decide that the run fails; the first reason stands."""
    if t.ending:
        return
    entry = t.move_run(RunState.FAILING)
    entry.row.failure = failure
    entry.timer_ms = t.now_ms + t.scope.limits.grace_ms
    t.emit_run(EventType.RUN_FAILING, failure.message)


def cancel_run(
    t: Transition, reason: str, *, undoes: bool | None = None, undo_from: str | None = None
) -> None:
    """Decide that the run is cancelled. `undoes`: whether what was done is undone (None: as the
    plan says); `undo_from`: only that task, and what came of it."""
    entry = t.move_run(RunState.CANCELLING)
    entry.undoes, entry.undo_from = undoes, undo_from
    entry.row.failure = failure_of(FailureKind.CANCELLED, reason)
    entry.timer_ms = t.now_ms + t.scope.limits.grace_ms
    t.emit_run(EventType.RUN_CANCELLING, reason)


def settle(t: Transition) -> None:
    """Draw the conclusions for the run after one of its tasks changed."""
    if not t.ending and not t.more:
        go_on_due(t)
        for name in t.graph.emitters:
            answer_taken(t, name)
        _settle_open(t)
        if t.overlay.get("") is None:
            return  # it ended well, and is forgotten
    if t.sweeping:
        _sweep(t)
        if t.more or t.count_all(OPEN_TASK_STATES):
            return
        wanted = wants_undoing(t)
        if not wanted and not is_undoing(t):
            close_run(t)
            return
        begin_undoing(t, wanted=wanted)
    if t.compensating:
        go_on_undoing(t)
        if not t.more and not left_to_undo(t):
            close_run(t)


def _settle_open(t: Transition) -> None:
    state = t.run.row.state
    # What failed by now was tolerated: else the run would be ending.
    if t.count(TASK_ENDS) == len(t.graph.nodes) and not _leaves_work(t):
        _succeed(t)
        return
    if state not in (RunState.RUNNING, RunState.WAITING):
        return
    waiting = _waits_for_people(t)
    if waiting and state is RunState.RUNNING:
        t.move_run(RunState.WAITING)
        t.emit_run(EventType.RUN_WAITING, "nothing can go on before a dead letter is dealt with")
    elif not waiting and state is RunState.WAITING:
        t.move_run(RunState.RUNNING)
        t.emit_run(EventType.RUN_RESUMED)


def _leaves_work(t: Transition) -> bool:
    """Whether something is still at work for a task that has ended without it."""
    return leaves_parts(t) or leaves_fold(t) or is_undoing(t)


def _waits_for_people(t: Transition) -> bool:
    if not t.count_all((TaskState.DEAD,)):
        return False
    if t.count_all((TaskState.DISPATCHED, TaskState.RETRYING, TaskState.CANCELLING)):
        return False
    if any(_has_items_left(t, map_id) for map_id in t.graph.maps):
        return False
    return not any(_has_run(t, node) for node in t.graph.nodes.values() if node.inner is not None)


def _has_items_left(t: Transition, map_id: str) -> bool:
    entry = t.task(map_id)
    if entry is None or entry.row.state is not TaskState.EXPANDED:
        return False
    if t.graph.nodes[map_id].over is None:
        return False  # a loop: its round says how it stands
    if far_ahead(t, t.graph.nodes[map_id], entry):
        return False  # its reducer waits for an item that somebody has to deal with
    return entry.next_index < entry.row.total


def _has_run(t: Transition, node: Node) -> bool:
    """Whether a run works a plan within the plan; that it may wait too is its own affair."""
    if node.has_parts:
        return t.count((TaskState.EXPANDED,), node.id) > 0
    entry = t.task(node.id)
    return entry is not None and entry.row.state is TaskState.EXPANDED


def _succeed(t: Transition) -> None:
    try:
        output = run_output(t)
        successor = find_successor(t, output)
    except (MappingFailed, HoldfastError) as error:
        message = f"the end of run {t.run_id!r} cannot be made: {error}"
        fail_run(t, failure_of(FailureKind.SCHEMA, message))
        return
    entry = t.move_run(RunState.SUCCEEDED)
    entry.row.output = output
    if crowded(entry.row.input, output):
        entry.row.input = None
    _finish(t, EventType.RUN_SUCCEEDED, successor)


def close_run(t: Transition) -> None:
    """End a run that was decided to end badly."""
    run = t.run
    if run.row.state is RunState.CANCELLING or (t.compensating and run.undoes is not None):
        t.move_run(RunState.CANCELLED)
        _finish(t, EventType.RUN_CANCELLED)
    else:
        t.move_run(RunState.FAILED)
        _finish(t, EventType.RUN_FAILED)


def _finish(t: Transition, kind: EventType, successor: Successor | None = None) -> None:
    entry = t.run
    marker = Marker(entry.row.input_hash, entry.row.state, t.now_ms, entry.events_from)
    if successor is not None:
        entry.row.successor = marker.successor = successor.run_id
        entry.row.successor_key = marker.successor_key = successor.key
    entry.row.finished_ms = t.now_ms
    entry.timer_ms = None
    failure = entry.row.failure
    t.emit_run(kind, "" if failure is None else failure.message)
    t.scope.lists.forget_run(t.run_id)
    t.markers[closed_key(t.run_id)] = marker
    if successor is not None:
        submit_successor(t, successor)
    elif entry.parent is not None:
        output = entry.row.output if kind is EventType.RUN_SUCCEEDED else None
        told = None if kind is EventType.RUN_SUCCEEDED else _as_told(entry)
        state = entry.row.state
        t.effects.append(
            children.tell_parent(entry.parent, t.run_id, output, told, t.now_ms, state)
        )
    if successor is None:
        t.report(entry.source, entry.row.state)
    bury(t)


def _as_told(entry: RunEntry) -> Failure:
    """Return the failure of a run as the one that asked for it hears of it."""
    failure = entry.row.failure or failure_of(FailureKind.ERROR, "it did not succeed")
    message = f"run {entry.row.run_id!r} {entry.row.state}: {failure.message}"
    return Failure(FailureKind.UPSTREAM, failure.error_class, message, failure.traceback, False)


def bury(t: Transition) -> None:
    """Remove the records of a closed run, its own last; what does not fit is left for later."""
    names = sorted(name for name in t.overlay.names() if name)
    for name in names:
        if name not in t.overlay.changes and t.room() < _BURY_RECORDS + 1:
            t.more = True
            return
        entry = t.overlay.get(name)
        if isinstance(entry, TaskEntry):
            _let_go(t, entry)
        elif isinstance(entry, AskEntry):
            children.cancel(t, entry)
        t.overlay.put(name, None)
    t.overlay.put("", None)


def _let_go(t: Transition, entry: TaskEntry) -> None:
    """A run that was ended by force may leave attempts with their agents, and runs at work."""
    row = entry.row
    if row.state is TaskState.EXPANDED and row.child is not None and entry.child_key is not None:
        children.cancel_child(t, row.task_id, row.child, entry.child_key)
    if entry.row.state is TaskState.DISPATCHED:
        t.send_control(entry.row, ControlAction.CANCEL, "the run was closed")
    if entry.row.state in (TaskState.DISPATCHED, TaskState.CANCELLING, TaskState.RETRYING):
        t.release(entry.row, "the run was closed")


def _sweep(t: Transition) -> None:
    """Ask for the end of all that is open; once the grace is over, end it without an answer."""
    timer_ms = t.run.timer_ms
    overdue = timer_ms is not None and t.now_ms >= timer_ms
    wanted = (*_SWEPT, TaskState.CANCELLING) if overdue else _SWEPT
    if not t.count_all(wanted):
        return
    for name in sorted(t.overlay.names()):
        entry = t.overlay.get(name)
        if not isinstance(entry, TaskEntry) or entry.row.state not in wanted:
            continue
        if name.startswith(UNDOING):
            continue  # that is not cut off
        if t.room() < _SWEEP_RECORDS + t.scope.limits.reserve:
            t.more = True
            return
        if entry.row.state is TaskState.DISPATCHED and not overdue:
            ask_to_cancel(t, entry, _cancel_kind(t))
        else:
            cut(t, entry, _cancel_kind(t))
            close_asks(t, name)


def _cancel_kind(t: Transition) -> FailureKind:
    failure = t.run.row.failure
    if failure is not None and failure.kind in (FailureKind.CANCELLED, FailureKind.DEADLINE):
        return failure.kind
    return FailureKind.UPSTREAM
