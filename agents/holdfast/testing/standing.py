"""Why a simulation stands still: what each run, process and function waits for, as text."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Iterable, Iterator
from pathlib import Path

from holdfast.schemas.records import AskRow, Event, EventType, RunRow, TaskRow, TaskState
from holdfast.testing.bodies import Call
from holdfast.testing.sim import Process

__all__ = ["open_asks", "why"]

_OWN = str(Path(__file__).resolve().parents[1])
_ASYNCIO = str(Path(asyncio.__file__).resolve().parent)
_ENDED = frozenset(
    {
        TaskState.SUCCEEDED,
        TaskState.FAILED,
        TaskState.CANCELLED,
        TaskState.SKIPPED,
    }
)


def why(
    run_id: str,
    events: Iterable[Event],
    processes: Iterable[Process],
    calls: Iterable[Call],
    now_ms: int,
) -> str:
    """Return one line for each thing that stands still."""
    lines = [
        *_run_lines(run_id, events, now_ms),
        *_process_lines(processes),
        *_call_lines(calls, now_ms),
    ]
    return "\n".join(f"  {line}" for line in lines)


def open_asks(events: Iterable[Event]) -> list[AskRow]:
    """Return what the tasks of a run wait for, by its events so far."""
    found: dict[str, AskRow] = {}
    for event in events:
        if event.ask is not None:
            found.pop(event.ask.ask_id, None)
            if event.type is EventType.TASK_ASKED:
                found[event.ask.ask_id] = event.ask
    return list(found.values())


def _run_lines(run_id: str, events: Iterable[Event], now_ms: int) -> Iterator[str]:
    events = list(events)
    run: RunRow | None = None
    tasks: dict[str, TaskRow] = {}
    for event in events:
        run = event.run or run
        if event.task is not None:
            tasks[event.task.task_id] = event.task
    if run is None:
        yield f"run {run_id}: no coordinator has taken it in"
        return
    why_not = "" if run.failure is None else f": {run.failure.message}"
    yield f"run {run_id} is {run.state.value}{why_not}"
    for task in tasks.values():
        if task.state in _ENDED:
            continue
        line = f"task {task.task_id} ({task.agent}.{task.task}), attempt {task.attempt}: "
        line += task.state.value
        if task.retry_ms is not None and task.state is TaskState.RETRYING:
            line += f", the next attempt in {(task.retry_ms - now_ms) / 1000:g} s"
        if task.failure is not None:
            line += f", after {task.failure.error_class}: {task.failure.message}"
        yield line
    for ask in () if run.finished_ms is not None else open_asks(events):
        until = f", for {(ask.until_ms - now_ms) / 1000:g} s more" if ask.until_ms else ""
        yield f"task {ask.task_id} {ask.describe()}{until}"


def _process_lines(processes: Iterable[Process]) -> Iterator[str]:
    for process in processes:
        if not process.alive:
            yield f"process {process.name} is dead: {process.reason}"
        elif process.stopped:
            yield f"process {process.name} is paused"


def _call_lines(calls: Iterable[Call], now_ms: int) -> Iterator[str]:
    for call in calls:
        if call.outcome != "running" or call.waits_in is None:
            continue
        place = _place(call.waits_in)
        where = f", at {place}" if place else ""
        yield f"{call} has run for {(now_ms - call.at_ms) / 1000:g} s in {call.process}{where}"


def _place(task: asyncio.Task[object]) -> str:
    """The innermost line of a user's own code in which a task waits."""
    place = ""
    awaited: object = task.get_coro()
    while awaited is not None:
        frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "gi_frame", None)
        if isinstance(frame, types.FrameType):
            path = frame.f_code.co_filename
            if not path.startswith((_OWN, _ASYNCIO)):
                place = f"{Path(path).name}:{frame.f_lineno} in {frame.f_code.co_name}"
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None)
    return place
