"""A map: a task worked once for each item of a list, in a window, its results in the list's order.

Everything about a map is in its own entry and in its chunks: how far the list stands there
(`expanded`), how far it was handed out (`next_index`), how many items have ended. An item that
has ended stays until all of its chunk have; then the chunk's outputs take the place of its inputs
and of its items' entries. So what a map holds is its window and its outputs, not its history.

A map may end in any of the functions here; whoever calls them looks, and carries on (`carry_on`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from holdfast.coordinator.engine.graph import Node
from holdfast.coordinator.engine.run.arriving import (
    allowed_failures,
    arrives,
    check_known,
    check_order_key,
    lost_emitter,
    take,
)
from holdfast.coordinator.engine.run.dispatch import dispatch, encode_input, order_key
from holdfast.coordinator.engine.run.ending import fail_run
from holdfast.coordinator.engine.run.failing import end_task, failure_of, give_up
from holdfast.coordinator.engine.run.folding import (
    far_ahead,
    fold,
    folded,
    forget_fold,
    take_fold,
)
from holdfast.coordinator.engine.run.lists import (
    input_chunks,
    item_failure,
    item_input,
    item_order_key,
    items_name,
    join_json_lists,
    outputs_name,
    split_chunk,
)
from holdfast.coordinator.engine.run.rows import new_task, next_task, touch_task
from holdfast.coordinator.engine.run.transition import Transition
from holdfast.coordinator.engine.states import TASK_ENDS
from holdfast.coordinator.engine.templates import MappingFailed
from holdfast.schemas.codec import encode_json
from holdfast.schemas.errors import Undecodable
from holdfast.schemas.plan import WIDTH_MAX
from holdfast.schemas.records import (
    EventType,
    Failure,
    FailureKind,
    ItemFailure,
    ListChunk,
    Payload,
    TaskEntry,
    TaskState,
)

__all__ = ["close_chunks", "count_item", "expand", "go_on", "on_folded"]

PROGRESS_SHARE = 100
"""A map says about this many times how far it is."""
_ITEM_RECORDS = 5
"""The most that handing out one item takes: its three records, and a part of its chunk."""
_NO_FAILURES = (TaskState.SUCCEEDED, TaskState.SKIPPED)
"""An item that somebody skipped has no output, and fails no map."""
_IN_FLIGHT = (
    TaskState.DISPATCHED,
    TaskState.EXPANDED,  # worked by a run of its own
    TaskState.RETRYING,
    TaskState.CANCELLING,
)


def expand(t: Transition, node: Node, entry: TaskEntry) -> None:
    """Start a map. Raises `MappingFailed` when there is no list to go over."""
    if node.arrives_from is not None:
        _open(t, node, entry)
        return
    items = _list(t, node)
    if not items:
        after = next_task(t.run_id, entry, TaskState.SUCCEEDED)
        after.row.output = encode_json([] if node.reducer is None else None)
        after.row.finished_ms = t.now_ms
        t.put(after)
        t.emit_task(EventType.TASK_SUCCEEDED, after.row)
        return
    after = next_task(t.run_id, entry, TaskState.EXPANDED)
    after.row.total = len(items)
    after.row.started_ms = t.now_ms
    t.put(after)
    t.emit_task(EventType.TASK_EXPANDED, after.row)
    go_on(t, node)


def _open(t: Transition, node: Node, entry: TaskEntry) -> None:
    """Start a map over items that are still arriving."""
    check_known(t, node)
    after = next_task(t.run_id, entry, TaskState.EXPANDED)
    after.row.started_ms = t.now_ms
    t.put(after)
    take(t, node)
    t.emit_task(EventType.TASK_EXPANDED, _map(t, node).row)
    go_on(t, node)


def close_chunks(t: Transition, node: Node) -> None:
    """Do what an earlier event left undone, but for what `go_on` does."""
    entry = _map(t, node)
    if node.over is None:
        return  # a loop
    if entry.row.state is TaskState.SUCCEEDED:
        _remove_outputs(t, node, entry)
    elif entry.row.state is TaskState.EXPANDED:
        for chunk in range(_chunks(t, entry.next_index)):
            _close_chunk(t, node, chunk)


def go_on(t: Transition, node: Node) -> None:
    """Hand out items while the window has room; end the map when all have ended."""
    _fill_window(t, node)
    while not t.ending and take(t, node):
        _fill_window(t, node)
    if not t.ending and node.arrives_from is not None and not arrives(t, node):
        _close_list(t, node)
    if not t.ending and _map(t, node).row.state is TaskState.EXPANDED:
        problem = fold(t, node)
        if problem is not None:
            _fail(t, node, problem)
        _end(t, node)


def _fill_window(t: Transition, node: Node) -> None:
    while t.starting:
        entry = _map(t, node)
        if entry.row.state is not TaskState.EXPANDED or entry.next_index >= entry.row.total:
            break
        if t.count(_IN_FLIGHT, node.id) >= node.max_parallel or far_ahead(t, node, entry):
            break
        if t.room() < _ITEM_RECORDS + t.scope.limits.reserve:
            t.more = True
            break
        if entry.next_index >= entry.expanded:
            if not _add_chunk(t, node, entry):
                t.more = True
                break
        else:
            _hand_out(t, node, entry)


def _close_list(t: Transition, node: Node) -> None:
    """No more items arrive: judge those that failed, close the last chunk."""
    row = _map(t, node).row
    if row.state is not TaskState.EXPANDED:
        return
    allowed = allowed_failures(t, node, row.total)
    problem = lost_emitter(t, node)
    if problem is not None:
        _fail(t, node, problem)
    elif row.failed > allowed:
        message = f"{row.failed} of {row.total} items failed, at most {allowed} may"
        _fail_all(t, node, failure_of(FailureKind.ERROR, message))
    elif row.total:
        _close_chunk(t, node, (row.total - 1) // t.scope.limits.chunk_items)


def count_item(t: Transition, node: Node, item: TaskEntry) -> None:
    """Note that an item has ended."""
    entry = touch_task(_map(t, node))
    row = entry.row
    failed = item.row.state not in _NO_FAILURES
    row.done += 1
    row.failed += failed
    t.put(entry)
    if t.ending or row.state in TASK_ENDS:
        return  # nobody waits for its items any more
    if failed and row.failed > allowed_failures(t, node, row.total):
        failure = item.row.failure or failure_of(FailureKind.ERROR, "it did not succeed")
        _fail_by_item(t, node, item.row.task_id, failure)
        return
    if row.done % max(1, row.total // PROGRESS_SHARE) == 0 and row.done < row.total:
        t.emit_task(EventType.TASK_PROGRESSED, row, f"{row.done} of {row.total}")
    _close_chunk(t, node, _index(item.row.task_id) // t.scope.limits.chunk_items)


def on_folded(t: Transition, node: Node, reducer: TaskEntry) -> None:
    """Take the end of a reducer's task."""
    if _map(t, node).row.state is not TaskState.EXPANDED:
        return
    problem = take_fold(t, node, reducer)
    if problem is not None:
        _fail(t, node, problem)


