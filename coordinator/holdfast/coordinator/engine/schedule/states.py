"""The state machine of a schedule: one table, and the only way through it.

(new) --> ACTIVE <--> PAUSED
            |  ^        |
            v  |        v
          FINISHED   FINISHED     all three --> DELETED
"""

from __future__ import annotations

from holdfast.coordinator.engine.states import IllegalMove
from holdfast.schemas.records import ScheduleState

__all__ = ["SCHEDULE_TRANSITIONS", "check_schedule_move"]

_S = ScheduleState

SCHEDULE_TRANSITIONS: dict[ScheduleState, frozenset[ScheduleState]] = {
    _S.ACTIVE: frozenset({_S.PAUSED, _S.FINISHED, _S.DELETED}),
    _S.PAUSED: frozenset({_S.ACTIVE, _S.FINISHED, _S.DELETED}),
    _S.FINISHED: frozenset({_S.ACTIVE, _S.DELETED}),
    _S.DELETED: frozenset(),
}


def check_schedule_move(name: str, before: ScheduleState, after: ScheduleState) -> None:
    """Raise `IllegalMove` unless a schedule may go from `before` to `after`."""
    if after not in SCHEDULE_TRANSITIONS[before]:
        raise IllegalMove(f"schedule {name}: {before} -> {after}")
