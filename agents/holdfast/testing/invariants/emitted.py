"""What is handed out while a task works: a part of I7."""

from __future__ import annotations

from collections.abc import Sequence

from holdfast.coordinator.engine import Graph
from holdfast.schemas.records import AskKind, Event, EventType
from holdfast.testing.history import Decoded
from holdfast.testing.invariants.verdict import Findings

__all__ = ["handed_out_once"]


def handed_out_once(
    run_id: str, graph: Graph, events: Sequence[Decoded[Event]], found: Findings
) -> None:
    """Items are taken once, one batch behind the other, and a map has all of them.

    The batches of a task that were answered without a failure follow on each other from 0. A map
    over them that has succeeded by itself has as many items as there are in all of them.
    """
    taken: dict[str, int] = {}
    overruled: set[str] = set()
    for event in events:
        ask, row = event.body.ask, event.body.task
        if row is not None and row.ruling is not None:
            overruled.add(row.task_id)
        if ask is not None and ask.kind is AskKind.EMIT and not event.body.message:
            if event.body.type is EventType.TASK_ANSWERED:
                _follows(run_id, taken, event, found)
        elif row is not None and event.body.type is EventType.TASK_SUCCEEDED:
            node = graph.nodes.get(row.task_id)
            emitter = None if node is None else node.arrives_from
            if emitter is None or overruled & {emitter, row.task_id}:
                continue
            found.looked("lists that arrived")
            if row.total != taken.get(emitter, 0) and row.done:
                found.violated(
                    f"{run_id}/{row.task_id} has {row.total} items, {emitter!r} has handed out"
                    f" {taken.get(emitter, 0)}",
                    event.place,
                )


def _follows(run_id: str, taken: dict[str, int], event: Decoded[Event], found: Findings) -> None:
    ask = event.body.ask
    assert ask is not None, "the caller has looked"
    found.looked("batches of items")
    before, last = taken.get(ask.task_id, 0), int(ask.subject.rpartition(" ")[2])
    if int(ask.key) != before:
        found.violated(
            f"{run_id}/{ask.task_id} hands out {ask.subject} behind number {before - 1}",
            event.place,
        )
    taken[ask.task_id] = last + 1
