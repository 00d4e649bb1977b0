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

from collections.abc import Collection, Iterator

from holdfast.coordinator.engine.counting import (
    DUE,
    UNDO,
    UNDO_OF,
    UNDOING,
)
from holdfast.coordinator.engine.graph import Node, call_node
from holdfast.coordinator.engine.inputs import Arrival
from holdfast.coordinator.engine.run.dispatch import dispatch, encode_input
from holdfast.coordinator.engine.run.failing import failure_of, give_up, mark_steps
from holdfast.coordinator.engine.run.rows import new_task
from holdfast.coordinator.engine.run.transition import Transition
from holdfast.coordinator.engine.states import OPEN_TASK_STATES, TASK_ENDS
from holdfast.coordinator.engine.templates import MappingFailed
from holdfast.schemas.errors import Undecodable, Unencodable
from holdfast.schemas.ids import OwnSchema
from holdfast.schemas.plan_settings import step_undoing_id
from holdfast.schemas.records import (
    Ask,
    CallSpec,
    Command,
    CommandAction,
    EventType,
    FailureKind,
    Payload,
    RetryPolicy,
    RunState,
    TaskEntry,
    TaskState,
    UndoAsk,
    UndoEntry,
)
from holdfast.schemas.resolution import ResolvedTask

__all__ = [
    "IN_HAND",
    "begin_undoing",
    "go_on_due",
    "go_on_undoing",
    "is_undoing",
    "left_to_undo",
    "note_step",
    "note_success",
    "undo_problem",
    "wants_undoing",
]

_VOID = UndoEntry("", None, None, "")
"""What stands where something could be undone, and is not to be any more."""
_NOTHING = ""
"""From where on to undo, when there is nothing to."""
_UNDO_RECORDS = 4
"""The most that handing out one takes: its note's removal, and three records of its own."""
IN_HAND = (*OPEN_TASK_STATES, TaskState.DEAD)
"""States of a task `!<id>` that is not over: at work, or stuck."""


def note_success(t: Transition, entry: TaskEntry, output: Payload, *, whole: bool = True) -> None:
    """Keep what it takes to undo a task that has succeeded; `entry`: as it was before, with its
    input. `whole`: that undoes its steps too."""
    node = t.node_of(entry.row.task_id)
    if node.undo is None or (node.has_parts and entry.row.task_id == node.id):
        return  # of what is worked in parts, each part is undone
    if whole:
        for name, _ in _steps_of(t, entry.row.task_id):
            t.overlay.put(name, _VOID)
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


def note_step(t: Transition, arrival: Arrival, ask: Ask, what: UndoAsk) -> None:
    """Keep what it takes to undo a step of a handler; also one whose attempt is over by now."""
    owner, resolved, root = ask.task_id, arrival.resolved, _root(t, ask.task_id)
    payload, problem = None, arrival.problem or ""
    if root.startswith(UNDOING):
        t.emit_note(EventType.RESULT_IGNORED, f"step {ask.name!r}: what undoes is not undone")
        return
    if not problem:
        assert isinstance(resolved, ResolvedTask), "the service has looked it up"
        try:
            document = t.scope.values.document(what.input)
            data = t.scope.values.encode(resolved.input_schema_id, document)
            payload = t.scope.values.payload(t.run_id, data)
        except (Undecodable, Unencodable) as error:
            problem = f"the input of {what.agent}.{what.task} does not fit: {error}"
    task = t.task(owner)
    noted = UndoEntry(root, payload, None, problem, owner=owner)
    noted.spec = _spec(ask, resolved if isinstance(resolved, ResolvedTask) else None)
    noted.agent, noted.task = what.agent, what.task
    noted.order_key = None if task is None else task.row.order_key
    number = t.overlay.count(UNDO, "") + 1
    # A task that was restarted does the same step again: to undo it once undoes both.
    same = (name for name, known in _steps_of(t, owner) if _undo_id(known) == _undo_id(noted))
    t.overlay.put(next(same, f"{UNDO}{number}"), noted)
    if task is None or task.row.state in TASK_ENDS:
        told = f"step {ask.name!r} of {owner!r} came after its task had ended: it is undone"
        t.emit_note(EventType.RESULT_IGNORED, arrival.problem or told)
        mark_steps(t, owner)
    else:
        told = f"step {ask.name!r} is done; {what.agent}.{what.task} would undo it"
        t.emit_task(EventType.TASK_PROGRESSED, task.row, arrival.problem or told)


def _spec(ask: Ask, resolved: ResolvedTask | None) -> CallSpec:
    return CallSpec(
        caller=ask.task_id,
        name=ask.name,
        key=ask.key,
        input_schema_id=OwnSchema.Json if resolved is None else resolved.input_schema_id,
        retry=RetryPolicy() if resolved is None else resolved.retry,
        timeout_ms=None if resolved is None else resolved.timeout_ms,
        queue_timeout_ms=None if resolved is None else resolved.queue_timeout_ms,
        progress_timeout_ms=None if resolved is None else resolved.progress_timeout_ms,
    )


