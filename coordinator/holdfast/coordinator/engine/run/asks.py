"""What handlers wait for: kept, answered, closed. See docs/adr/0009.

on_ask -> AskEntry -> answer: its removal, one event and one REPLY, in one commit
                   -> close_asks: its task has ended; what it asked for is not wanted any more
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from heapq import heapify, heappop

from holdfast.coordinator.engine.counting import ASKS, WAITED
from holdfast.coordinator.engine.inputs import Arrival
from holdfast.coordinator.engine.run import calls, children
from holdfast.coordinator.engine.run.failing import failure_of
from holdfast.coordinator.engine.run.signals import (
    keep_signal,
    knows_signal,
    misfit,
    signal_payload,
    take_signal,
)
from holdfast.coordinator.engine.run.transition import Transition
from holdfast.coordinator.engine.states import TASK_ENDS
from holdfast.schemas.codec import encode_json
from holdfast.schemas.errors import Undecodable, Unencodable
from holdfast.schemas.records import (
    Ask,
    AskEntry,
    CallAsk,
    ChildEnded,
    EventType,
    Failure,
    FailureKind,
    Payload,
    PlanAsk,
    RunAsk,
    Signal,
    SignalAsk,
    SleepAsk,
    TaskEntry,
    TaskState,
)

__all__ = [
    "answer",
    "ask_name",
    "close_asks",
    "find_ask",
    "left_asks",
    "on_ask",
    "on_ask_timer",
    "on_called_ended",
    "on_child_ended",
    "on_signal",
    "take_ask",
]

ASKS_PER_TASK_MAX = 1_000
ASKS_PER_RUN_MAX = 10_000
_CLOSE_RECORDS = 5
"""The most that closing one ask takes: its removal, its event, and the end of a called task."""


def ask_name(task_id: str, name: str, key: str) -> str:
    """Return the name of an ask's record."""
    parts = f"{task_id}\x00{name}\x00{key}".encode()
    return ASKS + hashlib.sha256(parts).hexdigest()[:16]


def find_ask(t: Transition, task_id: str, name: str, key: str) -> AskEntry | None:
    """Return an open ask, or None."""
    entry = t.overlay.get(ask_name(task_id, name, key))
    return entry if isinstance(entry, AskEntry) else None


def take_ask(t: Transition, arrival: Arrival, ask: Ask) -> AskEntry | None:
    """Return a new ask; None if nobody waits for it, it is open, or it was answered by a failure.

    One that is open was begun: what it asks for is not begun again, and its answer counts for both.
    """
    task = t.task(ask.task_id)
    over = task is None or task.row.state in TASK_ENDS or task.restarting
    if task is None or over or task.row.attempt != ask.attempt:
        what = f"ask {ask.name!r} (key {ask.key!r}) of {ask.task_id!r}, attempt {ask.attempt}"
        t.emit_note(EventType.RESULT_IGNORED, f"{what}: nobody waits for it any more")
        return None
    if find_ask(t, ask.task_id, ask.name, ask.key) is not None:
        what = f"ask {ask.name!r} (key {ask.key!r}) of {ask.task_id!r}"
        t.emit_note(EventType.RESULT_IGNORED, f"{what}: it is open already")
        return None
    entry = AskEntry(ask, t.now_ms, None, None, None)
    problem = _problem(t, ask, arrival)
    if problem is None:
        return entry
    answer(t, entry, None, problem)
    return None


def on_ask(t: Transition, arrival: Arrival, ask: Ask) -> None:
    """Take what a handler waits for; what can be answered at once is."""
    entry = take_ask(t, arrival, ask)
    if entry is None:
        return
    problem = _begin(t, arrival, entry)
    if problem is not None:
        answer(t, entry, None, problem)
        return
    if isinstance(ask.what, SleepAsk) and ask.what.duration_ms <= 0:
        answer(t, entry, None)
        return
    if isinstance(ask.what, SignalAsk):
        signal = take_signal(t, ask.what)
        if signal is not None:
            answer(t, entry, signal.payload, signal=signal)
            return
    t.overlay.put(ask_name(ask.task_id, ask.name, ask.key), entry)
    t.emit_ask(EventType.TASK_ASKED, entry.row())
    if isinstance(ask.what, RunAsk) and ask.what.detached:
        answer(t, entry, encode_json(entry.child))


def _problem(t: Transition, ask: Ask, arrival: Arrival) -> Failure | None:
    if arrival.problem is not None:
        return failure_of(FailureKind.UNKNOWN_TASK, arrival.problem)
    if t.sweeping or (t.ending and isinstance(ask.what, PlanAsk)):
        return failure_of(FailureKind.CANCELLED, "the run ends")
    if t.overlay.count(ASKS, ask.task_id) >= ASKS_PER_TASK_MAX:
        message = f"task {ask.task_id!r} waits for {ASKS_PER_TASK_MAX} things already"
        return failure_of(FailureKind.TOO_LARGE, message)
    if t.overlay.count(ASKS, "") >= ASKS_PER_RUN_MAX:
        message = f"the run waits for {ASKS_PER_RUN_MAX} things already"
        return failure_of(FailureKind.TOO_LARGE, message)
    return None


def _begin(t: Transition, arrival: Arrival, entry: AskEntry) -> Failure | None:
    what = entry.ask.what
    if isinstance(what, SleepAsk):
        entry.timer_ms = t.now_ms + what.duration_ms
    elif isinstance(what, SignalAsk):
        entry.timer_ms = None if what.timeout_ms is None else t.now_ms + what.timeout_ms
    elif isinstance(what, CallAsk):
        return calls.start(t, arrival, entry, what)
    elif isinstance(what, RunAsk):
        return children.start(t, arrival, entry, what)
    return None


