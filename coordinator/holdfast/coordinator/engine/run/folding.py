"""A map's reducer: its outputs folded chunk by chunk, in the order of the list.

A chunk that is closed is handed to the reducer's agent as `{"previous", "items"}`, one chunk at a
time; what it gives stands in `<map>/folded` until the next. So a map with a reducer holds its
window, the chunks that wait for the reducer (`AHEAD_CHUNKS` at most), and one output.

The reducer's task is of the kind that handlers call (`CallSpec`): no plan has it.
"""

from __future__ import annotations

import hashlib
from typing import Any

from holdfast.coordinator.engine.counting import CALLED
from holdfast.coordinator.engine.graph import Node, call_node
from holdfast.coordinator.engine.run.dispatch import dispatch
from holdfast.coordinator.engine.run.dropping import drop
from holdfast.coordinator.engine.run.failing import failure_of
from holdfast.coordinator.engine.run.lists import folded_name, outputs_name
from holdfast.coordinator.engine.run.rows import new_task, touch_task
from holdfast.coordinator.engine.run.transition import Transition
from holdfast.coordinator.engine.states import TASK_ENDS
from holdfast.coordinator.engine.templates import MappingFailed
from holdfast.schemas.errors import Undecodable, Unencodable
from holdfast.schemas.records import (
    CallSpec,
    Failure,
    FailureKind,
    ListChunk,
    Payload,
    TaskEntry,
    TaskState,
)

__all__ = [
    "drop_fold",
    "far_ahead",
    "fold",
    "folded",
    "forget_fold",
    "is_fold",
    "leaves_fold",
    "take_fold",
]

AHEAD_CHUNKS = 8
"""How many chunks of items a map with a reducer may be ahead of it, its window apart."""
_NAME = "reduce"


def far_ahead(t: Transition, node: Node, entry: TaskEntry) -> bool:
    """Whether a map has to wait for its reducer: what it holds would grow without bound."""
    if node.reducer is None:
        return False
    chunk = t.scope.limits.chunk_items
    return entry.next_index >= (entry.reduced + AHEAD_CHUNKS) * chunk + node.max_parallel


def fold(t: Transition, node: Node) -> Failure | None:
    """Hand the next chunk to the reducer, if it is closed; return why that cannot be."""
    entry = t.task(node.id)
    if node.reducer is None or entry is None or not t.starting:
        return None
    record = t.overlay.get(outputs_name(node.id, entry.reduced))
    task_id = _task_id(node.id, entry.reduced)
    if not isinstance(record, ListChunk) or t.task(task_id) is not None:
        return None
    if t.room() < t.scope.limits.reserve:
        t.more = True
        return None
    resolved = node.reducer
    task = new_task(resolved.agent, resolved.task, task_id)
    task.call = CallSpec(
        caller=node.id,
        name=_NAME,
        key=str(entry.reduced),
        input_schema_id=resolved.input_schema_id,
        retry=resolved.retry,
        timeout_ms=resolved.timeout_ms,
        queue_timeout_ms=resolved.queue_timeout_ms,
        progress_timeout_ms=resolved.progress_timeout_ms,
        output_schema_id=resolved.output_schema_id,
    )
    try:
        document = _document(t, node, record)
        data = t.scope.values.encode(resolved.input_schema_id, document)
    except (MappingFailed, Undecodable, Unencodable) as error:
        message = f"the input of its reducer does not fit (chunk {entry.reduced}): {error}"
        return failure_of(FailureKind.SCHEMA, message)
    task.row.input = t.scope.values.payload(t.run_id, data)
    dispatch(t, call_node(task), task, task.row.input)
    return None


def _document(t: Transition, node: Node, record: ListChunk) -> dict[str, Any]:
    items: list[Any] = []
    for payload in record.items:
        items += t.readable("a chunk of its outputs", payload)
    return {"previous": t.readable("what was folded", folded(t, node)), "items": items}


def _task_id(map_id: str, chunk: int) -> str:
    parts = f"{map_id}\x00{_NAME}\x00{chunk}".encode()
    # Longer than the ids of tasks that handlers call, so that it can be none of them.
    return CALLED + hashlib.sha256(parts).hexdigest()[:20]


def is_fold(node: Node, entry: TaskEntry) -> bool:
    """Whether a task that no plan has is one of a map's reducer."""
    call = entry.call
    if node.reducer is None or call is None or not call.key.isdecimal():
        return False
    return entry.row.task_id == _task_id(node.id, int(call.key))


def folded(t: Transition, node: Node) -> Payload:
    """Return what the reducer made of all chunks so far; None before the first."""
    record = t.overlay.get(folded_name(node.id))
    return record.items[0] if isinstance(record, ListChunk) else None


def take_fold(t: Transition, node: Node, reducer: TaskEntry) -> Failure | None:
    """Keep what the reducer gave, in the place of its chunk; return why the map fails."""
    entry = t.task(node.id)
    assert entry is not None, f"map {t.run_id}/{node.id} is not there"
    row = reducer.row
    if row.state is not TaskState.SUCCEEDED:
        failure = row.failure or failure_of(FailureKind.ERROR, "it did not succeed")
        message = f"its reducer failed on chunk {entry.reduced}: {failure.message}"
        return Failure(failure.kind, failure.error_class, message, failure.traceback, False)
    after = touch_task(entry)
    after.reduced += 1
    t.put(after)
    t.overlay.put(folded_name(node.id), ListChunk([row.output], []))
    name = outputs_name(node.id, entry.reduced)
    record = t.overlay.get(name)
    failures = record.failures if isinstance(record, ListChunk) else []
    t.overlay.put(name, ListChunk([], failures) if failures else None)
    return None


def forget_fold(t: Transition, node: Node) -> None:
    """The map has ended: its own row has the output now."""
    if t.overlay.get(folded_name(node.id)) is not None:
        t.overlay.put(folded_name(node.id), None)


def drop_fold(t: Transition, node: Node) -> None:
    """The map has ended without success: its reducer is to end too."""
    task = _at_work(t, node)
    if task is not None:
        drop(t, task, FailureKind.NOT_NEEDED)
        if task.row.state is TaskState.RETRYING:
            t.overlay.put(task.row.task_id, None)  # it has ended at once, and is forgotten


def leaves_fold(t: Transition) -> bool:
    """Whether the reducer of a map that has ended is still at work."""
    return any(
        entry.row.state in TASK_ENDS and _at_work(t, t.graph.nodes[name]) is not None
        for name in t.graph.maps
        if (entry := t.task(name)) is not None
    )


def _at_work(t: Transition, node: Node) -> TaskEntry | None:
    entry = t.task(node.id)
    if node.reducer is None or entry is None:
        return None
    return t.task(_task_id(node.id, entry.reduced))
