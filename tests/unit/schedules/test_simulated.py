"""Schedules end to end, in virtual time: client, bus, coordinator, agents."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import BaseModel

from holdfast.agents import Agent, Context
from holdfast.client import CommandRefused, ScheduleNotFound
from holdfast.schemas import PlanError, Schedule, ScheduleError
from holdfast.testing import Simulation


class Day(BaseModel):
    day: str


def writer_agent(minutes: float = 0) -> tuple[Agent, list[str]]:
    writer = Agent("writer")
    seen: list[str] = []

    @writer.task()
    async def write(ctx: Context, day: Day) -> Day:
        if minutes:
            await ctx.sleep("while", minutes * 60)
        seen.append(day.day)
        return day

    return writer, seen


def fired(simulation: Simulation, name: str = "nightly") -> list[str]:
    events = simulation.events(f"schedule/{name}")
    return [e.firing.run_id for e in events if e.type == "schedule.fired" and e.firing]


HOURLY = Schedule(cron="0 * * * *", timezone="Europe/Berlin", input={"day": "${schedule.time}"})


def test_days_of_a_schedule_through_crashes() -> None:
    writer, seen = writer_agent()
    with Simulation([writer]) as simulation:
        created = simulation.schedules.create("nightly", "writer.write", HOURLY, reason="reports")
        assert created.row.changed_by
        for _ in range(6):
            simulation.skip(hours=8, minutes=1)
            simulation.crash("coordinator")
            simulation.skip(hours=3)
        simulation.schedules.pause("nightly")
        row = simulation.schedules.get("nightly")
        assert row.fired == len(set(fired(simulation))) == len(fired(simulation)) >= 66
        assert Counter(seen).most_common(1)[0][1] == 1
        assert len(seen) == row.fired
        assert simulation.violations() == []


def test_a_run_that_takes_longer_than_the_interval() -> None:
    writer, seen = writer_agent(minutes=90)
    with Simulation([writer]) as simulation:
        schedule = HOURLY.model_copy(update={"overlap": "queue"})
        simulation.schedules.create("nightly", "writer.write", schedule)
        simulation.skip(hours=10)
        row = simulation.schedules.get("nightly")
        assert row.skipped
        assert row.open_runs == 1
        assert len(seen) == row.fired - 1
        simulation.schedules.delete("nightly")
        with pytest.raises(ScheduleNotFound, match="no schedule 'nightly'"):
            simulation.schedules.get("nightly")
        simulation.skip(hours=2)
        assert simulation.violations() == []


def test_steering() -> None:
    writer, seen = writer_agent()
    with Simulation([writer]) as simulation:
        schedules = simulation.schedules
        schedules.create("nightly", "writer.write", HOURLY, paused=True, reason="not yet")
        assert schedules.create("nightly", "writer.write", HOURLY).message.startswith("schedule")
        row = schedules.get("nightly")
        assert (row.state, row.note, row.fired) == ("paused", "not yet", 0)
        assert [each.name for each in schedules.list()] == ["nightly"]
        triggered = schedules.trigger("nightly", trigger_id="first")
        assert triggered.run_id is not None
        simulation.skip(seconds=5)
        assert len(seen) == 1
        assert fired(simulation) == [triggered.run_id]
        now = simulation.now
        schedules.backfill("nightly", now - timedelta(hours=5), now - timedelta(hours=1))
        simulation.skip(seconds=20)
        assert len(seen) == 5
        changed = HOURLY.model_copy(update={"cron": ("0 12 * * *",)})
        with pytest.raises(CommandRefused, match="this update was made for 7"):
            schedules.update("nightly", changed, revision=7)
        assert schedules.update("nightly", changed, revision=1).row.revision == 2
        times = schedules.next_times("nightly")
        assert len(times) == 5
        assert {time.hour for time in times} == {12}
        assert str(times[0].tzinfo) == "Europe/Berlin"
        schedules.resume("nightly", reason="now")
        simulation.skip(days=2)
        assert len(seen) == 7
        assert simulation.violations() == []


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"cron": ("nope",)}, ScheduleError, "wrong number of fields"),
        ({"input": {"day": "${schedule.tim}"}}, ScheduleError, "did you mean 'schedule.time'"),
        ({"input": {}}, PlanError, "day"),
        ({"timezone": "Berlin"}, ScheduleError, "time zone 'Berlin' is not known"),
        ({"catch_up_s": 0}, ScheduleError, "catch_up_s: 0 cannot be used"),
        ({"end": datetime(2020, 1, 1, tzinfo=UTC)}, ScheduleError, "never due"),
    ],
)
def test_what_cannot_be_kept_is_said_before_anything_is_sent(
    change: dict[str, object], error: type[Exception], message: str
) -> None:
    writer, _ = writer_agent()
    with Simulation([writer]) as simulation:
        schedule = HOURLY.model_copy(update=change)
        with pytest.raises(error, match=message):
            simulation.schedules.create("nightly", "writer.write", schedule)
        with pytest.raises(ScheduleError, match="schedule name 'Night Ly'"):
            simulation.schedules.create("Night Ly", "writer.write", HOURLY)
        assert simulation.schedules.list() == []
