"""Starting the tasks of a run when what they wait for has ended.

A task is started when all it depends on has succeeded or was skipped. If all of that was skipped,
it is skipped too; if some was, it is started, and what it selects from the skipped ones is null.
What a change of the plan cancelled counts as skipped; what it skipped waits for nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from holdfast.coordinator.engine.graph import Node
from holdfast.coordinator.engine.run import joins, maps
from holdfast.coordinator.engine.run.dispatch import dispatch, encode_input, order_key
from holdfast.coordinator.engine.run.dropping import drop_parts
from holdfast.coordinator.engine.run.ending import fail_run
from holdfast.coordinator.engine.run.failing import end_task, failure_of, give_up
from holdfast.coordinator.engine.run.folding import drop_fold
from holdfast.coordinator.engine.run.joins import Verdict
from holdfast.coordinator.engine.run.loops import begin_loop, go_on_loop
from holdfast.coordinator.engine.run.rows import new_task, next_task, touch_task
from holdfast.coordinator.engine.run.ruling import skip_task
from holdfast.coordinator.engine.run.transition import Transition
from holdfast.coordinator.engine.states import TASK_ENDS
from holdfast.coordinator.engine.templates import MappingFailed
from holdfast.schemas.records import (
    EventType,
    Failure,
    FailureKind,
    Payload,
    TaskEntry,
    TaskState,
)

__all__ = ["advance", "carry_on", "fail_node", "go_on_parts", "restart"]

_PASSED_OVER = (TaskState.SKIPPED, TaskState.CANCELLED)
"""In a run that goes on a task is cancelled by a change of its plan, or as a loser of a join."""
_START_RECORDS = 4
"""The most that starting one task takes, its map's items apart."""


def advance(t: Transition, names: Iterable[str]) -> None:
    """Start those of `names` that can be, and what becomes possible by that."""
    graph = t.graph
    queue = deque(names)
    while queue and not t.ending:
        node = graph.nodes[queue.popleft()]
        begun = t.task(node.id)
        if begun is not None:
            if node.arrives_from is not None and begun.row.state is TaskState.EXPANDED:
                go_on_parts(t, node)  # more has arrived, or nothing will any more
            continue
        found = joins.verdict(t, node)
        if found is Verdict.WAIT or (found is Verdict.START and not t.starting):
            continue
        if t.room() < _START_RECORDS + t.scope.limits.reserve:
            t.more = True
            return
        entry = new_task(node.agent, node.task, node.id)
        if found is Verdict.LOST:
            if _lose(t, node, entry):
                queue.extend(node.dependants)
        elif _start(t, node, entry):
            queue.extend(node.dependants)
        joins.drop_losers(t, [node.id])


def _lose(t: Transition, node: Node, entry: TaskEntry) -> bool:
    """Give up a task that can never be started; True if the run goes on without it."""
    failure = joins.lost_failure(t, node)
    ends_run = joins.fatal(t, node.id)
    if node.join != "all" or not ends_run:
        end_task(t, entry, TaskState.FAILED, failure)
    if ends_run:
        _fail_run(t, node.id, failure)
    return not ends_run


def restart(t: Transition, node: Node, entry: TaskEntry) -> None:
    """Start a dead task that never got as far as an agent once more."""
    if _start(t, node, touch_task(entry)):
        advance(t, node.dependants)


def fail_node(t: Transition, entry: TaskEntry, failure: Failure) -> None:
    """Carry the failure of a task of the plan on: to the run, or to those that need the task."""
    if entry.row.state is not TaskState.FAILED:
        return
    name = entry.row.task_id
    if joins.fatal(t, name) and not _told_by_join(t, name):
        _fail_run(t, name, failure)
    else:
        advance(t, t.graph.nodes[name].dependants)


def _told_by_join(t: Transition, name: str) -> bool:
    """Whether it is a join that fails the run by this failure: `advance` gives that up, and says
    how many it had of how many it needs."""
    nodes = t.graph.nodes
    lost = [
        nodes[other]
        for other in nodes[name].dependants
        if t.task(other) is None and joins.verdict(t, nodes[other]) is Verdict.LOST
    ]
    return bool(lost) and not any(n.join == "all" and joins.fatal(t, n.id) for n in lost)


def _fail_run(t: Transition, name: str, failure: Failure) -> None:
    message = f"task {name!r} failed: {failure.message}"
    fail_run(t, Failure(failure.kind, failure.error_class, message, failure.traceback, False))


def _start(t: Transition, node: Node, entry: TaskEntry) -> bool:
    """Start a task; True if it has ended already, and not badly."""
    if node.join != "all" and not entry.joined:
        entry.joined = joins.succeeded_before(t, node)
    if node.id in t.run.reused:
        _succeed_at_once(t, entry, t.run.reused[node.id])
        return True
    try:
        if _skipped(t, node):
            skip_task(t, entry)
            return True
        if node.has_parts:
            return _start_parts(t, node, entry)
        payload = encode_input(t, node, t.document(node.input, node=node))
        key = order_key(t, node, payload)
    except MappingFailed as error:
        message = str(error)
        if not message.startswith("task "):
            message = f"task {node.id!r}: {message}"
        failure = failure_of(FailureKind.SCHEMA, message)
        fail_node(t, give_up(t, node, entry, failure), failure)
        return False
    entry.row.input = payload
    entry.row.order_key = key
    dispatch(t, node, entry, payload)
    return False


def _start_parts(t: Transition, node: Node, entry: TaskEntry) -> bool:
    """Start a map or a loop; as `_start`. Raises `MappingFailed`."""
    if node.over is not None:
        maps.expand(t, node, entry)
    else:
        begin_loop(t, node, entry)
    after = t.task(node.id)
    if after is not None and after.row.state is TaskState.FAILED:
        carry_on(t, node)
        return False
    return after is not None and after.row.state in TASK_ENDS


def go_on_parts(t: Transition, node: Node) -> None:
    """Go on with a map or a loop one of whose parts may have ended."""
    if node.over is not None:
        maps.go_on(t, node)
    else:
        go_on_loop(t, node)
    carry_on(t, node)


def carry_on(t: Transition, node: Node) -> None:
    """Draw the conclusions from a map or a loop, if it has ended; to do so again does nothing."""
    entry = t.task(node.id)
    if entry is None or entry.row.state not in TASK_ENDS:
        return
    if entry.row.state is TaskState.FAILED and entry.row.failure is not None:
        fail_node(t, entry, entry.row.failure)
    else:
        advance(t, node.dependants)
    by_itself = entry.row.state is TaskState.SUCCEEDED and entry.row.ruling is None
    if not by_itself and not t.ending:
        drop_parts(t, node, FailureKind.NOT_NEEDED)
        drop_fold(t, node)


def _succeed_at_once(t: Transition, entry: TaskEntry, output: Payload) -> None:
    after = next_task(t.run_id, entry, TaskState.SUCCEEDED)
    after.row.output = output
    after.row.finished_ms = t.now_ms
    t.put(after)
    t.emit_task(EventType.TASK_SUCCEEDED, after.row, f"taken over from run {t.run.row.origin}")


def _skipped(t: Transition, node: Node) -> bool:
    if node.dropped is not None:
        return True
    if node.dependencies and all(
        (entry := t.task(name)) is not None and entry.row.state in _PASSED_OVER
        for name in node.dependencies
    ):
        return True
    return node.when is not None and not node.when.make(t.document(node.when, node=node))
