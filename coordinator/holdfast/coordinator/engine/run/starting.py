"""Starting the tasks of a run when what they wait for has ended.

A task is started when all it depends on has succeeded or was skipped. If all of that was skipped,
it is skipped too; if some was, it is started, and what it selects from the skipped ones is null.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from holdfast.coordinator.engine.graph import Node
from holdfast.coordinator.engine.run import maps
from holdfast.coordinator.engine.run.dispatch import dispatch, encode_input, order_key
from holdfast.coordinator.engine.run.ending import fail_run
from holdfast.coordinator.engine.run.failing import failure_of, give_up
from holdfast.coordinator.engine.run.rows import new_task, next_task, touch_task
from holdfast.coordinator.engine.run.transition import Transition
from holdfast.coordinator.engine.templates import MappingFailed
from holdfast.schemas.records import (
    EventType,
    Failure,
    FailureKind,
    Payload,
    TaskEntry,
    TaskState,
)

__all__ = ["advance", "fail_node", "restart"]

_FINISHED = (TaskState.SUCCEEDED, TaskState.SKIPPED)
_START_RECORDS = 4
"""The most that starting one task takes, its map's items apart."""


def advance(t: Transition, names: Iterable[str]) -> None:
    """Start those of `names` that can be, and what becomes possible by that."""
    graph = t.graph
    queue = deque(names)
    while queue and t.starting:
        node = graph.nodes[queue.popleft()]
        if t.task(node.id) is not None or not _ready(t, node):
            continue
        if t.room() < _START_RECORDS + t.scope.limits.reserve:
            t.more = True
            return
        if _start(t, node, new_task(node.agent, node.task, node.id)):
            queue.extend(node.dependants)


def restart(t: Transition, node: Node, entry: TaskEntry) -> None:
    """Start a dead task that never got as far as an agent once more."""
    if _start(t, node, touch_task(entry)):
        advance(t, node.dependants)


def fail_node(t: Transition, entry: TaskEntry, failure: Failure) -> None:
    """Let the run fail for a task of its plan that has."""
    if entry.row.state is TaskState.FAILED:
        message = f"task {entry.row.task_id!r} failed: {failure.message}"
        fail_run(
            t,
            Failure(failure.kind, failure.error_class, message, failure.traceback, False),
        )


def _ready(t: Transition, node: Node) -> bool:
    for name in node.dependencies:
        entry = t.task(name)
        if entry is None or entry.row.state not in _FINISHED:
            return False
    return True


def _start(t: Transition, node: Node, entry: TaskEntry) -> bool:
    """Start a task; True if it has ended already, and not badly."""
    if node.id in t.run.reused:
        _succeed_at_once(t, entry, t.run.reused[node.id])
        return True
    try:
        if _skipped(t, node):
            after = next_task(t.run_id, entry, TaskState.SKIPPED)
            after.row.finished_ms = t.now_ms
            t.put(after)
            t.emit_task(EventType.TASK_SKIPPED, after.row)
            return True
        if node.over is not None:
            return maps.expand(t, node, entry)
        payload = encode_input(t, node, t.document(node.input))
        key = order_key(t, node)
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


def _succeed_at_once(t: Transition, entry: TaskEntry, output: Payload) -> None:
    after = next_task(t.run_id, entry, TaskState.SUCCEEDED)
    after.row.output = output
    after.row.finished_ms = t.now_ms
    t.put(after)
    t.emit_task(EventType.TASK_SUCCEEDED, after.row, f"taken over from run {t.run.row.origin}")


def _skipped(t: Transition, node: Node) -> bool:
    if node.dependencies and all(
        (entry := t.task(name)) is not None and entry.row.state is TaskState.SKIPPED
        for name in node.dependencies
    ):
        return True
    return node.when is not None and not node.when.make(t.document(node.when))
