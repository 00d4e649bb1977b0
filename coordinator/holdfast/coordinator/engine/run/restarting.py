"""A task that begins anew: its next attempt drops all steps that were journaled before.

The agent is told by `TaskEnvelope.journal_from`; what the task waits for is closed here. Effects
keep their idempotency keys: run, task, name and key make them, and none of that changes. So what
was applied before is applied once, where its receiver honours the key.

An attempt at work is asked to end first; what it answers, other than a success, is only the sign
that it is over. Asks that it still sends are of the journal that goes, and are not taken.
"""

from __future__ import annotations

from holdfast.coordinator.engine.counting import ASKS
from holdfast.coordinator.engine.run.arriving import has_emitted, takers
from holdfast.coordinator.engine.run.asks import close_asks
from holdfast.coordinator.engine.run.rows import next_task, touch_task
from holdfast.coordinator.engine.run.transition import Transition
from holdfast.coordinator.engine.states import TASK_ENDS
from holdfast.schemas.records import (
    AskEntry,
    CallAsk,
    Command,
    ControlAction,
    EventType,
    RunState,
    TaskEntry,
    TaskState,
)

__all__ = ["begin_anew", "begin_restart", "restart_problem"]

ASKS_MAX = 50
"""A task that waits for more cannot be restarted: all is closed in one event."""
_OPEN = (RunState.RUNNING, RunState.WAITING)
_RESTARTED = (TaskState.DEAD, TaskState.RETRYING, TaskState.DISPATCHED)


def restart_problem(t: Transition, command: Command, state: RunState) -> str | None:
    """Return why a task cannot be restarted now, and what can be done; or None."""
    task_id = command.task_id
    if task_id is None:
        return f"restart needs the id of a task: see `holdfast run show {t.run_id}`"
    entry = t.task(task_id)
    if entry is None:
        return f"run {t.run_id!r} has no task {task_id!r} that was started"
    now = entry.row.state
    if now in TASK_ENDS:
        again = f"`holdfast run fork {t.run_id} --from {task_id}`"
        return f"task {task_id!r} is {now}: fork the run from it, {again}"
    if now is TaskState.EXPANDED:
        return f"task {task_id!r} is no handler's: restart a part of it, see `holdfast run show`"
    if now not in _RESTARTED or entry.row.ruling is not None:
        return f"task {task_id!r} is {now}: it cannot be restarted now"
    if state is RunState.PAUSED:
        return f"run {t.run_id!r} is paused: resume it first, then restart {task_id!r}"
    if state not in _OPEN:
        return f"run {t.run_id!r} is {state}: nothing of it can be restarted any more"
    if entry.restarting:
        return f"task {task_id!r} is being restarted: it begins anew once its attempt has ended"
    if now is TaskState.DEAD and entry.row.attempt == 0:
        return f"task {task_id!r} has never been with its agent: replay it"
    return _asks_problem(t, task_id)


def _asks_problem(t: Transition, task_id: str) -> str | None:
    if has_emitted(t, task_id) and any(takers(t, task_id)):
        # Without its journal it would hand them out once more.
        return (
            f"task {task_id!r} has handed out items, which are being worked: it cannot begin anew;"
            f" fork the run from it, `holdfast run fork {t.run_id} --from {task_id}`"
        )
    asks = _asks(t, task_id)
    called = sorted(ask.child or "" for ask in asks if isinstance(ask.ask.what, CallAsk))
    if called:
        # It would call them again under their ids, while what they do is not over.
        return (
            f"task {task_id!r} waits for {', '.join(called[:3])}: let these end, or skip or"
            " override them, and restart it then"
        )
    if len(asks) > ASKS_MAX:
        return (
            f"task {task_id!r} waits for {len(asks)} things; with more than {ASKS_MAX} it cannot be"
            " restarted: fork the run, or cancel it"
        )
    return None


def _asks(t: Transition, task_id: str) -> list[AskEntry]:
    if not t.overlay.count(ASKS, task_id):
        return []
    found = (t.overlay.get(name) for name in t.overlay.names() if name.startswith(ASKS))
    return [each for each in found if isinstance(each, AskEntry) and each.ask.task_id == task_id]


def begin_restart(t: Transition, command: Command) -> bool:
    """Begin to restart a task; True: it is not at work, and its next attempt may be sent now."""
    known = t.task(command.task_id or "")
    assert known is not None, "checked before"
    entry = touch_task(known)
    if entry.row.state is not TaskState.DISPATCHED:
        _drop(t, entry)
        t.put(entry)
        return True
    entry.restarting = entry.cancel_sent = True
    t.put(entry)
    t.send_control(entry.row, ControlAction.CANCEL, f"restarted by {command.actor}")
    return False


def begin_anew(t: Transition, entry: TaskEntry) -> TaskEntry:
    """The attempt of a task that is to be restarted has ended: let the next one come."""
    after = next_task(t.run_id, entry, TaskState.RETRYING)
    after.row.failure = None
    after.row.retry_ms = after.timer_ms = t.now_ms
    after.cancel_kind = None
    _drop(t, after)
    t.put(after)
    t.emit_task(EventType.TASK_RETRYING, after.row, "it begins anew, without its journal")
    return after


def _drop(t: Transition, entry: TaskEntry) -> None:
    """Let a task's next attempt be the first of a new journal, with all its retries before it."""
    close_asks(t, entry.row.task_id)
    entry.restarting = False
    entry.attempts_base, entry.failed_by = entry.row.attempt, {}
    entry.journal_from = entry.row.attempt + 1
    entry.emitted = 0  # of what no map goes over
