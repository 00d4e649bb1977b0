"""Markers of closed runs: bounded by age and by number, the oldest go first."""

from __future__ import annotations

from holdfast.coordinator.engine.effects import Reaction
from holdfast.coordinator.engine.limits import EngineLimits
from holdfast.coordinator.engine.state import CLOSED_KIND, Closed, Overlay

__all__ = ["evict", "eviction_due_ms"]


def evict(closed: Closed, overlay: Overlay, now_ms: int, limits: EngineLimits) -> Reaction:
    """Remove markers that are too old or too many, at most as many as one event may."""
    reaction = Reaction(f"{CLOSED_KIND}/", overlay, {}, [])
    surplus = len(closed) - limits.markers_max
    for name, marker in closed.items():
        if surplus <= 0 and marker.finished_ms + limits.marker_age_ms > now_ms:
            break
        if len(reaction.markers) >= limits.records_per_event:
            reaction.more = True
            break
        reaction.markers[name] = None
        surplus -= 1
    return reaction


def eviction_due_ms(closed: Closed, limits: EngineLimits) -> int | None:
    """Return when markers are to be removed next (0: now), or None."""
    if len(closed) > limits.markers_max:
        return 0
    oldest = closed.oldest()
    return None if oldest is None else oldest.finished_ms + limits.marker_age_ms