def _fail_by_item(t: Transition, node: Node, item_id: str, failure: Failure) -> None:
    """Let the map fail for an item of it that has."""
    row = _map(t, node).row
    message = f"task {item_id!r} failed: {failure.message}"
    allowed = allowed_failures(t, node, row.total)
    if allowed:
        so_far = " so far" if arrives(t, node) else ""
        message = (
            f"{row.failed} of {row.total} items{so_far} failed, at most {allowed} may; {message}"
        )
    _fail_all(t, node, replace(failure, message=message, retryable=False))


def _fail_all(t: Transition, node: Node, told: Failure) -> None:
    if t.graph.races:
        _fail(t, node, told)
    else:
        fail_run(t, told)  # it is swept with the run, and stays as it is meanwhile


def _fail(t: Transition, node: Node, failure: Failure) -> None:
    """End the map; whoever carries on says what that means for the run."""
    end_task(t, _map(t, node), TaskState.FAILED, failure)
    t.scope.lists.forget(t.run_id, node.id)


def _map(t: Transition, node: Node) -> TaskEntry:
    entry = t.task(node.id)
    assert entry is not None, f"map {t.run_id}/{node.id} is not there"
    return entry


def _index(task_id: str) -> int:
    return int(task_id.rpartition(".")[2])


def _chunks(t: Transition, items: int) -> int:
    return -(-items // t.scope.limits.chunk_items)


def _list(t: Transition, node: Node) -> list[Any]:
    """Return what the map goes over; evaluated once while it is remembered."""
    known = t.scope.lists.get(t.run_id, node.id)
    if known is not None:
        return known
    assert node.over is not None, f"{node.id} is no map"
    items = node.over.make(t.document(node.over, node=node))
    if not isinstance(items, list):
        kind = "null" if items is None else f"a {type(items).__name__}"
        raise MappingFailed(f"task {node.id!r}: over is {kind}; it must be a list")
    if len(items) > WIDTH_MAX:
        raise MappingFailed(
            f"task {node.id!r}: over has {len(items)} items; at most {WIDTH_MAX} are allowed"
        )
    t.scope.lists.keep(t.run_id, node.id, items)
    return items


# --- handing out -------------------------------------------------------------------------------


def _add_chunk(t: Transition, node: Node, entry: TaskEntry) -> bool:
    """Make the inputs of the next items and put them into the state, if there is room for them."""
    first = entry.expanded
    items = _list(t, node)[first : first + t.scope.limits.chunk_items]
    payloads: list[Payload] = []
    failures: list[ItemFailure] = []
    document = dict(t.document(node.input, node=node))
    for offset, item in enumerate(items):
        document["item"] = item
        try:
            payloads.append(encode_input(t, node, document))
        except MappingFailed as error:
            payloads.append(None)
            failures.append(ItemFailure(first + offset, FailureKind.SCHEMA, "", str(error)))
    parts = split_chunk(payloads, failures, first, t.scope.limits.chunk_bytes)
    if t.room() < len(parts) + t.scope.limits.reserve:
        return False
    for part, record in enumerate(parts):
        t.overlay.put(items_name(node.id, first // t.scope.limits.chunk_items, part), record)
    after = touch_task(entry)
    after.expanded += len(items)
    t.put(after)
    return True


def _hand_out(t: Transition, node: Node, entry: TaskEntry) -> None:
    index = entry.next_index
    after = touch_task(entry)
    after.next_index += 1
    t.put(after)
    item = new_task(node.agent, node.task, f"{node.id}.{index}")
    payload = item_input(t.overlay, node.id, index, t.scope.limits.chunk_items)
    problem = item_failure(t.overlay, node.id, index, t.scope.limits.chunk_items)
    if problem is None:
        try:
            item.row.order_key = _order_key(t, node, index, payload)
        except MappingFailed as error:
            problem = ItemFailure(index, FailureKind.SCHEMA, "", str(error))
    if problem is None:
        dispatch(t, node, item, payload)
        return
    ended = give_up(t, node, item, failure_of(problem.kind, problem.message))
    if ended.row.state in TASK_ENDS:
        count_item(t, node, ended)


def _order_key(t: Transition, node: Node, index: int, payload: Payload) -> str | None:
    """Return the order key of an item; raises `MappingFailed`."""
    if node.order_key is None:
        key = order_key(t, node, payload)
    elif node.arrives_from is not None:
        key = item_order_key(t.overlay, node.id, index, t.scope.limits.chunk_items)
    else:
        key = order_key(t, node, payload, {"item": _list(t, node)[index]})
    check_order_key(t, node, key)
    return key


# --- gathering ---------------------------------------------------------------------------------


def _close_chunk(t: Transition, node: Node, chunk: int) -> None:
    """Put the outputs of a chunk in the place of its items, if all of them have ended."""
    entry = _map(t, node)
    first = chunk * t.scope.limits.chunk_items
    end = min(first + t.scope.limits.chunk_items, entry.row.total)
    if end > entry.next_index or t.overlay.get(items_name(node.id, chunk)) is None:
        return
    if end < first + t.scope.limits.chunk_items and arrives(t, node):
        return  # more will come into it
    items: list[TaskEntry] = []
    for index in range(first, end):
        item = t.task(f"{node.id}.{index}")
        if item is None or item.row.state not in TASK_ENDS:
            return
        items.append(item)
    parts = [name for name, _ in input_chunks(t.overlay, node.id, chunk)]
    if t.room() < len(items) + len(parts) + t.scope.limits.reserve:
        t.more = True
        return
    record = _outputs(t, items)
    unreadable = len(record.failures) - sum(i.row.state not in _NO_FAILURES for i in items)
    t.overlay.put(outputs_name(node.id, chunk), record)
    for name in parts:
        t.overlay.put(name, None)
    for item in items:
        t.overlay.put(item.row.task_id, None)
    if unreadable:
        _count_unreadable(t, node, record, unreadable)


def _outputs(t: Transition, items: list[TaskEntry]) -> ListChunk:
    values = t.scope.values
    values.require(item.row.output for item in items)
    outputs: list[Any] = []
    failures: list[ItemFailure] = []
    for item in items:
        index = _index(item.row.task_id)
        failure = item.row.failure
        if item.row.state is TaskState.SUCCEEDED:
            try:
                outputs.append(values.document(item.row.output))
            except Undecodable as error:
                message = f"its output cannot be read: {error}"
                failures.append(ItemFailure(index, FailureKind.UNDECODABLE, "", message))
        elif failure is not None and item.row.state is not TaskState.SKIPPED:
            failures.append(ItemFailure(index, failure.kind, failure.error_class, failure.message))
    return ListChunk([values.payload(t.run_id, encode_json(outputs))], failures)


def _count_unreadable(t: Transition, node: Node, record: ListChunk, count: int) -> None:
    after = touch_task(_map(t, node))
    after.row.failed += count
    t.put(after)
    if after.row.failed > allowed_failures(t, node, after.row.total):
        found = next(f for f in record.failures if f.kind is FailureKind.UNDECODABLE)
        item_id = f"{node.id}.{found.index}"
        _fail_by_item(t, node, item_id, failure_of(found.kind, found.message))


def _end(t: Transition, node: Node) -> None:
    """End the map when every chunk is closed, and folded."""
    entry = _map(t, node)
    if entry.row.state is not TaskState.EXPANDED or entry.row.done < entry.row.total:
        return
    if arrives(t, node):
        return
    count = _chunks(t, entry.row.total)
    if node.reducer is not None and entry.reduced < count:
        return
    chunks: list[ListChunk] = []
    for chunk in range(count):
        record = t.overlay.get(outputs_name(node.id, chunk))
        if isinstance(record, ListChunk):
            chunks.append(record)
        elif node.reducer is None:
            return
    if t.room() < t.scope.limits.reserve:
        t.more = True
        return
    after = next_task(t.run_id, entry, TaskState.SUCCEEDED)
    after.row.output = _joined(t, chunks) if node.reducer is None else folded(t, node)
    after.failures = _failures(t, chunks)
    after.row.finished_ms = t.now_ms
    t.put(after)
    t.emit_task(EventType.TASK_SUCCEEDED, after.row)
    t.scope.lists.forget(t.run_id, node.id)
    forget_fold(t, node)
    _remove_outputs(t, node, after)


def _joined(t: Transition, chunks: list[ListChunk]) -> Payload:
    values = t.scope.values
    payloads = [payload for chunk in chunks for payload in chunk.items]
    values.require(payloads, whole=True)
    return values.payload(t.run_id, join_json_lists(values.data(p) for p in payloads))


def _failures(t: Transition, chunks: list[ListChunk]) -> Payload:
    failures = [
        {
            "index": failure.index,
            "kind": str(failure.kind),
            "error_class": failure.error_class,
            "message": failure.message,
        }
        for chunk in chunks
        for failure in chunk.failures
    ]
    return t.scope.values.payload(t.run_id, encode_json(failures)) if failures else None


def _remove_outputs(t: Transition, node: Node, entry: TaskEntry) -> None:
    for chunk in range(_chunks(t, entry.row.total)):
        name = outputs_name(node.id, chunk)
        if t.overlay.get(name) is None:
            continue
        if t.room() < t.scope.limits.reserve:
            t.more = True
            return
        t.overlay.put(name, None)
