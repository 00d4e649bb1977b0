"""What operators do with one task: replay, discard or retry it, skip it, give it an output.

Each is checked as a whole before the first write: what is refused has changed nothing, and what is
accepted needs no second event to be true.
"""

from __future__ import annotations

from holdfast.coordinator.engine.counting import UNDOING
from holdfast.coordinator.engine.graph import Node
from holdfast.coordinator.engine.run import joins, maps
from holdfast.coordinator.engine.run.cancelling import ask_to_cancel, cut
from holdfast.coordinator.engine.run.continuing import retry
from holdfast.coordinator.engine.run.dispatch import dispatch
from holdfast.coordinator.engine.run.ending import settle
from holdfast.coordinator.engine.run.failing import end_task
from holdfast.coordinator.engine.run.folding import forget_fold
from holdfast.coordinator.engine.run.results import after_end
from holdfast.coordinator.engine.run.rows import copy_task, crowded, new_task, touch_task
from holdfast.coordinator.engine.run.ruling import told_ruling
from holdfast.coordinator.engine.run.starting import restart
from holdfast.coordinator.engine.run.transition import Transition
from holdfast.coordinator.engine.run.undoing import undo_problem
from holdfast.coordinator.engine.states import TASK_ENDS
from holdfast.schemas.codec import encode_json
from holdfast.schemas.errors import Undecodable, Unencodable, did_you_mean
from holdfast.schemas.records import (
    Command,
    CommandAction,
    EventType,
    FailureKind,
    Payload,
    Ruling,
    RulingAction,
    RunState,
    TaskEntry,
    TaskState,
)

__all__ = ["discard", "replay", "retry_task", "rule", "task_problem"]

_OPEN = (RunState.RUNNING, RunState.WAITING, RunState.PAUSED)
_RULINGS = {
    CommandAction.SKIP: RulingAction.SKIP,
    CommandAction.OVERRIDE: RulingAction.OVERRIDE,
}
_PAST = {CommandAction.SKIP: "skipped", CommandAction.OVERRIDE: "overridden"}


def task_problem(t: Transition, command: Command, state: RunState) -> str | None:
    """Return why a command about a task cannot be carried out now, or None."""
    if command.task_id is None:
        return (
            f"{command.action} needs the id of a task: see `holdfast dead-letters list` and"
            f" `holdfast run show {t.run_id}`"
        )
    if command.action in _RULINGS:
        return _ruling_problem(t, command, command.task_id, state)
    return _again_problem(t, command, command.task_id, state)


# --- again -------------------------------------------------------------------------------------


def _again_problem(t: Transition, command: Command, task_id: str, state: RunState) -> str | None:
    entry = t.task(task_id)
    if entry is None:
        return f"run {t.run_id!r} has no task {task_id!r} that was started"
    now = entry.row.state
    at_once = command.action is CommandAction.RETRY and now is TaskState.RETRYING
    if now is not TaskState.DEAD and not at_once:
        return _not_again(t, command, task_id, now)
    if task_id.startswith(UNDOING):
        problem = undo_problem(command, entry)
        if problem is not None or state is RunState.COMPENSATING:
            return problem
    if state is RunState.PAUSED and command.action is not CommandAction.DISCARD:
        return f"run {t.run_id!r} is paused: resume it first, then {command.action} {task_id!r}"
    if state not in _OPEN:
        return f"run {t.run_id!r} is {state}: its dead letters are closed with it"
    return None


def _not_again(t: Transition, command: Command, task_id: str, now: TaskState) -> str:
    if command.action is not CommandAction.RETRY:
        return (
            f"task {task_id!r} is {now}, not in the dead letters:"
            f" there is nothing to {command.action}"
        )
    if now in TASK_ENDS:
        return (
            f"task {task_id!r} is {now}: fork the run from it, `holdfast run retry {t.run_id}"
            f" {task_id} --cancel`"
        )
    return f"task {task_id!r} is {now}: it is at work, there is nothing to retry yet"


def _begun(t: Transition, command: Command) -> TaskEntry:
    entry = t.task(command.task_id or "")
    assert entry is not None, "checked before"
    return entry


def replay(t: Transition, command: Command) -> None:
    """Let a dead task go on with a new attempt, with all its retries before it."""
    entry = touch_task(_begun(t, command))
    row = entry.row
    entry.attempts_base, entry.failed_by = row.attempt, {}
    node = t.node_of(row.task_id)
    if "." in row.task_id:
        payload = row.input if row.input is not None else t.item_input(row.task_id)
        if payload is None or row.attempt == 0:
            # Its input or order key could not be made from the list, which has not changed since.
            after_end(t, node, end_task(t, entry, TaskState.FAILED, row.failure))
            return
        dispatch(t, node, entry, payload)
    elif row.attempt == 0:
        restart(t, node, entry)
    else:
        dispatch(t, node, entry, row.input)
    settle(t)


def discard(t: Transition, command: Command) -> None:
    """Give a dead task up."""
    entry = _begun(t, command)
    node = t.node_of(entry.row.task_id)
    ended = end_task(t, entry, TaskState.FAILED, entry.row.failure)
    after_end(t, node, ended)


def retry_task(t: Transition, command: Command) -> None:
    """Do not wait for the time of the next attempt, or for a person, any longer."""
    entry = _begun(t, command)
    if entry.row.state is TaskState.DEAD:
        replay(t, command)
        return
    retry(t, entry)
    settle(t)


