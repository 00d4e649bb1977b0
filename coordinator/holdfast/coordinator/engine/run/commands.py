"""What operators ask of a run. Each command makes at least one event, a refusal too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from holdfast.coordinator.engine.run.continuing import go_on_all
from holdfast.coordinator.engine.run.ending import cancel_run, settle
from holdfast.coordinator.engine.run.operating import (
    discard,
    replay,
    retry_task,
    rule,
    task_problem,
)
from holdfast.coordinator.engine.run.restarting import begin_restart, restart_problem
from holdfast.coordinator.engine.run.successors import pass_on
from holdfast.coordinator.engine.run.transition import Transition
from holdfast.coordinator.engine.states import RUN_ENDS
from holdfast.schemas.command_arguments import CancelArguments
from holdfast.schemas.errors import did_you_mean
from holdfast.schemas.records import (
    Command,
    CommandAction,
    EventType,
    Marker,
    RunEntry,
    RunState,
)

__all__ = ["on_command"]

COMMAND_CHARS_MAX = 16_384
"""Of reason, actor and arguments together: events repeat them."""
_OPEN = (RunState.RUNNING, RunState.WAITING, RunState.PAUSED)
_OF_TASKS = frozenset(
    {
        CommandAction.REPLAY,
        CommandAction.DISCARD,
        CommandAction.RETRY,
        CommandAction.SKIP,
        CommandAction.OVERRIDE,
    }
)


def on_command(t: Transition, command: Command, marker: Marker | None) -> None:
    """Do what is asked, or say what the state is and what can be done."""
    if len(command.reason) + len(command.actor) + len(command.arguments) > COMMAND_CHARS_MAX:
        message = f"the reason is too long: at most {COMMAND_CHARS_MAX} characters are taken"
        t.emit_note(EventType.COMMAND_REFUSED, message)
        return
    if pass_on(t, command, marker):
        return
    problem = _problem(t, command, marker)
    noted = replace(command, output=None)  # it may be large; the task's row will have it
    if problem is not None:
        t.emit_note(EventType.COMMAND_REFUSED, problem, noted)
        return
    t.emit_note(EventType.COMMAND_ACCEPTED, _told(command), noted)
    _ACTIONS[command.action](t, command)


def _told(command: Command) -> str:
    what = command.action if command.task_id is None else f"{command.action} {command.task_id}"
    if command.action is CommandAction.CANCEL:
        what += _told_undoing(command)
    return f"{what} by {command.actor}" + (f": {command.reason}" if command.reason else "")


def _told_undoing(command: Command) -> str:
    said = CancelArguments.of(command.arguments)
    if said.compensate_from is not None:
        return f", undoing {said.compensate_from!r} and what came of it,"
    if said.compensate is None:
        return ""
    return ", undoing what has succeeded," if said.compensate else ", undoing nothing,"


def _problem(t: Transition, command: Command, marker: Marker | None) -> str | None:
    known = t.overlay.get("")
    if not isinstance(known, RunEntry):
        if marker is not None and marker.successor is not None:
            return f"run {t.run_id!r} is closed; it goes on as {marker.successor!r}"
        if marker is not None:
            return _closed(t, marker.state)
        return f"no run {t.run_id!r} is known here; if its plan has an order key, name that key"
    state = known.row.state
    if state in RUN_ENDS:
        return _closed(t, state)
    if command.action is CommandAction.RESTART:
        return restart_problem(t, command, state)
    if command.action in _OF_TASKS:
        return task_problem(t, command, state)
    allowed = {
        CommandAction.CANCEL: _OPEN,
        CommandAction.PAUSE: (RunState.RUNNING, RunState.WAITING),
        CommandAction.RESUME: (RunState.PAUSED,),
    }[command.action]
    if state is RunState.COMPENSATING:
        return (
            f"run {t.run_id!r} is compensating: what it did is being undone, and that is not cut"
            f" short, nor stopped; see what is left by `holdfast why {t.run_id}`. What is stuck can"
            " be replayed, or given up: `holdfast dead-letters replay`, `discard`"
        )
    if state not in allowed:
        return f"run {t.run_id!r} is {state}: {_WHY_NOT[command.action]}"
    if command.action is CommandAction.CANCEL:
        return _cancel_problem(t, command)
    return None


_WHY_NOT = {
    CommandAction.CANCEL: "it is about to end; `holdfast why` tells what it waits for",
    CommandAction.PAUSE: "only a run that is running, or waits for its dead letters, can be paused",
    CommandAction.RESUME: "only a run that is paused can be resumed",
}


def _closed(t: Transition, state: RunState) -> str:
    return (
        f"run {t.run_id!r} is closed ({state}): it takes no more commands; from a task on it can be"
        f" worked again: `holdfast run retry {t.run_id} TASK`"
    )


def _cancel(t: Transition, command: Command) -> None:
    said = CancelArguments.of(command.arguments)
    reason = command.reason or f"cancelled by {command.actor}"
    cancel_run(t, reason, undoes=said.compensate, undo_from=said.compensate_from)
    settle(t)


def _cancel_problem(t: Transition, command: Command) -> str | None:
    try:
        said = CancelArguments.of(command.arguments)
    except ValueError as error:
        return f"cancel: {error}"
    if said.compensate_from is not None and said.compensate_from not in t.graph.nodes:
        known = did_you_mean(said.compensate_from, t.graph.nodes)
        return f"run {t.run_id!r} has no task {said.compensate_from!r}{known}"
    return None


def _pause(t: Transition, command: Command) -> None:
    t.move_run(RunState.PAUSED)
    t.emit_run(EventType.RUN_PAUSED, command.reason)


def _resume(t: Transition, command: Command) -> None:
    t.move_run(RunState.RUNNING)
    t.emit_run(EventType.RUN_RESUMED, command.reason)
    go_on_all(t)
    settle(t)


def _restart(t: Transition, command: Command) -> None:
    if begin_restart(t, command):
        retry_task(t, command)


_ACTIONS: dict[CommandAction, Callable[[Transition, Command], None]] = {
    CommandAction.CANCEL: _cancel,
    CommandAction.PAUSE: _pause,
    CommandAction.RESUME: _resume,
    CommandAction.REPLAY: replay,
    CommandAction.DISCARD: discard,
    CommandAction.RETRY: retry_task,
    CommandAction.RESTART: _restart,
    CommandAction.SKIP: rule,
    CommandAction.OVERRIDE: rule,
}
