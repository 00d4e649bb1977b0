"""Schedules without `await`: see `Schedules`, whose methods these are."""

from __future__ import annotations

from collections.abc import Coroutine
from datetime import datetime
from typing import Any, Protocol, TypeVar

from holdfast.client.schedules import ScheduleReceipt, Schedules
from holdfast.client.submission import Work
from holdfast.schemas import OverlapPolicy, Schedule, ScheduleRow

__all__ = ["SyncSchedules"]

T = TypeVar("T")


class Call(Protocol):
    """Carries out a coroutine on the client's loop."""

    def __call__(self, work: Coroutine[Any, Any, T]) -> T:
        """Return what it returns."""
        ...


class SyncSchedules:
    """`SyncClient.schedules`."""

    def __init__(self, schedules: Schedules, call: Call) -> None:
        self._schedules = schedules
        self._call = call

    def create(
        self,
        name: str,
        work: Work,
        schedule: Schedule,
        *,
        paused: bool = False,
        reason: str = "",
    ) -> ScheduleReceipt:
        """See `Schedules.create`."""
        return self._call(
            self._schedules.create(name, work, schedule, paused=paused, reason=reason)
        )

    def update(
        self,
        name: str,
        schedule: Schedule,
        *,
        work: Work | None = None,
        revision: int | None = None,
        reason: str = "",
    ) -> ScheduleReceipt:
        """See `Schedules.update`."""
        return self._call(
            self._schedules.update(name, schedule, work=work, revision=revision, reason=reason)
        )

    def pause(self, name: str, *, reason: str = "") -> ScheduleReceipt:
        """See `Schedules.pause`."""
        return self._call(self._schedules.pause(name, reason=reason))

    def resume(self, name: str, *, reason: str = "") -> ScheduleReceipt:
        """See `Schedules.resume`."""
        return self._call(self._schedules.resume(name, reason=reason))

    def delete(self, name: str, *, reason: str = "") -> ScheduleReceipt:
        """See `Schedules.delete`."""
        return self._call(self._schedules.delete(name, reason=reason))

    def trigger(
        self,
        name: str,
        *,
        overlap: OverlapPolicy | None = None,
        trigger_id: str | None = None,
        reason: str = "",
    ) -> ScheduleReceipt:
        """See `Schedules.trigger`."""
        return self._call(
            self._schedules.trigger(name, overlap=overlap, trigger_id=trigger_id, reason=reason)
        )

    def backfill(
        self,
        name: str,
        start: datetime,
        end: datetime,
        *,
        parallel: int = 1,
        reason: str = "",
    ) -> ScheduleReceipt:
        """See `Schedules.backfill`."""
        return self._call(
            self._schedules.backfill(name, start, end, parallel=parallel, reason=reason)
        )

    def get(self, name: str) -> ScheduleRow:
        """See `Schedules.get`."""
        return self._call(self._schedules.get(name))

    def list(self) -> list[ScheduleRow]:
        """See `Schedules.list`."""
        return self._call(self._schedules.list())

    def next_times(self, name: str, count: int = 5) -> tuple[datetime, ...]:
        """See `Schedules.next_times`."""
        return self._call(self._schedules.next_times(name, count))
