"""Schedules: entities that start runs by the clock, and hear of their ends. See docs/adr/0012."""

from __future__ import annotations

from holdfast.coordinator.engine.schedule.kind import ScheduleKind
from holdfast.coordinator.engine.schedule.states import SCHEDULE_TRANSITIONS

__all__ = ["SCHEDULE_TRANSITIONS", "ScheduleKind"]
