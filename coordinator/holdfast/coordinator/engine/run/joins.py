"""Which tasks a task needs before it starts, and which it does not need any more then.

A task waits for *all* its dependencies, for *any* of them to end, for the *first success*, or for a
*quorum*. From that follows, for the whole graph:

- A failure is carried on to those that cannot be met without the task that failed. Where it
  reaches an end of the plan (a task that no other waits for), the run fails; else it is tolerated.
- A task is a *loser* when every task that waited for it goes on without it: it was started, or can
  never be. Losers are asked to end, and what only they needed too.

Both are read from the state alone, so that what one event has no room for is found again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from enum import Enum

from holdfast.coordinator.engine.graph import Node
from holdfast.coordinator.engine.run.arriving import has_emitted
from holdfast.coordinator.engine.run.dropping import DROPPED_RECORDS, drop, drop_parts
from holdfast.coordinator.engine.run.failing import end_task, failure_of
from holdfast.coordinator.engine.run.folding import drop_fold
from holdfast.coordinator.engine.run.rows import new_task
from holdfast.coordinator.engine.run.transition import Transition
from holdfast.coordinator.engine.states import TASK_ENDS
from holdfast.schemas.records import Failure, FailureKind, TaskEntry, TaskState

__all__ = ["Verdict", "drop_losers", "fatal", "lost_failure", "succeeded_before", "verdict"]

_PASSED_OVER = (TaskState.SKIPPED, TaskState.CANCELLED)
_NAMES_SHOWN = 8


class Verdict(Enum):
    """What a task that was not started is to do."""

    WAIT = "wait"
    START = "start"  # or to be skipped, if all it waits for was
    LOST = "lost"  # what it needs cannot come any more


@dataclass(slots=True)
class _Tally:
    """How a task's dependencies stand; `open`: how many have not ended."""

    succeeded: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    passed_over: list[str] = field(default_factory=list)
    open: int = 0


def verdict(t: Transition, node: Node, lost: Collection[str] = ()) -> Verdict:
    """Decide by how its dependencies stand; `lost`: those that are as good as failed."""
    if node.dropped is not None:
        return Verdict.START  # to be skipped
    if node.join == "all":
        return _all(t, node, lost)
    found = _tally(t, node, lost)
    if not found.open and not found.succeeded and not found.failed:
        return Verdict.START  # to be skipped
    if node.join == "any":
        return Verdict.START if found.succeeded or found.failed else Verdict.WAIT
    needed = _needed(node)
    if len(found.succeeded) >= needed:
        return Verdict.START
    return Verdict.WAIT if len(found.succeeded) + found.open >= needed else Verdict.LOST


def _all(t: Transition, node: Node, lost: Collection[str]) -> Verdict:
    """The common case, in which nothing needs to be counted."""
    waits = False
    for name in node.dependencies:
        entry = t.task(name)
        if name in lost or (entry is not None and entry.row.state is TaskState.FAILED):
            return Verdict.LOST
        if name == node.arrives_from and has_emitted(t, name):
            continue  # it is begun with the first items
        waits = waits or entry is None or entry.row.state not in TASK_ENDS
    return Verdict.WAIT if waits else Verdict.START


def _tally(t: Transition, node: Node, lost: Collection[str] = ()) -> _Tally:
    found = _Tally()
    for name in node.dependencies:
        entry = t.task(name)
        state = TaskState.PENDING if entry is None else entry.row.state
        if name in lost or state is TaskState.FAILED:
            found.failed.append(name)
        elif state is TaskState.SUCCEEDED:
            found.succeeded.append(name)
        elif state in _PASSED_OVER:
            found.passed_over.append(name)
        else:
            found.open += 1
    return found


def _needed(node: Node) -> int:
    return node.join if isinstance(node.join, int) else 1


def succeeded_before(t: Transition, node: Node) -> list[str]:
    """Return which of its dependencies a task may read: those that have succeeded by now."""
    return _tally(t, node).succeeded


