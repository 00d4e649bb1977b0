"""Why a run stands where it stands, and what would help: from the projection alone.

Pure over its views: `why` reads them and puts each reason into words. The most telling come first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sqlalchemy.engine import Connection

from holdfast.coordinator.projection.agents import list_agents
from holdfast.coordinator.projection.dead_letters import DeadLetterView, list_dead_letters
from holdfast.coordinator.projection.history import last_progress
from holdfast.coordinator.projection.pauses import PauseView, list_pauses, pause_reasons
from holdfast.coordinator.projection.reasons import Reason, utc
from holdfast.coordinator.projection.runs import RunView, find_run
from holdfast.coordinator.projection.tasks import TaskView, find_task, list_tasks
from holdfast.coordinator.projection.waits import SignalView, WaitView, list_signals, list_waits
from holdfast.coordinator.projection.why_breakers import Breakers, breaker_reasons
from holdfast.coordinator.projection.why_waits import unclaimed, wait_reasons
from holdfast.schemas import RunState, TaskState
from holdfast.schemas.plan_settings import UNDOING

__all__ = ["ALIVE_MS", "why", "why_task"]

ALIVE_MS = 60_000
"""An instance whose last sign of life is older counts as not running."""
ITEMS_SHOWN = 20
WAITS_READ = 10_000
"""As many as a run can wait for."""
_OPEN_STATES = (
    TaskState.DEAD,
    TaskState.RETRYING,
    TaskState.CANCELLING,
    TaskState.DISPATCHED,
    TaskState.EXPANDED,
)


def why(connection: Connection, run_id: str, now_ms: int) -> list[Reason] | None:
    """Return the reasons, or None if there is no such run."""
    run = find_run(connection, run_id)
    if run is None:
        return None
    if run.finished_ms is not None:
        return _ended(run, list_dead_letters(connection, run_id=run_id))
    found = _of_run(run, now_ms)
    look = _Look.at(connection, run_id, now_ms)
    tasks = list_tasks(connection, run_id)
    for task in _open_tasks(connection, run_id, tasks):
        found.extend(look.reasons(task))
    found.extend(unclaimed(look.signals, look.waits, now_ms))
    found.extend(_pending(run, tasks))
    return found


def why_task(connection: Connection, run_id: str, task_id: str, now_ms: int) -> list[Reason] | None:
    """Return the reasons of one task, an item or a called task too; None if it has no row."""
    task = find_task(connection, run_id, task_id)
    if task is None:
        return None
    found = []
    if task.caller is not None:
        found.append(Reason(task_id, "called", f"task {task.caller!r} has called it"))
    if task.state in _OPEN_STATES:
        return [*_Look.at(connection, run_id, now_ms).reasons(task), *found]
    text = f"it is {task.state} since {utc(task.finished_ms)}"
    if task.failure is not None:
        text += f": {_failure(task.failure)}"
    if task.ruling is not None:
        text += f": {task.ruling['action']} by {_ruling(task.ruling)}"
    return [Reason(task_id, task.state.value, text), *found]


@dataclass(frozen=True, slots=True)
class _Look:
    """What is known of an open run beside its tasks."""

    alive: dict[str, int]
    breakers: list[Breakers]
    pauses: list[PauseView]
    letters: dict[str | None, DeadLetterView]
    waits: list[WaitView]
    signals: list[SignalView]
    progress: dict[tuple[str, int], tuple[str, int]]
    now_ms: int

    @classmethod
    def at(cls, connection: Connection, run_id: str, now_ms: int) -> _Look:
        """Read it."""
        letters = list_dead_letters(connection, run_id=run_id, limit=1_000)
        agents = [a for a in list_agents(connection) if now_ms - a.seen_ms <= ALIVE_MS]
        return cls(
            alive=dict(Counter(agent.agent for agent in agents)),
            pauses=list_pauses(connection),
            breakers=[Breakers.of(agent) for agent in agents if agent.breakers],
            letters={letter.task_id: letter for letter in letters if letter.open},
            waits=list_waits(connection, run_id, limit=WAITS_READ),
            signals=list_signals(connection, run_id),
            progress=last_progress(connection, run_id),
            now_ms=now_ms,
        )

    def reasons(self, task: TaskView) -> list[Reason]:
        """Return those of an open task: what its handler waits for, or how far it has come."""
        waits = [wait for wait in self.waits if wait.row.task_id == task.task_id]
        if not waits or task.state is not TaskState.DISPATCHED:
            found = [_of_task(task, self.alive, self.letters, self.now_ms)]
            found += self._progress(task)
            found += pause_reasons(task, self.pauses)
            return found + breaker_reasons(task, self.breakers, self.now_ms)
        found = wait_reasons(task, waits, self.signals, self.now_ms)
        if not self.alive.get(task.agent):
            text = "will go on once that has come"
            found.append(_with_agent(task, "dispatched", text, self.alive))
        return found + pause_reasons(task, self.pauses)

    def _progress(self, task: TaskView) -> list[Reason]:
        """Return the last word that a handler at work has said."""
        said = self.progress.get((task.task_id, task.attempt))
        if said is None or task.state is not TaskState.DISPATCHED:
            return []
        ago_s = max(0, self.now_ms - said[1]) / 1_000
        return [Reason(task.task_id, "progress", f"said {ago_s:.0f} s ago: {said[0]}")]


def _ended(run: RunView, letters: list[DeadLetterView]) -> list[Reason]:
    if run.state is RunState.SUCCEEDED:
        return [Reason("", "succeeded", f"it has succeeded at {utc(run.finished_ms)}")]
    text = f"it is {run.state} since {utc(run.finished_ms)}"
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
        # Of a task that was replayed its newest attempt counts, and nothing if that has succeeded.
        if letter.task_attempt in (None, letter.attempt)
        and letter.task_state != TaskState.SUCCEEDED
    )
    return found


def _of_run(run: RunView, now_ms: int) -> list[Reason]:
    found = []
    if run.start_ms is not None and run.start_ms > now_ms:
        wait_s = (run.start_ms - now_ms) / 1_000
        text = f"nothing of it starts before {utc(run.start_ms)}, {wait_s:.0f} s from now"
        found.append(Reason("", "delayed", text))
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
    elif run.state is RunState.COMPENSATING:
        text = "it is compensating: what had succeeded is being undone, the last success first"
        found.append(Reason("", run.state.value, text))
    if run.deadline_ms is not None and run.state is not RunState.COMPENSATING:
        found.append(Reason("", "deadline", f"it must have ended by {utc(run.deadline_ms)}"))
    return found


def _open_tasks(connection: Connection, run_id: str, tasks: list[TaskView]) -> list[TaskView]:
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
    # Those that undo a map's items, whichever map it is.
    found += list_tasks(
        connection, run_id, states=_OPEN_STATES, items_of=f"{UNDOING}%", limit=ITEMS_SHOWN
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
    build = f" (build {task.build_id.partition('+holdfast-')[0]})" if task.build_id else ""
    text = f"attempt {task.attempt} of {task.agent}.{task.task}{build} is in the dead letters{what}"
    if task.failure is not None:
        text += f": {_failure(task.failure)}"
    remedy = "" if letter is None else f"holdfast dead-letters replay {letter.dead_letter_id}"
    if task.task_id.startswith(UNDOING):
        text = f"{task.undoes} cannot be undone, and all before it waits: {text}"
        text += "; undo it by hand and discard this, or replay it"
        return Reason(task.task_id, "compensation-stuck", text, remedy)
    return Reason(task.task_id, "dead-letter", text, remedy)


def _retrying(task: TaskView, _alive: dict[str, int], now_ms: int) -> Reason:
    wait_s = max(0, (task.retry_ms or now_ms) - now_ms) / 1_000
    text = f"attempt {task.attempt} failed, the next is due in {wait_s:.0f} s"
    if task.failure is not None:
        text += f": {_failure(task.failure)}"
        if task.failure.get("breaker"):
            text += f" ({task.failure['breaker']!r} is out of reach: that attempt is not counted)"
    return Reason(task.task_id, "retrying", text)


def _cancelling(task: TaskView, alive: dict[str, int], _now_ms: int) -> Reason:
    text = f"was told to stop; the answer of agent {task.agent} is awaited"
    if task.ruling is not None:
        text = f"is to {task.ruling['action']}, by {_ruling(task.ruling)}; it {text}"
    return _with_agent(task, "cancelling", text, alive)


def _expanded(task: TaskView, _alive: dict[str, int], _now_ms: int) -> Reason:
    if task.child is not None:
        text = f"run {task.child} works it (plan {task.task})"
        return Reason(task.task_id, "run", text, f"holdfast why {task.child}")
    if task.is_loop:
        text = f"{task.done} of at most {task.total} rounds are done"
        return Reason(task.task_id, "loop", text)
    text = f"{task.done} of {task.total} items are done"
    if task.failed:
        text += f", {task.failed} of them failed"
    if task.arrives_from is None:
        return Reason(task.task_id, "map", text)
    text += f"; task {task.arrives_from!r} is at work and may hand out more"
    remedy = f"holdfast why {task.run_id}/{task.arrives_from}"
    return Reason(task.task_id, "map.arriving", text, remedy)


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
    if run.state is RunState.COMPENSATING:
        return []  # they will never begin
    nodes: dict[str, Any] = ((run.plan or {}).get("plan") or run.plan or {}).get("tasks", {})
    known = {task.task_id for task in tasks}
    unfinished = [task.task_id for task in tasks if task.finished_ms is None]
    waiting = [node for node in nodes if node not in known]
    if not waiting:
        return []
    told, who = f"{waiting[0]} has not begun", "it waits"
    if len(waiting) > 1:
        told, who = f"{len(waiting)} tasks have not begun", "they wait"
    for_what = f": {who} for {', '.join(unfinished[:8])}" if unfinished else ""
    return [Reason("", "pending", told + for_what)]


def _ruling(ruling: dict[str, Any]) -> str:
    said = f": {ruling['reason']}" if ruling["reason"] else ""
    return f"{ruling['actor']}{said}"


def _failure(failure: dict[str, Any]) -> str:
    return f"{failure['error_class'] or failure['kind']}: {failure['message']}"
