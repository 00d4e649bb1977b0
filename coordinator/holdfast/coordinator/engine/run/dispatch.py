"""Handing an attempt to its agent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from holdfast.coordinator.engine.graph import Node
from holdfast.coordinator.engine.run.inner import begin_inner, inner_order_key
from holdfast.coordinator.engine.run.rows import next_task
from holdfast.coordinator.engine.run.transition import Transition
from holdfast.coordinator.engine.templates import MappingFailed
from holdfast.schemas.errors import Undecodable, Unencodable
from holdfast.schemas.records import EventType, Payload, TaskEntry, TaskState

__all__ = ["dispatch", "encode_input", "order_key"]


def dispatch(t: Transition, node: Node, entry: TaskEntry, payload: Payload) -> None:
    """Send the task's next attempt with `payload` (an item's stands in its list), or its run."""
    if node.inner is not None:
        begin_inner(t, node, entry, payload)
        return
    after = next_task(t.run_id, entry, TaskState.DISPATCHED)
    row = after.row
    row.attempt += 1
    row.dispatched_ms = t.now_ms
    row.started_ms = row.finished_ms = row.retry_ms = None
    row.failure = None
    row.steps = []
    row.resumes = 0
    row.instance = row.build_id = ""
    after.cancel_kind = None
    queue_ms = node.queue_timeout_ms
    after.timer_ms = None if queue_ms is None else t.now_ms + queue_ms
    t.put(after)
    t.emit_task(EventType.TASK_DISPATCHED, row)
    t.send_task(node, row, payload)


def encode_input(t: Transition, node: Node, document: Mapping[str, Any]) -> Payload:
    """Return a task's input as a payload.

    Raises `MappingFailed` naming task, field and expression; `Blocked` while something must be
    fetched or stored.
    """
    try:
        value = node.input.make(document)
        data = t.scope.values.encode(node.input_schema_id, value)
    except (MappingFailed, Unencodable, Undecodable) as error:
        raise MappingFailed(
            f"task {node.id!r}: the input of {node.agent}.{node.task} cannot be made: {error}"
            f" (mapped by {node.input_text})"
        ) from error
    return t.scope.values.payload(t.run_id, data)


def order_key(
    t: Transition, node: Node, payload: Payload, bound: Mapping[str, Any] | None = None
) -> str | None:
    """Return the order key of a task: its own, or the one that its run's plan declares.

    That of a plan within the plan is its run's, by its input: `payload`.
    """
    if node.inner is not None:
        return inner_order_key(t, node.inner, payload)
    template = node.order_key
    if template is None:
        return t.run.row.order_key
    value = template.make(t.document(template, bound, node=node))
    if value is None or value == "":
        return t.run.row.order_key
    if isinstance(value, bool | int | float | str):
        return str(value)
    raise MappingFailed(
        f"task {node.id!r}: its order key is a {type(value).__name__}; it must be text"
    )
