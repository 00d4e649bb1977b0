"""The life of a slot in a process, drawn once.

                assigned
    (absent) -----------> OPENING <--------------------------+
                           |   |  restored                   | one jittered session time-out
             taken away,   |   v                             | later, still assigned, heartbeat
             or stop       | RUNNING --------------------> FENCED   acknowledged since
                           |   |     a newer writer,         |
                           |   |     or another's commit     |
                           |   v  taken away, or stop        |
                           | LEAVING                         |
                           v   v                             |
                          CLOSED <---------------------------+ taken away, or stop

A commit whose answer was lost is settled inside RUNNING (see `commit`): handlers go on meanwhile.
"""

from __future__ import annotations

from enum import Enum

__all__ = ["TRANSITIONS", "SlotState"]


class SlotState(Enum):
    """Where a slot stands; see the drawing above."""

    OPENING = "opening"
    RUNNING = "running"
    LEAVING = "leaving"
    FENCED = "fenced"
    CLOSED = "closed"


TRANSITIONS: dict[SlotState, frozenset[SlotState]] = {
    SlotState.OPENING: frozenset({SlotState.RUNNING, SlotState.FENCED, SlotState.CLOSED}),
    SlotState.RUNNING: frozenset({SlotState.LEAVING, SlotState.FENCED, SlotState.CLOSED}),
    SlotState.LEAVING: frozenset({SlotState.CLOSED}),
    SlotState.FENCED: frozenset({SlotState.OPENING, SlotState.CLOSED}),
    SlotState.CLOSED: frozenset(),
}
