"""When schedules are due, above all when the clocks change."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from zoneinfo import ZoneInfo

import pytest
from cronsim import CronSim
from hypothesis import given
from hypothesis import strategies as st

from holdfast.schemas.errors import ScheduleError
from holdfast.schemas.times import due_times

SECOND_MS, HOUR_MS, DAY_MS = 1_000, 3_600_000, 86_400_000


def ms(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp() * 1_000)


def told(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1_000, UTC).strftime("%m-%dT%H:%M:%SZ")


def following(cron: str, zone: str, after: str, count: int = 3) -> list[str]:
    times = due_times((cron,), None, zone)
    found, at = [], ms(after)
    for _ in range(count):
        later = times.after(at)
        assert later is not None
        found.append(told(later))
        at = later
    return found


CHANGES = [
    # Berlin, 2026-03-29: 02:00 -> 03:00, at 01:00Z. A named time is due when the gap ends.
    ("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00Z", "03-29T01:00:00Z 03-30T00:30:00Z"),
    ("0,45 2 * * *", "Europe/Berlin", "2026-03-28T12:00Z", "03-29T01:00:00Z 03-30T00:00:00Z"),
    ("0 2,3 * * *", "Europe/Berlin", "2026-03-28T12:00Z", "03-29T01:00:00Z 03-30T00:00:00Z"),
    ("0 30 2 * * *", "Europe/Berlin", "2026-03-28T12:00Z", "03-29T01:00:00Z 03-30T00:30:00Z"),
    ("15 3 * * *", "Europe/Berlin", "2026-03-28T12:00Z", "03-29T01:15:00Z 03-30T01:15:00Z"),
    ("0 6 * * *", "Europe/Berlin", "2026-03-28T12:00Z", "03-29T04:00:00Z 03-30T04:00:00Z"),
    # ... what follows the time that passes is left out.
    ("0 * * * *", "Europe/Berlin", "2026-03-28T23:30Z", "03-29T00:00:00Z 03-29T01:00:00Z"),
    ("*/30 2 * * *", "Europe/Berlin", "2026-03-28T12:00Z", "03-30T00:00:00Z 03-30T00:30:00Z"),
    # Berlin, 2026-10-25: 03:00 -> 02:00, at 01:00Z. A named time is due once, the first time.
    ("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00Z", "10-25T00:30:00Z 10-26T01:30:00Z"),
    ("30 2 * * *", "Europe/Berlin", "2026-10-25T00:40Z", "10-26T01:30:00Z 10-27T01:30:00Z"),
    ("30 2 * * *", "Europe/Berlin", "2026-10-25T01:10Z", "10-26T01:30:00Z 10-27T01:30:00Z"),
    ("0 0 2 * * *", "Europe/Berlin", "2026-10-24T12:00Z", "10-25T00:00:00Z 10-26T01:00:00Z"),
    ("0 3 * * *", "Europe/Berlin", "2026-10-24T12:00Z", "10-25T02:00:00Z 10-26T02:00:00Z"),
    # ... what follows the time that passes is due both times.
    ("0 * * * *", "Europe/Berlin", "2026-10-24T23:30Z", "10-25T00:00:00Z 10-25T01:00:00Z"),
    ("*/30 2 * * *", "Europe/Berlin", "2026-10-25T00:10Z", "10-25T00:30:00Z 10-25T01:00:00Z"),
    # New York, 2026-03-08: 02:00 -> 03:00, at 07:00Z; 2026-11-01: 02:00 -> 01:00, at 06:00Z.
    ("30 2 * * *", "America/New_York", "2026-03-07T12:00Z", "03-08T07:00:00Z 03-09T06:30:00Z"),
    ("30 1 * * *", "America/New_York", "2026-10-31T12:00Z", "11-01T05:30:00Z 11-02T06:30:00Z"),
    # Lord Howe changes by half an hour: 2026-04-05 02:00 -> 01:30, at 15:00Z of the day before.
    ("45 1 * * *", "Australia/Lord_Howe", "2026-04-04T02:00Z", "04-04T14:45:00Z 04-05T15:15:00Z"),
    ("*/15 2 * * *", "Australia/Lord_Howe", "2026-04-04T02:00Z", "04-04T15:30:00Z 04-04T15:45:00Z"),
    # ... and 2026-10-04 02:00 -> 02:30, at 15:30Z of the day before.
    ("0 2 * * *", "Australia/Lord_Howe", "2026-10-03T02:00Z", "10-03T15:30:00Z 10-04T15:00:00Z"),
    ("*/15 2 * * *", "Australia/Lord_Howe", "2026-10-03T02:00Z", "10-03T15:30:00Z 10-03T15:45:00Z"),
    # Cairo changes at midnight: 2026-04-24 00:00 -> 01:00, at 22:00Z of the day before.
    ("0 0 * * *", "Africa/Cairo", "2026-04-23T12:00Z", "04-23T22:00:00Z 04-24T21:00:00Z"),
    ("*/30 0 * * 5", "Africa/Cairo", "2026-04-23T12:00Z", "04-30T21:00:00Z 04-30T21:30:00Z"),
    # Apia had no 30 December 2011: 2011-12-30 00:00 -> 2011-12-31 00:00, at 10:00Z.
    ("0 9 * * *", "Pacific/Apia", "2011-12-29T12:00Z", "12-29T19:00:00Z 12-30T10:00:00Z"),
    ("0 9 30 * *", "Pacific/Apia", "2011-12-29T12:00Z", "12-30T10:00:00Z 01-29T19:00:00Z"),
]


@pytest.mark.parametrize(("cron", "zone", "after", "expected"), CHANGES)
def test_when_the_clocks_change(cron: str, zone: str, after: str, expected: str) -> None:
    assert following(cron, zone, after, 2) == expected.split()


def test_expressions_without_a_change_of_clocks() -> None:
    after = "2026-11-21T10:00Z"
    assert following("*/20 * * * * *", "UTC", after, 2) == ["11-21T10:00:20Z", "11-21T10:00:40Z"]
    assert following("0 9 * * MON-FRI", "Asia/Tokyo", after, 2) == [
        "11-23T00:00:00Z",
        "11-24T00:00:00Z",
    ]
    assert following("0 0 L * *", "UTC", after, 2) == ["11-30T00:00:00Z", "12-31T00:00:00Z"]
    assert following("@daily", "UTC", after, 1) == ["11-22T00:00:00Z"]


def test_several_expressions_are_due_together_once() -> None:
    times = due_times(("0 9 * * *", "0 9,17 * * *"), None, "UTC")
    found = list(times.between(ms("2026-11-21T00:00Z"), ms("2026-11-22T00:00Z")))
    assert [told(at) for at in found] == ["11-21T09:00:00Z", "11-21T17:00:00Z"]


def test_intervals_are_counted_from_their_anchor() -> None:
    times = due_times((), 90_000, "UTC", ms("2026-11-21T10:00:30Z"))
    assert told(times.after(ms("2026-11-21T10:00:30Z")) or 0) == "11-21T10:02:00Z"
    assert told(times.after(ms("2026-11-21T09:59:10Z")) or 0) == "11-21T10:00:30Z"


@pytest.mark.parametrize(
    ("cron", "interval_ms", "zone", "message"),
    [
        (("61 * * * *",), None, "UTC", "bad minute"),
        (("* * *",), None, "UTC", "wrong number of fields"),
        (("0 0 30 2 *",), None, "UTC", "day"),
        (("* * * * *",), None, "Mars/Olympus", "time zone 'Mars/Olympus' is not known"),
        (("* * * * *",), None, "../etc/passwd", "is not known"),
        ((), None, "UTC", "one of them"),
        (("* * * * *",), 1_000, "UTC", "not both"),
        ((), 1_500, "UTC", "whole seconds"),
        ((), 0, "UTC", "whole seconds"),
        (("* * * * *",) * 21, None, "UTC", "at most 20"),
        (("*" * 300,), None, "UTC", "too long"),
    ],
)
def test_what_is_no_schedule(
    cron: tuple[str, ...], interval_ms: int | None, zone: str, message: str
) -> None:
    with pytest.raises(ScheduleError, match=message):
        due_times(cron, interval_ms, zone)


ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Cairo"]
FIELDS = st.sampled_from(["*", "*/7", "0", "5,35", "30"])
HOURS = st.sampled_from(["*", "*/3", "2", "0,1,2,3", "23"])
MOMENTS = st.integers(ms("2025-01-01T00:00Z"), ms("2028-01-01T00:00Z"))


@given(FIELDS, HOURS, st.sampled_from(ZONES), MOMENTS)
def test_times_go_forward_and_show_what_was_asked_for(
    minute: str, hour: str, zone: str, at_ms: int
) -> None:
    times = due_times((f"{minute} {hour} * * *",), None, zone)
    named = not minute.startswith("*") and not hour.startswith("*")
    found = list(islice(times.between(at_ms, at_ms + 400 * DAY_MS), 30))
    assert found[0] >= at_ms
    assert all(a < b for a, b in pairwise(found))
    for at in found:
        wall = datetime.fromtimestamp(at / 1_000, ZoneInfo(zone)).replace(tzinfo=None)
        matches = next(CronSim(f"{minute} {hour} * * *", wall - timedelta(seconds=1))) == wall
        # Only a named time may have been put off, to the end of a gap.
        assert matches or (named and _is_end_of_gap(at, zone))


def _is_end_of_gap(at_ms: int, zone: str) -> bool:
    before, after = (
        datetime.fromtimestamp(at / 1_000, ZoneInfo(zone)).replace(tzinfo=None)
        for at in (at_ms - SECOND_MS, at_ms)
    )
    return after - before > timedelta(seconds=1)


@given(FIELDS, HOURS, st.sampled_from(ZONES), MOMENTS)
def test_it_does_not_matter_from_where_one_looks(
    minute: str, hour: str, zone: str, at_ms: int
) -> None:
    times = due_times((f"{minute} {hour} * * *",), None, zone)
    first = times.after(at_ms)
    assert first is not None
    for between in (at_ms + 1, (at_ms + first) // 2, first - 1):
        if at_ms <= between < first:
            assert times.after(between) == first


@given(st.integers(1, 40), st.integers(0, 3 * HOUR_MS), st.sampled_from(ZONES))
def test_the_newest_are_the_last(most: int, span_ms: int, zone: str) -> None:
    times = due_times(("*/7 * * * *",), None, zone)
    to_ms = ms("2026-10-25T02:00Z")
    every = list(times.between(to_ms - span_ms, to_ms))
    assert times.newest(to_ms - span_ms, to_ms, most) == every[-most:]
