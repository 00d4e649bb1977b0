"""When a schedule is due: cron expressions in a time zone, or an interval. Pure; whole seconds.

`cronsim` reads the expressions and walks the calendar, on wall time without a zone. What a change
of the clocks does to wall time is decided here (tests/unit/schedules/test_times.py has the table):

- An expression whose minute and hour both name times ("30 2 * * *") is due once a day. What falls
  into a gap is due when the gap ends; what falls into an overlap is due the first time.
- All others ("*/30 * * * *", "0 * * * *") follow the time that passes: what falls into a gap is
  left out, what falls into an overlap is due both times.

So it is in Debian's cron. The libraries were tried and found wrong in places; see docs/adr/0012.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from holdfast.schemas.errors import ScheduleError

__all__ = ["DueTimes", "due_times", "time_zone"]

CRON_CHARS_MAX = 200
CRON_MAX = 20
"""Expressions of one schedule."""
INTERVAL_MAX_MS = 366 * 86_400_000
_SECOND_MS = 1_000
_ALIASES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_EPOCH = datetime(1970, 1, 1)
_LAST_YEAR = 9_990
"""Nothing is due after it: Python's calendar ends there."""
_STEP = timedelta(days=1)
"""No zone changes its clocks twice within so short a time."""


class DueTimes:
    """All due times of one rule, in milliseconds since the epoch. Made by `due_times`."""

    def __init__(self, rules: tuple[_Rule, ...]) -> None:
        self._rules = rules

    def after(self, at_ms: int) -> int | None:
        """Return the first due time later than `at_ms`, or None."""
        found = [at for rule in self._rules if (at := rule.after(at_ms)) is not None]
        return min(found, default=None)

    def between(self, from_ms: int, to_ms: int) -> Iterator[int]:
        """Yield those from `from_ms` to before `to_ms`, in order, each once."""
        at = self.after(from_ms - 1)
        while at is not None and at < to_ms:
            yield at
            at = self.after(at)

    def newest(self, from_ms: int, to_ms: int, most: int) -> list[int]:
        """Return the last `most` of those from `from_ms` to before `to_ms`, in order.

        Looks backwards in growing spans: a schedule of every second has millions in a month.
        """
        span_ms = most * _SECOND_MS
        while True:
            start_ms = max(from_ms, to_ms - span_ms)
            found = list(self.between(start_ms, to_ms))
            if len(found) >= most or start_ms == from_ms:
                return found[-most:]
            span_ms *= 2


@dataclass(frozen=True, slots=True)
class _Interval:
    """Every `interval_ms` from `anchor_ms` on, and before it."""

    interval_ms: int
    anchor_ms: int

    def after(self, at_ms: int) -> int | None:
        passed = (at_ms - self.anchor_ms) // self.interval_ms
        return self.anchor_ms + (passed + 1) * self.interval_ms


@dataclass(frozen=True, slots=True)
class _FixedTimes:
    """A cron expression whose minute and hour name times of the day."""

    expression: str
    zone: ZoneInfo

    def after(self, at_ms: int) -> int | None:
        moment = _moment(at_ms)
        for wall in CronSim(self.expression, _wall(moment, self.zone)):
            if wall.year > _LAST_YEAR:
                return None
            found = _first_instant(wall, self.zone)
            if found > moment:
                return _milliseconds(found)
        return None


@dataclass(frozen=True, slots=True)
class _PassingTimes:
    """A cron expression that follows the time that passes."""

    expression: str
    zone: ZoneInfo

    def after(self, at_ms: int) -> int | None:
        moment = _moment(at_ms)
        offset = _offset(moment, self.zone)
        while True:
            wall = next(CronSim(self.expression, moment + offset), None)
            if wall is None or wall.year > _LAST_YEAR:
                return None
            found = wall - offset
            change = _change(moment, found, offset, self.zone)
            if change is None:
                return _milliseconds(found)
            # The clocks change before it: look again from there, by the offset that holds then.
            moment, offset = change - timedelta(seconds=1), _offset(change, self.zone)


_Rule = _Interval | _FixedTimes | _PassingTimes


def time_zone(name: str) -> ZoneInfo:
    """Return a time zone; raises `ScheduleError`."""
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, LookupError):
        raise ScheduleError(
            f"time zone {name!r} is not known: give an IANA name, for instance Europe/Berlin or UTC"
        ) from None


