"""What became of lists that arrived: judged by the events and by what was seen outside."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from holdfast.coordinator.engine import Graph, Graphs
from holdfast.schemas import DocumentCodec
from holdfast.schemas.codec import decode
from holdfast.schemas.records import (
    BlobReference,
    Event,
    Payload,
    SchemaEntry,
    TaskRow,
    TaskState,
)
from holdfast.testing.history import Decoded, History
from tests.simulation.agents import Outside
from tests.simulation.arriving import text_of

__all__ = ["items_wrong"]

Rows = Mapping[str, TaskRow]


def items_wrong(history: History, outside: Outside) -> list[str]:
    """Return what is wrong with lists that arrived.

    A task that hands out and has succeeded was told that all its items are taken. A map over them
    that has succeeded has an item for each, in their order; each of them has ended, each that
    succeeded was seen at work and has paid, and the map's output has all of these, whole. (That no
    item is worked in another's place, or paid for twice, is seen as it happens: `Arrived`, I2.)
    """
    documents = _Documents(history)
    wrong: list[str] = []
    for run_id, events in history.events_of.items():
        if not any(event.body.plan and "${emitted." in event.body.plan for event in events):
            continue
        graph, rows = _last(events)
        for name, node in graph.nodes.items():
            if node.arrives_from is None or name not in rows:
                continue
            judged = _ListThatArrived(outside, run_id, rows, name, node.arrives_from)
            wrong += judged.told_wrong()
            if rows[name].state is TaskState.SUCCEEDED:
                wrong += judged.items_wrong()
                folded = node.reducer is not None
                wrong += judged.output_wrong(documents.of(rows[name].output), folded=folded)
    return [f"I7 at {what}" for what in wrong]


def _last(events: Sequence[Decoded[Event]]) -> tuple[Graph, Rows]:
    """Return a run's last plan, and the last row of each of its tasks."""
    graphs, graph, rows = Graphs(limit=1_000), None, dict[str, TaskRow]()
    for event in events:
        if event.body.plan is not None:
            graph = graphs.get(event.body.plan)
        if event.body.revision is not None and graph is not None:
            graph = graphs.grown(graph, event.body.revision)
        if event.body.task is not None:
            rows[event.body.task.task_id] = event.body.task
    assert graph is not None, "a run begins with its plan"
    return graph, rows


class _ListThatArrived:
    """A map `name` over what the task `source` of its run has handed out."""

    def __init__(self, outside: Outside, run_id: str, rows: Rows, name: str, source: str) -> None:
        self._outside = outside
        self._run_id = run_id
        self._rows = rows
        self._name = name
        self._source = source
        self._place = f"{run_id}/{name}"

    def told_wrong(self) -> Iterator[str]:
        """Yield what is wrong with what the task that hands out was told."""
        where, arrived = (self._run_id, self._source), self._outside.arrived
        handed, taken = arrived.handed.get(where, 0), arrived.taken.get(where, 0)
        if self._source_state() is TaskState.SUCCEEDED and taken != handed:
            yield f"{self._run_id}/{self._source}: handed out {handed}, {taken} are taken"

    def items_wrong(self) -> Iterator[str]:
        """Yield what is wrong with the items of a map that has succeeded."""
        row, state = self._rows[self._name], self._source_state()
        handed = self._outside.arrived.handed.get((self._run_id, self._source), 0)
        if row.total > handed or (state is TaskState.SUCCEEDED and row.total != handed):
            yield f"{self._place}: has {row.total} items of {handed}"
        if state is TaskState.FAILED:
            yield f"{self._place}: succeeded, although {self._source} failed"
        beyond = f"{self._name}.{row.total}"
        if beyond in self._rows or (self._run_id, beyond) in self._outside.arrived.worked:
            yield f"{self._place}: has an item beyond its {row.total}"
        succeeded = 0
        for number in range(row.total):
            item_id = f"{self._name}.{number}"
            item = self._rows.get(item_id)
            if item is None:
                # One whose input could not be made has no row of its own: none is like that here.
                yield f"{self._run_id}/{item_id}: was never begun"
            elif item.state not in (TaskState.SUCCEEDED, TaskState.FAILED):
                yield f"{self._run_id}/{item_id}: is {item.state}, and its map has succeeded"
            elif item.state is TaskState.SUCCEEDED:
                succeeded += 1
                yield from self._unseen(item_id, number)
        if succeeded != row.total - row.failed or row.done != row.total:
            yield f"{self._place}: {row.done} done, {row.failed} failed, {succeeded} succeeded"

    def output_wrong(self, output: Any, *, folded: bool) -> Iterator[str]:
        """Yield what is wrong with the output of a map that has succeeded."""
        numbers = [
            number
            for number in range(self._rows[self._name].total)
            if (item := self._rows.get(f"{self._name}.{number}")) is not None
            and item.state is TaskState.SUCCEEDED
        ]
        texts = [text_of(self._source, number) for number in numbers]
        wanted: Any = [{"text": text, "n": n} for text, n in zip(texts, numbers, strict=True)]
        if folded:
            whole = {"text": "".join(f"{text}|" for text in texts), "n": len(numbers)}
            wanted = whole if self._rows[self._name].total else None
        if output != wanted:
            yield f"{self._place}: its output is {output}, not {wanted}"

    def _unseen(self, item_id: str, number: int) -> Iterator[str]:
        where = (self._run_id, item_id)
        if where not in self._outside.arrived.worked:
            yield f"{self._run_id}/{item_id}: succeeded, and nobody saw it worked"
        key = self._outside.keys.get((*where, f"pay/{number}"))
        if key is None or key not in self._outside.ledger:
            yield f"{self._run_id}/{item_id}: succeeded, and has not paid"

    def _source_state(self) -> TaskState:
        row = self._rows.get(self._source)
        return TaskState.PENDING if row is None else row.state


class _Documents:
    """The documents of payloads, by the schemas and blobs of a history."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._codec = DocumentCodec(cache(self._schema))

    def of(self, payload: Payload) -> Any:
        """Return a payload's document."""
        if isinstance(payload, BlobReference):
            payload = self._history.blobs[payload.name]
        return None if payload is None else self._codec.decode(payload)

    def _schema(self, schema_id: int) -> Any | None:
        for _, log in self._history.log(self._history.topics.schemas):
            for received in log:
                if received.value is not None:
                    entry = decode(SchemaEntry, received.value)
                    if entry.schema_id == schema_id:
                        return json.loads(entry.schema)
        return None
