"""Items that a handler hands out while it works, and the maps that go over them as they come.

    ctx.emit -> EmitAsk, one at a time of a task (`emitting.on_emit`)
        -> `take`: each map over the task makes inputs of them and puts these into its list, as long
           as fewer than `ahead_items` of its list wait to be begun
        -> `answer_taken`: once each map has, the handler is answered, and may hand out more

So a map that goes over arriving items is what any map is, but that its list grows (`row.total` is
how many there are so far) until the task that hands out has ended. None of that is journaled as
such: the task's `emitted` says what all maps have taken, a map's `expanded` what it has itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from holdfast.coordinator.engine.graph import Node
from holdfast.coordinator.engine.run.asks import answer, find_ask
from holdfast.coordinator.engine.run.dispatch import encode_input, order_key
from holdfast.coordinator.engine.run.failing import failure_of
from holdfast.coordinator.engine.run.lists import input_chunks, items_name, split_chunk
from holdfast.coordinator.engine.run.rows import copy_task, touch_task
from holdfast.coordinator.engine.run.transition import Transition
from holdfast.coordinator.engine.states import TASK_ENDS
from holdfast.coordinator.engine.templates import MappingFailed
from holdfast.schemas.errors import Undecodable
from holdfast.schemas.records import (
    EMIT_NAME,
    AskEntry,
    EmitAsk,
    Failure,
    FailureKind,
    ItemFailure,
    ListChunk,
    Payload,
    TaskEntry,
    TaskState,
)

__all__ = [
    "ARRIVING_MAX",
    "allowed_failures",
    "answer_taken",
    "arrives",
    "check_known",
    "check_order_key",
    "emission_of",
    "has_emitted",
    "lost_emitter",
    "take",
    "takers",
]

ARRIVING_MAX = 1_000_000
"""A map goes over at most this many items that arrive while it is open."""
_ANSWER_RECORDS = 3
"""What an answer takes: the ask's removal, its event, the reply; the task's record apart."""


def takers(t: Transition, task_id: str) -> Iterator[Node]:
    """Yield the maps that go over what a task hands out."""
    node = t.graph.nodes.get(task_id)
    for name in () if node is None else node.dependants:
        other = t.graph.nodes[name]
        if other.arrives_from == task_id:
            yield other


def emission_of(t: Transition, task_id: str) -> tuple[AskEntry, EmitAsk] | None:
    """Return the items that a task has handed out and not all maps have taken, if there are any."""
    task = t.task(task_id)
    entry = None if task is None else find_ask(t, task_id, EMIT_NAME, str(task.emitted))
    if entry is None or not isinstance(entry.ask.what, EmitAsk):
        return None
    return entry, entry.ask.what


def has_emitted(t: Transition, task_id: str) -> bool:
    """Whether a task has handed out anything."""
    task = t.task(task_id)
    return task is not None and (task.emitted > 0 or emission_of(t, task_id) is not None)


def arrives(t: Transition, node: Node) -> bool:
    """Whether more items may come to a map: the task that hands them out has not ended."""
    if node.arrives_from is None:
        return False
    task = t.task(node.arrives_from)
    return task is None or task.row.state not in TASK_ENDS


def allowed_failures(t: Transition, node: Node, items: int) -> int:
    """Return how many of a map's items may fail, as far as it is known how many there will be.

    A share cannot be judged before that; one that not even the longest list would meet, it can.
    """
    return node.failures_allowed(ARRIVING_MAX if arrives(t, node) else items)


def lost_emitter(t: Transition, node: Node) -> Failure | None:
    """Return why a map cannot have all of its items any more: who hands them out has failed."""
    task = None if node.arrives_from is None else t.task(node.arrives_from)
    if task is None or task.row.state is not TaskState.FAILED:
        return None
    said = "" if task.row.failure is None else f": {task.row.failure.message}"
    message = f"task {node.arrives_from!r}, over whose items it goes, failed{said}"
    return failure_of(FailureKind.UPSTREAM, message)


def check_known(t: Transition, node: Node) -> None:
    """Raise `MappingFailed` for a map whose items only another run has known."""
    name = node.arrives_from
    if name is not None and name in t.run.reused:
        raise MappingFailed(
            f"task {node.id!r}: over: the output of {name!r} was taken over from another run, the"
            f" items that it had handed out were not: fork that run from {name!r}"
        )


def check_order_key(t: Transition, node: Node, key: str | None) -> None:
    """Raise `MappingFailed` for an item that would wait for the task that hands it out.

    That task waits in turn for room to hand out more. Whether it has ended by now, or has few
    items, must not decide: the plan would work today, and hang with a longer list.
    """
    if node.arrives_from is None or key is None:
        return
    emitter = t.task(node.arrives_from)
    if emitter is None or (emitter.row.agent, emitter.row.order_key) != (node.agent, key):
        return
    raise MappingFailed(
        f"task {node.id!r}: agent {node.agent!r} works its item behind {node.arrives_from!r}, which"
        f" hands it out, under the one order key {key!r}: give one of them another order_key"
    )


def take(t: Transition, node: Node) -> bool:
    """Put items that have arrived into a map's list, if it has room for them; True: it had."""
    entry = t.task(node.id)
    if node.arrives_from is None or entry is None or entry.row.state is not TaskState.EXPANDED:
        return False
    found = emission_of(t, node.arrives_from)
    if found is None or entry.expanded != found[1].first:
        return False  # there is nothing, or it has taken that already
    if entry.expanded - entry.next_index >= t.scope.limits.ahead_items:
        return False
    what = found[1]
    chunks = list(_chunks(t, node, what))
    if t.room() < len(chunks) + t.scope.limits.reserve:
        t.more = True
        return False
    for name, record in chunks:
        t.overlay.put(name, record)
    after = touch_task(entry)
    after.expanded += what.count
    after.row.total += what.count
    t.put(after)
    return True