def _root(t: Transition, task_id: str) -> str:
    """Return the task of the plan for which a task is worked that a handler may have called, or
    what undoes one."""
    task = t.task(task_id)
    while task is not None and task.call is not None and not task_id.startswith(UNDOING):
        task_id = task.call.caller
        task = t.task(task_id)
    return task_id


def _undo_id(noted: UndoEntry) -> str:
    """Return the id of the task that undoes a success, or a step."""
    spec = noted.spec
    if spec is None:
        return f"{UNDOING}{noted.task_id}"
    return step_undoing_id(spec.caller, spec.name, spec.key)


def _steps_of(t: Transition, owner: str) -> list[tuple[str, UndoEntry]]:
    """Return the notes of the steps of a task, the newest first."""
    if not t.overlay.count(UNDO_OF, owner):
        return []
    return [(name, noted) for name, noted in _notes(t) if noted.owner == owner and noted.task_id]


def _notes(t: Transition) -> Iterator[tuple[str, UndoEntry]]:
    for number in range(t.overlay.count(UNDO, ""), 0, -1):
        name = f"{UNDO}{number}"
        noted = t.overlay.get(name)
        assert isinstance(noted, UndoEntry), f"{t.run_id}/{name} is a note"
        yield name, noted


def wants_undoing(t: Transition) -> bool:
    """Whether something is to be undone before the run ends as it was decided to."""
    if not t.overlay.count(UNDO, ""):
        return False
    run, on = t.run, t.graph.compensate_on
    if run.row.state is RunState.CANCELLING:
        return run.undoes if run.undoes is not None else on in ("cancel", "both")
    return on in ("failure", "both")


def begin_undoing(t: Transition, *, wanted: bool = True) -> None:
    """All that was open has ended: undo what had succeeded, if that is wanted; what is being undone
    already is waited for in any case."""
    cancelled = t.run.row.state is RunState.CANCELLING
    entry = t.move_run(RunState.COMPENSATING)
    entry.timer_ms = None  # no deadline cuts it off
    if cancelled:
        entry.undoes = True  # so it is known how the run ends
    if not wanted:
        entry.undo_from = _NOTHING
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
        is_wanted = bool(node_id) and (wanted is None or node_id in wanted)
        if is_wanted and not _has_turn(t, noted):
            return
        if t.room() < _UNDO_RECORDS + t.scope.limits.reserve:
            t.more = True
            return
        t.overlay.put(name, None)
        if is_wanted:
            _hand_out(t, noted)


def go_on_due(t: Transition) -> None:
    """In a run that goes on: undo the steps of tasks that have not succeeded, the last one first.

    For each such task one after the other; what does not fit is left for the next event.
    """
    if not t.overlay.count(UNDO, DUE) or not t.starting:
        return
    for name, mark in list(_notes(t)):
        if not mark.due or t.count(IN_HAND, f"{UNDOING}{mark.owner}"):
            continue
        if t.room() < _UNDO_RECORDS + t.scope.limits.reserve:
            t.more = True
            return
        left = _steps_of(t, mark.owner)
        if not left:
            t.overlay.put(name, _VOID)
        else:
            t.overlay.put(left[0][0], _VOID)
            _hand_out(t, left[0][1])


def is_undoing(t: Transition) -> bool:
    """Whether, while the run goes on, steps are to be undone, are being undone, or are stuck."""
    return t.overlay.count(UNDO, DUE) > 0 or t.count(IN_HAND, UNDOING) > 0


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
    if task_id == _NOTHING:
        return ()
    nodes = t.graph.nodes
    found, rest = {task_id}, [task_id]
    while rest:
        for name in nodes[rest.pop()].dependants:
            if name not in found:
                found.add(name)
                rest.append(name)
    return found


def _has_turn(t: Transition, noted: UndoEntry) -> bool:
    """Whether all that succeeded later is undone; items of one map may be undone side by side."""
    at_work = t.count(IN_HAND, UNDOING)
    if "." not in noted.task_id or noted.spec is not None:
        return at_work == 0
    node = _node(t, noted)
    of_map = t.count(IN_HAND, node.id)
    return at_work == of_map < node.max_parallel


def _node(t: Transition, noted: UndoEntry) -> Node:
    """Return what the plan says of undoing a task."""
    node = t.graph.nodes[noted.task_id.partition(".")[0]].undo
    assert node is not None, f"{t.run_id}/{noted.task_id} can be undone"
    return node


def _hand_out(t: Transition, noted: UndoEntry) -> None:
    if noted.spec is None:
        node = _node(t, noted)
        task = new_task(node.agent, node.task, _undo_id(noted))
    else:
        task = new_task(noted.agent, noted.task, _undo_id(noted))
        task.call = noted.spec
        node = call_node(task)
    task.row.input = noted.input
    # In the same order as what it undoes: so it has that one's keyed state to itself.
    task.row.order_key = noted.order_key
    if noted.problem:
        give_up(t, node, task, failure_of(FailureKind.SCHEMA, noted.problem))
    else:
        dispatch(t, node, task, noted.input)
