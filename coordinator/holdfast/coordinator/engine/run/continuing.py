"""Going on with what one event could not hold, or what a pause held back.

What is left is found in the state alone: so it is found after a crash too, and to look where
nothing is left does nothing.
"""

from __future__ import annotations

from holdfast.coordinator.engine.counting import ASKS
from holdfast.coordinator.engine.run import maps
from holdfast.coordinator.engine.run.asks import left_asks
from holdfast.coordinator.engine.run.dispatch import dispatch
from holdfast.coordinator.engine.run.ending import bury, settle
from holdfast.coordinator.engine.run.growing import cancel_tasks
from holdfast.coordinator.engine.run.joins import drop_losers
from holdfast.coordinator.engine.run.starting import advance, go_on_parts
from holdfast.coordinator.engine.run.transition import Transition
from holdfast.coordinator.engine.states import RUN_ENDS
from holdfast.schemas.records import TaskEntry, TaskState

__all__ = ["go_on_all", "on_continuation", "retry"]

_RETRY_RECORDS = 3
_HELD_BACK = (TaskState.RETRYING, TaskState.PENDING)


def on_continuation(t: Transition) -> None:
    """Do what is left of the run's work."""
    if t.run.row.state in RUN_ENDS:
        bury(t)
        return
    if t.overlay.count(ASKS, ""):
        left_asks(t)
    if not t.ending:
        go_on_all(t)
    settle(t)


def go_on_all(t: Transition) -> None:
    """Start what may be started, retry what was held back, fill the windows of all maps."""
    graph = t.graph
    cancel_tasks(t, graph.cancelled)
    drop_losers(t, graph.nodes)
    advance(t, graph.nodes)
    if t.starting:
        _send_held_back(t)
    for name in graph.maps:
        if t.task(name) is not None and not t.ending:
            maps.close_chunks(t, graph.nodes[name])
            go_on_parts(t, graph.nodes[name])


def retry(t: Transition, entry: TaskEntry) -> None:
    """Send the next attempt of a task that was waiting for its time."""
    task_id = entry.row.task_id
    payload = entry.row.input
    if payload is None and "." in task_id:
        payload = t.item_input(task_id)
    dispatch(t, t.node_of(task_id), entry, payload)


def _send_held_back(t: Transition) -> None:
    """Send what a pause held back: retries that came due, and tasks that a handler called."""
    if not t.count_all(_HELD_BACK):
        return
    for name in sorted(t.overlay.names()):
        entry = t.overlay.get(name)
        if not isinstance(entry, TaskEntry) or entry.timer_ms is not None:
            continue
        if entry.row.state not in _HELD_BACK:
            continue
        if t.room() < _RETRY_RECORDS + t.scope.limits.reserve:
            t.more = True
            return
        retry(t, entry)
