"""Bounds of the engine. Part of its input: two engines with the same bounds decide the same."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["EngineLimits"]

_DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """All of them can be made small in tests; the defaults are those of production."""

    records_per_event: int = 500
    """No event makes more records than this."""
    chunk_items: int = 100
    """Items of a map in one record of its list. Closing a chunk removes the record of each."""
    chunk_bytes: int = 512 * 1024
    """Inputs in one record of a list; more of them go on in the next one."""
    ahead_items: int = 1_000
    """So many items that a handler handed out wait to be begun; before it hands out more, it waits
    too."""
    grace_ms: int = 60_000
    """How long a run that ends badly waits for its agents' answers before it closes without."""
    marker_age_ms: int = 7 * _DAY_MS
    """How long a closed run's id is remembered."""
    markers_max: int = 50_000
    """How many closed runs a slot remembers."""

    def __post_init__(self) -> None:
        # A chunk may stand in as many records as it has items, if each of them is large.
        if self.records_per_event < 2 * self.chunk_items + self.reserve:
            raise ValueError("records_per_event must leave room to close a chunk")

    @property
    def reserve(self) -> int:
        """Records that an event keeps free for what its last decision may entail.

        The most is a task that fails, with its dead letter and release, its map, the run's new
        state, and the first cancels.
        """
        return 24
