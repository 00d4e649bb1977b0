"""What a person sees of a run that goes on."""

from __future__ import annotations

import pytest

from holdfast.cli.progress import LiveProgress, PlainProgress, open_progress
from holdfast.schemas import (
    AskKind,
    AskRow,
    Event,
    EventType,
    Failure,
    FailureKind,
    RunRow,
    RunState,
    TaskRow,
    TaskState,
)


def task(task_id: str, state: TaskState, **fields: object) -> TaskRow:
    row = TaskRow(
        task_id, "scout", "list", state, 1, None, None, None, [], 0, "", None, 1, 1, None, None
    )
    for name, value in fields.items():
        setattr(row, name, value)
    return row


def said(kind: EventType, row: TaskRow | None = None, message: str = "") -> Event:
    return Event("r1", kind, 1, None, None, row, message)


def asks(kind: EventType, task_id: str = "a") -> Event:
    event = said(kind)
    event.ask = AskRow(task_id, "go", "", AskKind.SIGNAL, "go", None, None)
    return event


FAILURE = Failure(FailureKind.ERROR, "OSError", "no\ndisk", "", True)


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (said(EventType.RUN_STARTED), "r1 run.started"),
        (said(EventType.RUN_PAUSED, None, "lunch"), "r1 run.paused: lunch"),
        (said(EventType.TASK_DISPATCHED, task("a", TaskState.DISPATCHED)), "r1 a dispatched"),
        (
            said(
                EventType.TASK_RETRYING, task("a", TaskState.RETRYING, attempt=2, failure=FAILURE)
            ),
            "r1 a retrying (attempt 2): no disk",
        ),
        (
            said(EventType.TASK_PROGRESSED, task("a", TaskState.DISPATCHED), "half"),
            "r1 a: half",
        ),
        (said(EventType.TASK_SUCCEEDED, task("m.3", TaskState.SUCCEEDED)), ""),
        (asks(EventType.TASK_ASKED), "r1 a waits for signal 'go'"),
        (asks(EventType.TASK_ASKED, "m.3"), ""),
        (asks(EventType.TASK_ANSWERED), ""),
        (
            said(EventType.TASK_EXPANDED, task("m", TaskState.EXPANDED, total=9, done=9, failed=1)),
            "r1 m: 9 of 9, 1 failed",
        ),
    ],
)
def test_plain_lines(event: Event, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with PlainProgress("r1") as progress:
        progress.show(event)
    assert capsys.readouterr().err.strip() == line


def test_items_of_a_map_are_counted_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    progress = PlainProgress("r1")
    for done in range(1, 1_001):
        row = task("m", TaskState.EXPANDED, total=1_000, done=done)
        progress.show(said(EventType.TASK_EXPANDED, row))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) < 10
    assert lines[-1] == "r1 m: 1000 of 1000"


def test_no_terminal_means_plain_lines() -> None:
    assert isinstance(open_progress("r1"), PlainProgress)


def test_the_live_table_counts_items_as_they_end() -> None:
    from rich.console import Console

    progress = LiveProgress("r1")
    row = RunRow(
        *["r1", 1, "audit", RunState.RUNNING, None, None, None, None],
        *["r1", "me", "00", 1, None, None],
    )
    progress.show(Event("r1", EventType.RUN_STARTED, 1, None, row, None, ""))
    progress.show(said(EventType.TASK_EXPANDED, task("m", TaskState.EXPANDED, total=5)))
    for index in range(3):
        ended = task(f"m.{index}", TaskState.SUCCEEDED, finished_ms=2)
        progress.show(said(EventType.TASK_SUCCEEDED, ended))
    progress.show(said(EventType.TASK_RETRYING, task("a", TaskState.RETRYING, failure=FAILURE)))
    console = Console(width=100)
    with console.capture() as capture:
        console.print(progress._table())
    text = capture.get()
    assert "r1: running" in text
    assert "3 of 5" in text
    assert "no disk" in text
