"""A run as it goes on: a live table on a terminal, plain lines elsewhere. Goes to stderr."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from holdfast.cli.printing import clip, duration, note
from holdfast.schemas import AskRow, Event, EventType, RunRow, TaskRow, TaskState

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

__all__ = ["LiveProgress", "PlainProgress", "Progress", "open_progress"]

ROWS_MAX = 20
PLAIN_EVERY_S = 2.0
"""Items of maps are counted in plain lines at most this often."""
_QUIET = frozenset({EventType.TASK_DISPATCHED, EventType.TASK_SUCCEEDED, EventType.TASK_PROGRESSED})


class Progress(Protocol):
    """Shows one run."""

    def __enter__(self) -> Self:
        """Begin."""
        ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End; what was shown last stays."""
        ...

    def show(self, event: Event) -> None:
        """Take the run's next event."""
        ...


def open_progress(run_id: str) -> Progress:
    """Return the view that fits where stderr goes."""
    return LiveProgress(run_id) if sys.stderr.isatty() else PlainProgress(run_id)


class PlainProgress:
    """One line for each event that tells something; items of maps are counted, not listed."""

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._counted_at = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        return None

    def show(self, event: Event) -> None:
        """Print a line."""
        line = self._line(event)
        if line is not None:
            note(f"{self._run_id} {line}")

    def _line(self, event: Event) -> str | None:
        task = event.task
        if event.ask is not None:
            return _ask_line(event.type, event.ask)
        if task is None:
            return _run_line(event)
        if "." in task.task_id and event.type in _QUIET:
            return None
        if event.type is EventType.TASK_EXPANDED and task.done:
            return self._map_line(task)
        return _task_line(event, task)

    def _map_line(self, task: TaskRow) -> str | None:
        now = time.monotonic()
        if now - self._counted_at < PLAIN_EVERY_S and task.done < task.total:
            return None
        self._counted_at = now
        return f"{task.task_id}: {_items(task)}"


def _run_line(event: Event) -> str:
    text = str(event.type)
    if event.run is not None and event.run.failure is not None:
        text += f": {clip(event.run.failure.message)}"
    elif event.message:
        text += f": {clip(event.message)}"
    return text


def _ask_line(kind: EventType, ask: AskRow) -> str | None:
    if kind is not EventType.TASK_ASKED or "." in ask.task_id:
        return None
    return f"{ask.task_id} {ask.describe()}"


def _task_line(event: Event, task: TaskRow) -> str:
    text = f"{task.task_id} {str(event.type).removeprefix('task.')}"
    if task.attempt > 1:
        text += f" (attempt {task.attempt})"
    if event.type is EventType.TASK_PROGRESSED:
        return f"{task.task_id}: {clip(event.message)}"
    if task.failure is not None and task.state is not TaskState.DISPATCHED:
        text += f": {clip(task.failure.message)}"
    return text


def _items(task: TaskRow) -> str:
    failed = f", {task.failed} failed" if task.failed else ""
    return f"{task.done} of {task.total}{failed}"


class LiveProgress:
    """A table of the plan's tasks that is drawn again a few times a second."""

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self._run: RunRow | None = None
        self._tasks: dict[str, TaskRow] = {}
        self._said: dict[str, str] = {}
        self._done: dict[str, int] = {}
        self._began = time.monotonic()
        self._live: Live | None = None

    def __enter__(self) -> Self:
        from rich.console import Console
        from rich.live import Live

        self._live = Live(
            get_renderable=self._table, console=Console(stderr=True), refresh_per_second=8
        )
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, event: Event) -> None:
        """Take it; the table is drawn by its own clock."""
        if event.run is not None:
            self._run = event.run
        if event.ask is not None:
            waits = event.type is EventType.TASK_ASKED
            self._said[event.ask.task_id] = event.ask.describe() if waits else ""
        task = event.task
        if task is None:
            return
        map_id, dot, _ = task.task_id.partition(".")
        if not dot:
            self._tasks[task.task_id] = task
            if event.type is EventType.TASK_PROGRESSED:
                self._said[task.task_id] = event.message
        elif task.finished_ms is not None:
            # The map's own row tells of its items only now and then.
            self._done[map_id] = self._done.get(map_id, 0) + 1

    def _table(self) -> Table:
        from rich.box import SIMPLE
        from rich.table import Table

        state = "waiting for a coordinator" if self._run is None else self._run.state.value
        elapsed = duration(round((time.monotonic() - self._began) * 1_000))
        table = Table(box=SIMPLE, title=f"{self._run_id}: {state}, {elapsed}", title_justify="left")
        for header in ("task", "agent", "state", "attempt", ""):
            table.add_column(header)
        # The newest are what one looks at.
        rows = list(self._tasks.values())[-ROWS_MAX:]
        for task in rows:
            table.add_row(*self._cells(task))
        return table

    def _cells(self, task: TaskRow) -> tuple[Any, ...]:
        state = task.state.value
        said = self._said.get(task.task_id, "")
        if task.total:
            done = max(task.done, self._done.get(task.task_id, 0))
            said = f"{min(done, task.total)} of {task.total}" + (
                f", {task.failed} failed" if task.failed else ""
            )
        elif task.failure is not None:
            said = task.failure.message
        elif task.finished_ms is not None and task.started_ms is not None:
            said = duration(task.finished_ms - task.started_ms)
        work = f"{task.agent}.{task.task}" if task.agent else f"plan {task.task}"
        return task.task_id, work, state, str(task.attempt), clip(said, 60)
