"""Why a run stands where it stands, and what would help: from the projection alone.

Pure over its views: `why` reads them and puts each reason into words. The most telling come first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy.engine import Connection

from holdfast.coordinator.projection.queries import (
    DeadLetterView,
    RunView,
    TaskView,
    find_run,
    list_agents,
    list_dead_letters,
    list_tasks,
)
from holdfast.schemas import RunState, TaskState

__all__ = ["ALIVE_MS", "Reason", "why"]

ALIVE_MS = 60_000
"""An instance whose last sign of life is older counts as not running."""
ITEMS_SHOWN = 20
_OPEN_STATES = (
    TaskState.DEAD,
    TaskState.RETRYING,
    TaskState.CANCELLING,
    TaskState.DISPATCHED,
    TaskState.EXPANDED,
)


@dataclass(frozen=True, slots=True)
class Reason:
    """One reason. `subject`: the task's id, or "" for the run; `remedy`: a command, or ""."""

    subject: str
    code: str
    text: str
    remedy: str = ""


def why(connection: Connection, run_id: str, now_ms: int) -> list[Reason] | None:
    """Return the reasons, or None if there is no such run."""
    run = find_run(connection, run_id)
    if run is None:
        return None
    if run.finished_ms is not None:
        return _ended(run, list_dead_letters(connection, run_id=run_id))
    found = _of_run(run)
    alive = _alive_agents(connection, now_ms)
    letters = {
        letter.task_id: letter
        for letter in list_dead_letters(connection, run_id=run_id, limit=1_000)
        if letter.open
    }
    tasks = list_tasks(connection, run_id)
    for task in _open_tasks(connection, tasks):
        found.append(_of_task(task, alive, letters, now_ms))
    found.extend(_pending(run, tasks))
    return found


def _ended(run: RunView, letters: list[DeadLetterView]) -> list[Reason]:
    if run.state is RunState.SUCCEEDED:
        return [Reason("", "succeeded", f"it has succeeded at {_time(run.finished_ms)}")]
    text = f"it is {run.state} since {_time(run.finished_ms)}"
    if run.failure is not None:
        text += f": {_failure(run.failure)}"
    found = [Reason("", run.state.value, text)]
    found.extend(
        Reason(
            letter.task_id or "",
            f"dead-letter.{letter.reason}",
            f"attempt {letter.attempt} is in the dead letters ({letter.reason})",
            f"holdfast dead-letters show {letter.dead_letter_id}",
        )
        for letter in letters
    )
    return found


def _of_run(run: RunView) -> list[Reason]:
    found = []
    if run.state is RunState.PAUSED:
        text = "it is paused: nothing new is handed out"
        found.append(Reason("", "paused", text, f"holdfast run resume {run.run_id}"))
    elif run.state is RunState.WAITING:
        found.append(
            Reason("", "waiting", "nothing can go on before its dead letters are dealt with")
        )
    elif run.state in (RunState.CANCELLING, RunState.FAILING):
        text = f"it is {run.state}: tasks that run were told to stop, their answers are awaited"
        found.append(Reason("", run.state.value, text))
    if run.deadline_ms is not None:
        found.append(Reason("", "deadline", f"it must have ended by {_time(run.deadline_ms)}"))
    return found


def _open_tasks(connection: Connection, tasks: list[TaskView]) -> list[TaskView]:
    found: list[TaskView] = []
    for task in tasks:
        if task.state not in _OPEN_STATES:
            continue
        found.append(task)
        if task.state is TaskState.EXPANDED:
            found += list_tasks(
                connection,
                task.run_id,
                states=_OPEN_STATES,
                items_of=task.task_id,
                limit=ITEMS_SHOWN,
            )
    return sorted(found, key=lambda task: _OPEN_STATES.index(task.state))