# --- instead -----------------------------------------------------------------------------------


def _ruling_problem(t: Transition, command: Command, task_id: str, state: RunState) -> str | None:
    past = _PAST[command.action]
    if task_id.startswith(UNDOING):
        return f"{task_id!r} undoes what was done: it can be replayed or discarded, not {past}"
    if state not in _OPEN:
        return f"run {t.run_id!r} is {state}: nothing of it can be {past} any more"
    entry = t.task(task_id)
    if entry is None and task_id not in t.graph.nodes:
        return _unknown(t, task_id)
    if entry is not None:
        problem = _closed_problem(t, entry, past) or _part_problem(t, entry, command)
        if problem is not None:
            return problem
    if command.action is CommandAction.SKIP:
        return None
    if command.output is None:
        return f"override of {task_id!r} needs an output"
    try:
        _output(t, t.node_of(task_id), task_id, command)
    except (Undecodable, Unencodable) as error:
        return f"the output does not fit task {task_id!r}: {error}"
    return None


def _unknown(t: Transition, task_id: str) -> str:
    base, dot, part = task_id.partition(".")
    if dot and base in t.graph.nodes:
        return (
            f"{part!r} of task {base!r} is not open: it has not begun, or has ended; see"
            f" `holdfast run show {t.run_id} --items {base}`, or name {base!r} for all of it"
        )
    hint = did_you_mean(task_id, t.graph.nodes)
    return f"run {t.run_id!r} has no task {task_id!r}{hint} (`holdfast run show {t.run_id}`)"


def _closed_problem(t: Transition, entry: TaskEntry, past: str) -> str | None:
    row = entry.row
    if row.state in TASK_ENDS:
        return (
            f"task {row.task_id!r} is {row.state}: it cannot be {past} any more; to work it again,"
            f" `holdfast run retry {t.run_id} {row.task_id} --cancel`"
        )
    if row.ruling is not None:
        return (
            f"task {row.task_id!r} is {told_ruling(row.ruling)}; that counts once its attempt has"
            " ended"
        )
    return None


def _part_problem(t: Transition, entry: TaskEntry, command: Command) -> str | None:
    """Return why a task that is part of something cannot be skipped alone."""
    if command.action is not CommandAction.SKIP:
        return None
    task_id = entry.row.task_id
    if entry.call is not None:
        return (
            f"task {task_id!r} was called by {entry.call.caller!r}, which needs an output: override"
            f" it, or skip {entry.call.caller!r}"
        )
    node = t.node_of(task_id)
    if node.loop is not None and task_id != node.id:
        return (
            f"task {task_id!r} is a round of a loop, which goes by its output: override it, or"
            f" skip {node.id!r}"
        )
    return None


def _output(t: Transition, node: Node, task_id: str, command: Command) -> Payload:
    """Return the output of an override as the task's own would stand there.

    Raises `Unencodable` naming the field, `Undecodable`, `Blocked`.
    """
    values = t.scope.values
    document = values.document(command.output)
    if node.over is None or task_id != node.id:
        data = values.encode(node.output_schema_id, document, strict=True)
        return values.payload(t.run_id, data)
    if node.reducer is not None:
        data = values.encode(node.reducer.output_schema_id, document, strict=True)
        return values.payload(t.run_id, data)
    if not isinstance(document, list):
        raise Unencodable("the output of a map is a list, one value for each item")
    for index, item in enumerate(document):
        try:
            values.encode(node.output_schema_id, item, strict=True)
        except Unencodable as error:
            raise Unencodable(f"item {index}: {error}") from error
    return values.payload(t.run_id, encode_json(document))


def rule(t: Transition, command: Command) -> None:
    """Let a task end as the command says: at once, or when its attempt at work has ended."""
    task_id = command.task_id or ""
    known = t.task(task_id)
    node = t.node_of(task_id)
    entry = new_task(node.agent, node.task, task_id) if known is None else copy_task(known)
    ruling = _RULINGS[command.action]
    entry.row.ruling = Ruling(ruling, command.actor, command.reason, command.command_id, t.now_ms)
    if ruling is RulingAction.OVERRIDE:
        entry.ruled_output = _output(t, node, task_id, command)
    if entry.row.state is TaskState.DISPATCHED:
        if crowded(entry.row.input, entry.ruled_output):
            entry.row.input = None  # no other attempt needs it, and one record must hold both
        ask_to_cancel(t, entry, FailureKind.CANCELLED)
        settle(t)
    elif entry.row.state is TaskState.CANCELLING:
        after = touch_task(entry)
        t.put(after)
        t.emit_task(EventType.TASK_CANCELLING, after.row, told_ruling(entry.row.ruling))
    else:
        _at_once(t, node, entry, begun=known is not None)


def _at_once(t: Transition, node: Node, entry: TaskEntry, *, begun: bool) -> None:
    ended = cut(t, entry, FailureKind.CANCELLED)
    t.scope.lists.forget(t.run_id, ended.row.task_id)
    if node.over is not None and ended.row.task_id == node.id:
        maps.close_chunks(t, node)  # what it held is nobody's any more
        forget_fold(t, node)
    if not begun:
        joins.drop_losers(t, [node.id])  # those that it alone has waited for
    after_end(t, node, ended)
