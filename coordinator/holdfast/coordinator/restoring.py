"""A slot's state, read back from its journal."""

from __future__ import annotations

from holdfast.coordinator.engine import Graphs, State, Value
from holdfast.schemas.codec import decode
from holdfast.schemas.errors import HoldfastError, Undecodable
from holdfast.schemas.records import CoordinatorJournal, Parked, PlanRevision, RunEntry

__all__ = ["PARKED_PREFIX", "Restoring"]

PARKED_PREFIX = "parked/"


class Restoring:
    """Takes the journal record by record, and decodes next to nothing of it (see `State`).

    The journal is compacted: an old value of a key may be gone, or still stand before the newest.
    """

    def __init__(self, graphs: Graphs) -> None:
        self._graphs = graphs
        self._parked: dict[int, bytes] = {}
        self.state = State(self._share_plan)

    def take(self, key: str, value: bytes | None) -> None:
        """Take one record."""
        if not key.startswith(PARKED_PREFIX):
            self.state.restore(key, value)
            return
        offset = int(key.removeprefix(PARKED_PREFIX))
        if value is None:
            self._parked.pop(offset, None)
        else:
            self._parked[offset] = value

    def parked(self) -> list[tuple[int, Parked]]:
        """Return the records that were passed while they had to wait, by offset.

        Raises `Undecodable` when one is damaged: nothing may be skipped here.
        """
        return [(offset, _parked(data)) for offset, data in sorted(self._parked.items())]

    def _share_plan(self, value: Value) -> None:
        try:
            if isinstance(value, RunEntry) and value.plan:
                value.plan = self._graphs.get(value.plan).source
            elif isinstance(value, PlanRevision) and value.version == 1:
                value.change = self._graphs.get(value.change).source
        except HoldfastError:
            # Written by another version; the run says so when it is worked on.
            return


def _parked(data: bytes) -> Parked:
    body = decode(CoordinatorJournal, data).body
    if not isinstance(body, Parked):
        raise Undecodable(f"a {type(body).__name__} where a parked record should stand")
    return body
