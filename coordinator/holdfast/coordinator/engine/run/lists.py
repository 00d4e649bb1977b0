"""The lists of a map: where its items' inputs and outputs stand, and how they are put together.

Inputs stand under `<map>/items/<n>`, `n` counting chunks of a fixed number of items; inputs that
would make that record too large go on under `<map>/items/<n>.1`, and so on. Outputs of a chunk
that has ended stand under `<map>/outputs/<n>`, as the text of one JSON list, so that the whole
output is put together in the end without decoding anything again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from holdfast.coordinator.engine.state import Overlay
from holdfast.schemas.framing import FRAME_BYTES, frame
from holdfast.schemas.ids import OwnSchema
from holdfast.schemas.records import ItemFailure, ListChunk, Payload

__all__ = [
    "EvaluatedLists",
    "folded_name",
    "input_chunks",
    "item_failure",
    "item_input",
    "item_order_key",
    "items_name",
    "join_json_lists",
    "outputs_name",
    "split_chunk",
]

LISTS_ITEMS_MAX = 200_000
"""Items of evaluated lists that are kept; a list that was dropped is evaluated again."""


class EvaluatedLists:
    """The lists that maps go over, by run and map, as long as there is room for them.

    No part of the state: each can be evaluated again. It must not outlive its run, and must be
    gone when a run begins: an id whose first submission was refused may come again with others.
    """

    def __init__(self) -> None:
        self._runs: dict[str, dict[str, list[Any]]] = {}
        self._items = 0

    def get(self, run_id: str, map_id: str) -> list[Any] | None:
        """Return what was kept, or None."""
        return self._runs.get(run_id, {}).get(map_id)

    def keep(self, run_id: str, map_id: str, items: list[Any]) -> None:
        """Keep a list; those of the oldest runs make room."""
        while self._runs and self._items + len(items) > LISTS_ITEMS_MAX:
            self.forget_run(next(iter(self._runs)))
        self._runs.setdefault(run_id, {})[map_id] = items
        self._items += len(items)

    def forget(self, run_id: str, map_id: str) -> None:
        """Drop the list of one map."""
        lists = self._runs.get(run_id, {})
        self._items -= len(lists.pop(map_id, ()))
        if not lists:
            self._runs.pop(run_id, None)

    def forget_run(self, run_id: str) -> None:
        """Drop all lists of a run."""
        self._items -= sum(map(len, self._runs.pop(run_id, {}).values()))


def items_name(map_id: str, chunk: int, part: int = 0) -> str:
    """Return where (a part of) a chunk's inputs stand."""
    return f"{map_id}/items/{chunk}.{part}" if part else f"{map_id}/items/{chunk}"


def outputs_name(map_id: str, chunk: int) -> str:
    """Return where the outputs of a chunk stand."""
    return f"{map_id}/outputs/{chunk}"


def folded_name(map_id: str) -> str:
    """Return where the reducer's last output stands."""
    return f"{map_id}/folded"


def input_chunks(overlay: Overlay, map_id: str, chunk: int) -> Iterator[tuple[str, ListChunk]]:
    """Yield the records that hold a chunk's inputs, in order."""
    part = 0
    while True:
        name = items_name(map_id, chunk, part)
        found = overlay.get(name)
        if not isinstance(found, ListChunk):
            return
        yield name, found
        part += 1


def item_input(overlay: Overlay, map_id: str, index: int, chunk_items: int) -> Payload:
    """Return an item's input; None if none could be made, or its chunk was closed."""
    chunk, offset = divmod(index, chunk_items)
    for _, record in input_chunks(overlay, map_id, chunk):
        if offset < len(record.items):
            return record.items[offset]
        offset -= len(record.items)
    return None


def item_order_key(overlay: Overlay, map_id: str, index: int, chunk_items: int) -> str | None:
    """Return the order key that was made for an item when it arrived."""
    chunk, offset = divmod(index, chunk_items)
    for _, record in input_chunks(overlay, map_id, chunk):
        if offset < len(record.items):
            return record.order_keys[offset]
        offset -= len(record.items)
    return None


def item_failure(overlay: Overlay, map_id: str, index: int, chunk_items: int) -> ItemFailure | None:
    """Return why no input could be made for an item, or None."""
    for _, record in input_chunks(overlay, map_id, index // chunk_items):
        for failure in record.failures:
            if failure.index == index:
                return failure
    return None


def split_chunk(
    items: list[Payload], failures: list[ItemFailure], first: int, bytes_max: int
) -> list[ListChunk]:
    """Return a chunk's inputs as records of at most about `bytes_max` each."""
    parts: list[ListChunk] = [ListChunk([], [])]
    by_index = {failure.index: failure for failure in failures}
    size = 0
    for offset, payload in enumerate(items):
        cost = len(payload) if isinstance(payload, bytes) else 0
        if parts[-1].items and size + cost > bytes_max:
            parts.append(ListChunk([], []))
            size = 0
        parts[-1].items.append(payload)
        size += cost
        if first + offset in by_index:
            parts[-1].failures.append(by_index[first + offset])
    return parts


def join_json_lists(payloads: Iterable[bytes]) -> bytes:
    """Return one framed JSON list that holds the members of all, each itself a framed JSON list."""
    texts = [text for text in map(_members, payloads) if text]
    body = b"[" + b",".join(texts) + b"]"
    return frame(OwnSchema.Json, _length(len(body)) + body)


def _members(data: bytes) -> bytes:
    """Return what stands between the brackets: behind the frame and Avro's length."""
    start = FRAME_BYTES
    while data[start] & 0x80:
        start += 1
    return data[start + 2 : -1]


def _length(number: int) -> bytes:
    """Return a length as Avro writes it: zig-zag, seven bits a byte, the lowest first."""
    number <<= 1
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
