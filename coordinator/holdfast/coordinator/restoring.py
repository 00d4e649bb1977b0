"""A slot's state, read back from its journal."""

from __future__ import annotations

from holdfast.coordinator.engine import Graphs, State, Value
from holdfast.schemas.codec import decode
from holdfast.schemas.errors import HoldfastError
from holdfast.schemas.records import CoordinatorJournal, Marker, Parked, RunEntry, TaskEntry

__all__ = ["PARKED_PREFIX", "Restoring"]

PARKED_PREFIX = "parked/"


class Restoring:
    """Takes the journal record by record; `finish` returns the newest time that it holds.

    The journal is compacted: an old value of a key may be gone, or still stand before the newest.
    """

    def __init__(self, graphs: Graphs) -> None:
        self._graphs = graphs
        self._newest_ms = 0
        self.state = State()
        self.parked: dict[int, Parked] = {}
        """Records that were passed while they had to wait, by offset."""

    def take(self, key: str, value: bytes | None) -> None:
        """Take one record. Raises `Undecodable` when it is damaged: nothing may be skipped here."""
        entry = None if value is None else decode(CoordinatorJournal, value).body
        if key.startswith(PARKED_PREFIX):
            self._take_parked(int(key.removeprefix(PARKED_PREFIX)), entry)
            return
        assert not isinstance(entry, Parked), f"journal key {key!r} holds a parked record"
        if entry is not None:
            self._note_time(entry)
        if isinstance(entry, RunEntry):
            self._share_plan(entry)
        self.state.restore(key, entry)

    def finish(self) -> int:
        """Return the newest time in the journal (ms): the slot's time goes on from there."""
        markers = self.state.closed
        # Compaction keeps the order of last writes, but a marker may have been written again.
        self.state.closed = dict(sorted(markers.items(), key=lambda item: item[1].finished_ms))
        return self._newest_ms

    def _take_parked(self, offset: int, entry: object) -> None:
        if isinstance(entry, Parked):
            self.parked[offset] = entry
        else:
            self.parked.pop(offset, None)

    def _share_plan(self, entry: RunEntry) -> None:
        try:
            entry.plan = self._graphs.get(entry.plan).source
        except HoldfastError:
            # Written by another version; the run says so when it is worked on.
            return

    def _note_time(self, entry: Value) -> None:
        moments: tuple[int | None, ...] = ()
        if isinstance(entry, RunEntry):
            moments = (entry.row.created_ms, entry.row.finished_ms)
        elif isinstance(entry, TaskEntry):
            moments = (entry.row.dispatched_ms,)
        elif isinstance(entry, Marker):
            moments = (entry.finished_ms,)
        self._newest_ms = max(self._newest_ms, *(m for m in moments if m is not None), 0)
