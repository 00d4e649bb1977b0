"""When a run is to start: at once, at a moment, or after a while."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from holdfast.schemas import PlanError

__all__ = ["AT_ONCE", "DELAY_MAX", "Start"]

DELAY_MAX = timedelta(days=3_660)
"""No run is submitted for a later start: ten years."""


@dataclass(frozen=True, slots=True)
class Start:
    """Not before `at_ms` (wall time), or so long after a coordinator has taken the run."""

    at_ms: int | None = None
    in_ms: int | None = None

    @classmethod
    def of(cls, at: datetime | None, after: timedelta | None) -> Start:
        """Return what `start_at` and `start_in` say. Raises `PlanError` for what cannot be meant.

        A moment that has passed is no mistake: the run starts at once.
        """
        if at is not None and after is not None:
            raise PlanError("give start_at or start_in, not both")
        if at is not None:
            if at.tzinfo is None:
                raise PlanError(
                    f"start_at={at.isoformat()} has no time zone: write "
                    "datetime(..., tzinfo=...), or start_in=timedelta(...)"
                )
            return cls(at_ms=round(at.timestamp() * 1_000))
        if after is not None:
            if not timedelta(0) <= after <= DELAY_MAX:
                raise PlanError(
                    f"start_in: {after.total_seconds():g} s is not between 0 and"
                    f" {DELAY_MAX.days} days"
                )
            return cls(in_ms=round(after.total_seconds() * 1_000))
        return AT_ONCE


AT_ONCE = Start()
