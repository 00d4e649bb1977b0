"""Tasks of a run that goes on without them: asked to end, or ended; the parts of a map too.

A map, a loop or a plan ends at once; its items, rounds and runs are asked for their end each, and
found again in the state alone, when an event has no room for all of them. An agent that does not
answer within the grace is answered for: its attempt is fenced by the release that follows.
"""

from __future__ import annotations

from holdfast.coordinator.engine.graph import Node
from holdfast.coordinator.engine.run.asks import close_asks
from holdfast.coordinator.engine.run.cancelling import ask_to_cancel, cut
from holdfast.coordinator.engine.run.transition import Transition
from holdfast.coordinator.engine.states import TASK_ENDS
from holdfast.schemas.records import FailureKind, TaskEntry, TaskState

__all__ = ["DROPPED_RECORDS", "drop", "drop_parts", "leaves_parts"]

DROPPED_RECORDS = 5
"""The most that dropping one task takes: its event, its record, a cancel, a release, a letter."""
_DROPPED = (TaskState.DISPATCHED, TaskState.RETRYING, TaskState.DEAD, TaskState.EXPANDED)
_AT_WORK = (*_DROPPED, TaskState.CANCELLING)


def drop(t: Transition, entry: TaskEntry, kind: FailureKind) -> None:
    """Let one task end that nobody waits for any more; one that is ending already is left."""
    if entry.row.state is TaskState.DISPATCHED:
        ask_to_cancel(t, entry, kind)
    elif entry.row.state in _DROPPED:
        cut(t, entry, kind)
        close_asks(t, entry.row.task_id)
        t.scope.lists.forget(t.run_id, entry.row.task_id)


def drop_parts(t: Transition, node: Node, kind: FailureKind) -> None:
    """Let the items or the round of a task end that has ended; what does not fit is left."""
    if not t.count(_DROPPED, node.id):
        return
    prefix = f"{node.id}."
    for name in sorted(n for n in t.overlay.names() if n.startswith(prefix)):
        entry = t.task(name)
        if entry is None or entry.row.state not in _DROPPED:
            continue
        if t.room() < DROPPED_RECORDS + t.scope.limits.reserve:
            t.more = True
            return
        drop(t, entry, kind)


def leaves_parts(t: Transition) -> bool:
    """Whether parts of a task that has ended are still at work."""
    for name in t.graph.maps:
        entry = t.task(name)
        if entry is not None and entry.row.state in TASK_ENDS and t.count(_AT_WORK, name):
            return True
    return False
