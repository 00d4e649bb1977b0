"""What operators ask of a run. Each command makes at least one event, a refusal too."""

from __future__ import annotations

from collections.abc import Callable

from holdfast.coordinator.engine.run.continuing import go_on_all
from holdfast.coordinator.engine.run.dispatch import dispatch
from holdfast.coordinator.engine.run.ending import cancel_run, settle
from holdfast.coordinator.engine.run.failing import end_task
from holdfast.coordinator.engine.run.results import after_end
from holdfast.coordinator.engine.run.rows import touch_task
from holdfast.coordinator.engine.run.starting import restart
from holdfast.coordinator.engine.run.transition import Transition
from holdfast.coordinator.engine.states import RUN_ENDS
from holdfast.schemas.records import (
    Command,
    CommandAction,
    EventType,
    Marker,
    RunEntry,
    RunState,
    TaskEntry,
    TaskState,
)

__all__ = ["on_command"]

COMMAND_CHARS_MAX = 16_384
"""Of reason, actor and arguments together: events repeat them."""
_OPEN = (RunState.RUNNING, RunState.WAITING, RunState.PAUSED)


def on_command(t: Transition, command: Command, marker: Marker | None) -> None:
    """Do what is asked, or say what the state is and what can be done."""
    if len(command.reason) + len(command.actor) + len(command.arguments) > COMMAND_CHARS_MAX:
        message = f"the reason is too long: at most {COMMAND_CHARS_MAX} characters are taken"
        t.emit_note(EventType.COMMAND_REFUSED, message)
        return
    problem = _problem(t, command, marker)
    if problem is not None:
        t.emit_note(EventType.COMMAND_REFUSED, problem, command)
        return
    t.emit_note(EventType.COMMAND_ACCEPTED, _told(command), command)
    _ACTIONS[command.action](t, command)


def _told(command: Command) -> str:
    what = command.action if command.task_id is None else f"{command.action} {command.task_id}"
    return f"{what} by {command.actor}" + (f": {command.reason}" if command.reason else "")


def _problem(t: Transition, command: Command, marker: Marker | None) -> str | None:
    known = t.overlay.get("")
    if not isinstance(known, RunEntry):
        if marker is not None:
            return f"run {t.run_id!r} is closed ({marker.state}): it takes no more commands"
        return f"no run {t.run_id!r} is known here; if its plan has an order key, name that key"
    state = known.row.state
    if state in RUN_ENDS:
        return f"run {t.run_id!r} is closed ({state}): it takes no more commands"
    if command.action in (CommandAction.REPLAY, CommandAction.DISCARD):
        return _task_problem(t, command, state)
    allowed = {
        CommandAction.CANCEL: _OPEN,
        CommandAction.PAUSE: (RunState.RUNNING, RunState.WAITING),
        CommandAction.RESUME: (RunState.PAUSED,),
    }[command.action]
    if state not in allowed:
        return f"run {t.run_id!r} is {state}: it cannot be {_PAST[command.action]} now"
    return None


_PAST = {
    CommandAction.CANCEL: "cancelled",
    CommandAction.PAUSE: "paused",
    CommandAction.RESUME: "resumed",
}


def _task_problem(t: Transition, command: Command, state: RunState) -> str | None:
    if command.task_id is None:
        return f"{command.action} needs the id of a task: see `holdfast dead-letters list`"
    entry = t.task(command.task_id)
    if entry is None:
        return f"run {t.run_id!r} has no task {command.task_id!r} that was started"
    if entry.row.state is not TaskState.DEAD:
        return (
            f"task {command.task_id!r} is {entry.row.state}, not in the dead letters:"
            f" there is nothing to {command.action}"
        )
    if state is RunState.PAUSED and command.action is CommandAction.REPLAY:
        return f"run {t.run_id!r} is paused: resume it first, then replay {command.task_id!r}"
    if state not in _OPEN:
        return f"run {t.run_id!r} is {state}: its dead letters are closed with it"
    return None


def _cancel(t: Transition, command: Command) -> None:
    cancel_run(t, command.reason or f"cancelled by {command.actor}")
    settle(t)


def _pause(t: Transition, command: Command) -> None:
    t.move_run(RunState.PAUSED)
    t.emit_run(EventType.RUN_PAUSED, command.reason)


def _resume(t: Transition, command: Command) -> None:
    t.move_run(RunState.RUNNING)
    t.emit_run(EventType.RUN_RESUMED, command.reason)
    go_on_all(t)
    settle(t)


def _dead(t: Transition, command: Command) -> TaskEntry:
    entry = t.task(command.task_id or "")
    assert entry is not None, "checked before"
    return entry


def _replay(t: Transition, command: Command) -> None:
    """Let a dead task go on with a new attempt, with all its retries before it."""
    entry = touch_task(_dead(t, command))
    row = entry.row
    entry.attempts_base = row.attempt
    node = t.node_of(row.task_id)
    if "." in row.task_id:
        payload = t.item_input(row.task_id)
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


def _discard(t: Transition, command: Command) -> None:
    """Give a dead task up."""
    entry = _dead(t, command)
    node = t.node_of(entry.row.task_id)
    ended = end_task(t, entry, TaskState.FAILED, entry.row.failure)
    after_end(t, node, ended)


_ACTIONS: dict[CommandAction, Callable[[Transition, Command], None]] = {
    CommandAction.CANCEL: _cancel,
    CommandAction.PAUSE: _pause,
    CommandAction.RESUME: _resume,
    CommandAction.REPLAY: _replay,
    CommandAction.DISCARD: _discard,
}