def _chunks(t: Transition, node: Node, what: EmitAsk) -> Iterator[tuple[str, ListChunk]]:
    """Yield the records that hold the inputs made of some items, with their names.

    A chunk that has items already goes on in another part.
    """
    items, index = _items(t, node, what), what.first
    while items:
        chunk, offset = divmod(index, t.scope.limits.chunk_items)
        here, items = _split(items, t.scope.limits.chunk_items - offset)
        made = _Inputs(t, node, index, here)
        part = sum(1 for _ in input_chunks(t.overlay, node.id, chunk))
        size_max = t.scope.limits.chunk_bytes
        for record in split_chunk(made.payloads, made.failures, index, size_max):
            if node.order_key is not None:
                record.order_keys, made.order_keys = _split(made.order_keys, len(record.items))
            yield items_name(node.id, chunk, part), record
            part += 1
        index += len(here)


def _split(values: list[Any], at: int) -> tuple[list[Any], list[Any]]:
    return values[:at], values[at:]


def _items(t: Transition, node: Node, what: EmitAsk) -> list[Any]:
    """Return the items; as many as were said, whatever can be read of them."""
    name = node.arrives_from
    try:
        items = t.readable(f"what {name!r} has handed out", what.items)
        if isinstance(items, list) and len(items) == what.count:
            return items
        problem = MappingFailed(f"{name!r} says that it hands out {what.count} items, and did not")
    except MappingFailed as error:
        problem = error
    return [problem] * what.count


class _Inputs:
    """The inputs of some items of a map, their order keys, and why some could not be made."""

    def __init__(self, t: Transition, node: Node, first: int, items: list[Any]) -> None:
        self.payloads: list[Payload] = []
        self.order_keys: list[str | None] = []
        self.failures: list[ItemFailure] = []
        document = dict(t.document(node.input, node=node))
        for offset, item in enumerate(items):
            payload = key = None
            document["item"] = item
            try:
                if isinstance(item, MappingFailed):
                    raise item
                payload = encode_input(t, node, document)
                if node.order_key is not None:
                    key = order_key(t, node, payload, {"item": item})
            except (MappingFailed, Undecodable) as error:
                failed = ItemFailure(first + offset, FailureKind.SCHEMA, "", str(error))
                self.failures.append(failed)
            self.payloads.append(payload)
            self.order_keys.append(key)


def answer_taken(t: Transition, task_id: str) -> None:
    """Answer the items that a task has handed out last, once each map over them has them."""
    found = emission_of(t, task_id)
    if found is None:
        return
    entry, what = found
    if any(_wants(t, node, what) for node in takers(t, task_id)):
        return
    if t.room() < _ANSWER_RECORDS + t.scope.limits.reserve:
        t.more = True
        return
    answer(t, entry, None)
    task = t.task(task_id)
    assert task is not None, f"{task_id} has handed out items"
    after: TaskEntry = copy_task(task)
    after.emitted = what.first + what.count
    t.put(after)


def _wants(t: Transition, node: Node, what: EmitAsk) -> bool:
    """Whether a map has still to take some items; one that has ended takes none."""
    entry = t.task(node.id)
    if entry is None:
        return True
    return entry.row.state not in TASK_ENDS and entry.expanded < what.first + what.count
