"""Why a task waits whose handler has asked for something, in words for a person on call."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from holdfast.coordinator.projection.reasons import Reason, span, utc
from holdfast.coordinator.projection.rows import SignalState
from holdfast.coordinator.projection.tasks import TaskView
from holdfast.coordinator.projection.waits import SignalView, WaitView
from holdfast.schemas import AskKind

__all__ = ["WAITS_SHOWN", "unclaimed", "wait_reasons"]

WAITS_SHOWN = 20
"""Of one task; a handler may call a thousand tasks at once."""
LATE_MS = 5_000
"""What was to happen longer ago than this is late."""


def wait_reasons(
    task: TaskView, waits: Sequence[WaitView], signals: Sequence[SignalView], now_ms: int
) -> list[Reason]:
    """Return a reason for each thing that a task waits for, those it waits longest for first."""
    found = [_reason(wait, signals, now_ms) for wait in waits[:WAITS_SHOWN]]
    if len(waits) > WAITS_SHOWN:
        text = f"waits for {len(waits) - WAITS_SHOWN} more things"
        found.append(Reason(task.task_id, "waits", text, f"holdfast run show {task.run_id} --json"))
    return found


def unclaimed(
    signals: Sequence[SignalView], waits: Sequence[WaitView], now_ms: int
) -> list[Reason]:
    """Return a word on signals that are kept while tasks wait for others: perhaps misspelt."""
    names = [wait.row.subject for wait in waits if wait.row.kind is AskKind.SIGNAL]
    if not names:
        return []
    kept = [signal for signal in signals if signal.state is SignalState.KEPT]
    return [
        Reason(
            "",
            "signal-kept",
            f"signal {signal.signal!r} of {signal.actor} is kept since "
            f"{span(now_ms - signal.at_ms)}: no task waits for one of this name",
        )
        for signal in kept[:WAITS_SHOWN]
    ]


def _reason(wait: WaitView, signals: Sequence[SignalView], now_ms: int) -> Reason:
    told = {
        AskKind.SLEEP: _asleep,
        AskKind.SIGNAL: _signal,
        AskKind.CALL: _called,
        AskKind.RUN: _run,
        AskKind.PLAN: _change,
        AskKind.EMIT: _emission,
    }[wait.row.kind]
    text, remedy = told(wait, signals, now_ms)
    return Reason(wait.row.task_id, f"waits.{wait.row.kind.value}", text, remedy)


def _asleep(wait: WaitView, _signals: Sequence[SignalView], now_ms: int) -> tuple[str, str]:
    until_ms = wait.row.until_ms or 0
    text = f"{wait.row.describe()} until {utc(until_ms)}"
    if now_ms - until_ms > LATE_MS:
        late = span(now_ms - until_ms)
        return f"{text}: that was {late} ago; is a coordinator running?", "holdfast doctor"
    return f"{text}, {span(until_ms - now_ms)} from now", ""


def _signal(wait: WaitView, signals: Sequence[SignalView], now_ms: int) -> tuple[str, str]:
    row = wait.row
    text = f"{row.describe()} {_since(wait, now_ms)}".rstrip()
    if row.until_ms is not None:
        text += f", at the longest until {utc(row.until_ms)}"
    refused = [
        signal
        for signal in signals
        if signal.signal == row.subject
        and signal.state is SignalState.REFUSED
        and signal.at_ms >= (row.asked_ms or 0)
    ]
    if refused:
        last = refused[-1]
        text += (
            f"; that of {last.actor} was refused {span(now_ms - last.at_ms)} ago: {last.message}"
        )
    elif row.schema_id is not None:
        text += f"; its payload: holdfast schemas show signal.{row.subject}"
    return text, f"holdfast signal {wait.run_id} {shlex.quote(row.subject)} PAYLOAD"


def _called(wait: WaitView, _signals: Sequence[SignalView], now_ms: int) -> tuple[str, str]:
    state = "" if wait.child_state is None else f", which is {wait.child_state}"
    text = f"{wait.row.describe()}{state}; {_since(wait, now_ms)}"
    return text, f"holdfast why {wait.run_id}/{wait.row.child}"


def _run(wait: WaitView, _signals: Sequence[SignalView], now_ms: int) -> tuple[str, str]:
    told, since = wait.row.describe(), _since(wait, now_ms)
    if wait.child_state is None:
        late = now_ms - (wait.row.asked_ms or now_ms) > LATE_MS
        text = f"{told}, which no coordinator has taken in yet; {since}"
        return text, "holdfast doctor" if late else ""
    return f"{told}, which is {wait.child_state}; {since}", f"holdfast why {wait.row.child}"


def _change(wait: WaitView, _signals: Sequence[SignalView], now_ms: int) -> tuple[str, str]:
    return f"{wait.row.describe()}; {_since(wait, now_ms)}", ""


def _emission(wait: WaitView, _signals: Sequence[SignalView], now_ms: int) -> tuple[str, str]:
    behind = "a map over them has not begun, or is far behind"
    return f"{wait.row.describe()}: {behind}; {_since(wait, now_ms)}", ""


def _since(wait: WaitView, now_ms: int) -> str:
    return f"since {span(now_ms - (wait.row.asked_ms or now_ms))}"