def _of_task(
    task: TaskView, alive: dict[str, int], letters: dict[str | None, DeadLetterView], now_ms: int
) -> Reason:
    if task.state is TaskState.DEAD:
        return _dead(task, letters.get(task.task_id))
    describe: Callable[..., Reason] = {
        TaskState.RETRYING: _retrying,
        TaskState.CANCELLING: _cancelling,
        TaskState.EXPANDED: _expanded,
    }.get(task.state, _dispatched)
    return describe(task, alive, now_ms)


def _dead(task: TaskView, letter: DeadLetterView | None) -> Reason:
    what = "" if letter is None else f" ({letter.reason})"
    text = f"attempt {task.attempt} of {task.agent}.{task.task} is in the dead letters{what}"
    if task.failure is not None:
        text += f": {_failure(task.failure)}"
    remedy = "" if letter is None else f"holdfast dead-letters replay {letter.dead_letter_id}"
    return Reason(task.task_id, "dead-letter", text, remedy)


def _retrying(task: TaskView, _alive: dict[str, int], now_ms: int) -> Reason:
    wait_s = max(0, (task.retry_ms or now_ms) - now_ms) / 1_000
    text = f"attempt {task.attempt} failed, the next is due in {wait_s:.0f} s"
    if task.failure is not None:
        text += f": {_failure(task.failure)}"
    return Reason(task.task_id, "retrying", text)


def _cancelling(task: TaskView, alive: dict[str, int], _now_ms: int) -> Reason:
    text = f"was told to stop; the answer of agent {task.agent} is awaited"
    return _with_agent(task, "cancelling", text, alive)


def _expanded(task: TaskView, _alive: dict[str, int], _now_ms: int) -> Reason:
    text = f"{task.done} of {task.total} items are done"
    if task.failed:
        text += f", {task.failed} of them failed"
    return Reason(task.task_id, "map", text)


def _dispatched(task: TaskView, alive: dict[str, int], now_ms: int) -> Reason:
    since_s = max(0, now_ms - (task.dispatched_ms or now_ms)) / 1_000
    text = f"attempt {task.attempt} is with agent {task.agent} since {since_s:.0f} s"
    if task.order_key is not None:
        text += f", in the order of key {task.order_key!r}"
    return _with_agent(task, "dispatched", text, alive)


def _with_agent(task: TaskView, code: str, text: str, alive: dict[str, int]) -> Reason:
    if not alive.get(task.agent):
        return Reason(
            task.task_id,
            "agent-down",
            f"{text}, but no instance of it has been seen for {ALIVE_MS // 1_000} s",
            f"start it: holdfast agent MODULE:{task.agent}",
        )
    return Reason(task.task_id, code, text)


def _pending(run: RunView, tasks: list[TaskView]) -> list[Reason]:
    """Tasks of the plan without a row wait for those that have not ended."""
    nodes: dict[str, Any] = ((run.plan or {}).get("plan") or run.plan or {}).get("tasks", {})
    known = {task.task_id for task in tasks}
    unfinished = [task.task_id for task in tasks if task.finished_ms is None]
    waiting = [node for node in nodes if node not in known]
    if not waiting:
        return []
    told = (
        f"{len(waiting)} tasks have not begun"
        if len(waiting) > 1
        else f"{waiting[0]} has not begun"
    )
    for_what = f": they wait for {', '.join(unfinished[:8])}" if unfinished else ""
    return [Reason("", "pending", told + for_what)]


def _alive_agents(connection: Connection, now_ms: int) -> dict[str, int]:
    alive: dict[str, int] = {}
    for agent in list_agents(connection):
        if now_ms - agent.seen_ms <= ALIVE_MS:
            alive[agent.agent] = alive.get(agent.agent, 0) + 1
    return alive


def _failure(failure: dict[str, Any]) -> str:
    return f"{failure['error_class'] or failure['kind']}: {failure['message']}"


def _time(at_ms: int | None) -> str:
    moment = datetime.fromtimestamp((at_ms or 0) / 1_000, UTC)
    return moment.strftime("%Y-%m-%d %H:%M:%S UTC")