def lost_failure(t: Transition, node: Node) -> Failure:
    """Return why a task can never be started."""
    found = _tally(t, node)
    if node.join == "all":
        name = found.failed[0]
        entry = t.task(name)
        failure = None if entry is None else entry.row.failure
        said = "" if failure is None else f": {failure.message}"
        return failure_of(FailureKind.UPSTREAM, f"task {name!r}, which it waits for, failed{said}")
    needed = _needed(node)
    message = (
        f"{len(found.succeeded)} of {len(node.dependencies)} succeeded;"
        f" {needed} {'is' if needed == 1 else 'are'} needed; failed: {_named(found.failed)}"
    )
    if found.passed_over:
        message += f"; skipped or cancelled: {_named(found.passed_over)}"
    return failure_of(FailureKind.UPSTREAM, message)


def _named(names: list[str]) -> str:
    shown = ", ".join(names[:_NAMES_SHOWN]) or "none"
    left = len(names) - _NAMES_SHOWN
    return shown if left <= 0 else f"{shown} and {left} more"


# --- failures ----------------------------------------------------------------------------------


def fatal(t: Transition, name: str) -> bool:
    """Whether the run fails by the failure of a task: it is carried on to an end of the plan."""
    graph = t.graph
    if not graph.races:
        return True
    lost = {name}
    found = [name]
    while found:
        by = found.pop()
        dependants = [n for n in graph.nodes[by].dependants if graph.nodes[n].dropped is None]
        if not dependants:
            return True  # an end of the plan, or of what a change has left of it
        for other in dependants:
            entry = t.task(other)
            if entry is not None:
                if entry.row.state is TaskState.EXPANDED and graph.nodes[other].arrives_from == by:
                    lost.add(other)  # it is at work already, and fails with the rest of its items
                    found.append(other)
                elif not _indifferent(graph.nodes[other], entry):
                    return True
            elif other not in lost and verdict(t, graph.nodes[other], lost) is Verdict.LOST:
                lost.add(other)
                found.append(other)
    return False


def _indifferent(node: Node, entry: TaskEntry) -> bool:
    """Whether a task that has an entry is past caring what becomes of its dependencies."""
    if node.join != "all" or entry.row.state is TaskState.FAILED:
        return True
    failure = entry.row.failure
    return failure is not None and failure.kind is FailureKind.NOT_NEEDED


# --- losers ------------------------------------------------------------------------------------


def drop_losers(t: Transition, names: Iterable[str]) -> None:
    """Let those end that were needed for `names` alone, which go on, or end, without them."""
    graph = t.graph
    if not graph.races:
        return
    queue = deque(names)
    while queue:
        node = graph.nodes[queue.popleft()]
        if not _releases(t, node):
            continue
        for name in node.dependencies:
            loser = graph.nodes[name]
            entry = t.task(name)
            if entry is not None and entry.row.state in TASK_ENDS:
                if loser.has_parts:
                    drop_parts(t, loser, FailureKind.NOT_NEEDED)
                    drop_fold(t, loser)
                continue
            if not all(_releases(t, graph.nodes[other]) for other in loser.dependants):
                continue
            if t.room() < DROPPED_RECORDS + t.scope.limits.reserve:
                t.more = True
                return
            _drop(t, loser, entry)
            queue.append(name)


def _drop(t: Transition, node: Node, entry: TaskEntry | None) -> None:
    if entry is None:
        entry = new_task(node.agent, node.task, node.id)
        message = "all that waited for it goes on without it"
        failure = failure_of(FailureKind.NOT_NEEDED, message)
        end_task(t, entry, TaskState.CANCELLED, failure)
        return
    drop(t, entry, FailureKind.NOT_NEEDED)
    if node.has_parts:
        drop_parts(t, node, FailureKind.NOT_NEEDED)
        drop_fold(t, node)


def _releases(t: Transition, node: Node) -> bool:
    """Whether a task does without those of its dependencies that have not ended."""
    entry = t.task(node.id)
    return entry is not None and not node.leaves_losers and _indifferent(node, entry)