def answer(
    t: Transition,
    entry: AskEntry,
    result: Payload,
    failure: Failure | None = None,
    *,
    signal: Signal | None = None,
) -> None:
    """Answer an ask, and forget it."""
    ask = entry.ask
    name = ask_name(ask.task_id, ask.name, ask.key)
    if t.overlay.get(name) is not None:
        t.overlay.put(name, None)
    message = "" if failure is None else failure.message
    t.emit_ask(EventType.TASK_ANSWERED, entry.row(), message, signal)
    task = t.task(ask.task_id)
    if task is not None and task.row.state not in TASK_ENDS:
        t.send_reply(task.row, ask, result, failure)


def on_ask_timer(t: Transition, entry: AskEntry) -> None:
    """Its time has come: a sleep is over, a wait was in vain."""
    what = entry.ask.what
    if isinstance(what, SignalAsk):
        waited_s = (t.now_ms - entry.asked_ms) / 1_000
        message = f"no signal {what.signal!r} came within {waited_s:g} s"
        answer(t, entry, None, failure_of(FailureKind.TIMEOUT, message))
    else:
        answer(t, entry, None)


def on_called_ended(t: Transition, task: TaskEntry) -> None:
    """A called task has ended: its caller hears of it, and it is forgotten."""
    assert task.call is not None, f"{task.row.task_id} was not called"
    spec, row = task.call, task.row
    entry = find_ask(t, spec.caller, spec.name, spec.key)
    if entry is not None:
        failure = None if row.state is TaskState.SUCCEEDED else row.failure
        answer(t, entry, row.output if failure is None else None, failure)
    t.overlay.put(row.task_id, None)


def on_child_ended(t: Transition, ended: ChildEnded) -> None:
    """A child run has ended."""
    entry = find_ask(t, ended.task_id, ended.name, ended.key)
    if entry is None or entry.child != ended.child_run_id:
        t.emit_note(EventType.RESULT_IGNORED, f"nobody waits for run {ended.child_run_id!r}")
        return
    if ended.successor is not None:
        after = replace(entry, child=ended.successor, child_key=ended.successor_key)
        t.overlay.put(ask_name(ended.task_id, ended.name, ended.key), after)
        t.emit_ask(EventType.TASK_ASKED, after.row(), f"{ended.child_run_id} is continued")
        return
    answer(t, entry, ended.output, ended.failure)


def on_signal(t: Transition, signal: Signal) -> None:
    """Give a signal to the task that has waited longest for one of its name, or keep it."""
    if knows_signal(t, signal):
        t.emit_signal(EventType.SIGNAL_REPEATED, signal)
        return
    for entry in _waiting_for(t, signal.signal):
        what = entry.ask.what
        assert isinstance(what, SignalAsk), "looked for above"
        try:
            payload = signal_payload(t, what, signal.payload)
        except (Undecodable, Unencodable) as error:
            t.emit_signal(EventType.SIGNAL_REFUSED, signal, misfit(signal, error))
            return
        keep_signal(t, signal, taken=True)
        answer(t, entry, payload, signal=signal)
        return
    if keep_signal(t, signal, taken=False):
        t.emit_signal(EventType.SIGNAL_KEPT, signal)
    else:
        message = (
            f"run {t.run_id!r} keeps as many signals as it can, and no task waits for one of"
            f" {signal.signal!r}: send it again once one does (`holdfast why {t.run_id}`)"
        )
        t.emit_signal(EventType.SIGNAL_REFUSED, signal, message)


def _waiting_for(t: Transition, signal: str) -> Iterator[AskEntry]:
    """Yield the asks for a signal, those that wait longest first.

    Not those of tasks that have ended, which there was no room to close yet: nobody would hear.
    """
    waiting = [(asked_ms, name) for name, asked_ms in t.overlay.members(WAITED, signal)]
    heapify(waiting)  # mostly the first one is all that is looked at
    while waiting:
        entry = t.overlay.get(heappop(waiting)[1])
        if isinstance(entry, AskEntry) and not _ended(t, entry.ask.task_id):
            yield entry


def close_asks(t: Transition, task_id: str) -> None:
    """A task has ended: what it asked for is not wanted any more. What does not fit is left."""
    if not t.overlay.count(ASKS, task_id):
        return
    for name in sorted(name for name, _ in t.overlay.members(ASKS, task_id)):
        entry = t.overlay.get(name)
        assert isinstance(entry, AskEntry), f"{name} is listed as an ask"
        if t.room() < _CLOSE_RECORDS + t.scope.limits.reserve:
            t.more = True
            return
        t.overlay.put(name, None)
        t.emit_ask(EventType.ASK_CLOSED, entry.row())
        if isinstance(entry.ask.what, CallAsk):
            if calls.cancel(t, entry) and entry.child is not None:
                close_asks(t, entry.child)  # it has ended at once: what it had asked for, too
                if t.more:
                    return
        elif isinstance(entry.ask.what, RunAsk):
            children.cancel(t, entry)


def left_asks(t: Transition) -> None:
    """Close the asks of tasks that have ended, which an earlier event had no room for."""
    owners = {
        entry.ask.task_id
        for name, _ in t.overlay.members(ASKS, "")
        if isinstance(entry := t.overlay.get(name), AskEntry)
    }
    for task_id in sorted(owners):
        if _ended(t, task_id):
            close_asks(t, task_id)
        if t.more:
            return


def _ended(t: Transition, task_id: str) -> bool:
    task = t.task(task_id)
    return task is None or task.row.state in TASK_ENDS