@lru_cache(maxsize=4_096)
def due_times(
    cron: tuple[str, ...], interval_ms: int | None, timezone: str, anchor_ms: int | None = None
) -> DueTimes:
    """Return the due times of a rule: expressions in a time zone, or an interval.

    `anchor_ms`: from where intervals are counted; None: the epoch. Raises `ScheduleError`.
    """
    zone = time_zone(timezone)
    if bool(cron) == (interval_ms is not None):
        raise ScheduleError("give cron expressions, or an interval; one of them, not both")
    if interval_ms is not None:
        return DueTimes((_interval(interval_ms, anchor_ms or 0),))
    if len(cron) > CRON_MAX:
        raise ScheduleError(f"{len(cron)} cron expressions; at most {CRON_MAX} are allowed")
    return DueTimes(tuple(_cron(each, zone) for each in cron))


def _interval(interval_ms: int, anchor_ms: int) -> _Interval:
    if interval_ms % _SECOND_MS or not _SECOND_MS <= interval_ms <= INTERVAL_MAX_MS:
        raise ScheduleError(
            f"an interval of {interval_ms / 1_000:g} s cannot be used: it is whole seconds,"
            f" from 1 s to {INTERVAL_MAX_MS // 1_000} s"
        )
    return _Interval(interval_ms, anchor_ms)


def _cron(text: str, zone: ZoneInfo) -> _Rule:
    expression = _ALIASES.get(text.strip().lower(), text)
    if len(expression) > CRON_CHARS_MAX:
        raise ScheduleError(f"cron expression {expression[:40]!r}… is too long")
    parts = expression.split()
    try:
        never = next(CronSim(expression, datetime(2000, 1, 1)), None) is None
    except CronSimError as error:
        raise ScheduleError(
            f"cron expression {text!r} cannot be used: {str(error)[:1].lower()}{str(error)[1:]};"
            " it has five fields (minute, hour, day of month, month, day of week), or six with"
            " seconds before them"
        ) from None
    if never:
        raise ScheduleError(f"cron expression {text!r} is never due: there is no such day")
    minute, hour = parts[-5], parts[-4]
    if minute.startswith("*") or hour.startswith("*"):
        return _PassingTimes(expression, zone)
    return _FixedTimes(expression, zone)


def _moment(at_ms: int) -> datetime:
    """Return UTC as a naive time, on the whole second before."""
    return _EPOCH + timedelta(seconds=at_ms // _SECOND_MS)


def _milliseconds(moment: datetime) -> int:
    passed = moment - _EPOCH
    return (passed.days * 86_400 + passed.seconds) * _SECOND_MS


def _offset(moment: datetime, zone: ZoneInfo) -> timedelta:
    """Return what is added to UTC at a moment."""
    offset = moment.replace(tzinfo=UTC).astimezone(zone).utcoffset()
    assert offset is not None, "every zone has one"
    return offset


def _wall(moment: datetime, zone: ZoneInfo) -> datetime:
    return moment + _offset(moment, zone)


def _first_instant(wall: datetime, zone: ZoneInfo) -> datetime:
    """Return when clocks first show a wall time, or the end of the gap that it falls into."""
    before = wall - wall.replace(tzinfo=zone, fold=0).utcoffset()  # type: ignore[operator]
    if _wall(before, zone) == wall:
        return before
    after = wall - wall.replace(tzinfo=zone, fold=1).utcoffset()  # type: ignore[operator]
    low, high = sorted((before, after))
    change = _change(low - _STEP, high + _STEP, _offset(low - _STEP, zone), zone)
    assert change is not None, "a gap is a change of the clocks"
    return change


def _change(
    moment: datetime, until: datetime, offset: timedelta, zone: ZoneInfo
) -> datetime | None:
    """Return the first second after `moment`, up to `until`, at which `offset` holds no more."""
    low = moment
    while low < until:
        high = min(low + _STEP, until)
        if _offset(high, zone) != offset:
            return _narrowed(low, high, offset, zone)
        low = high
    return None


def _narrowed(low: datetime, high: datetime, offset: timedelta, zone: ZoneInfo) -> datetime:
    """Return the first second after `low` at which the offset is another; it is so at `high`."""
    before, after = 0, round((high - low).total_seconds())
    while after - before > 1:
        middle = (before + after) // 2
        if _offset(low + timedelta(seconds=middle), zone) == offset:
            before = middle
        else:
            after = middle
    return low + timedelta(seconds=after)
