"""Runs of a schedule that break, that go on as others, and backfills whose runs are refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from holdfast.bus.port import Record
from holdfast.coordinator.engine import EngineLimits
from holdfast.schemas.codec import decode, encode
from holdfast.schemas.plan import Plan
from holdfast.schemas.records import (
    CoordinatorEnvelope,
    CoordinatorJournal,
    Event,
    EventType,
    FiringOutcome,
    RunState,
    ScheduleAction,
    ScheduleCommand,
    ScheduleEntry,
)
from tests.unit.coordinator.host import TOPICS, resolved
from tests.unit.schedules.ground import KEY, NAME, Ground, moment


@pytest.fixture
def ground() -> Ground:
    made = Ground(EngineLimits(marker_age_ms=30_000))
    made.begin_at("2026-11-21T09:00:00")
    return made


def starts_a_run(record: Record) -> bool:
    if record.topic != TOPICS.events or record.value is None:
        return False
    return decode(Event, record.value).type is EventType.RUN_STARTED


def test_a_run_that_breaks_at_its_start_is_an_ended_firing(ground: Ground) -> None:
    ground.create(every_s=60)
    ground.pass_time(60_000)
    ground.refuse_next = starts_a_run
    ground.deliver_told()
    ground.refuse_next = None
    assert ground.outcomes() == [FiringOutcome.REFUSED]
    ground.pass_time(60_000)
    ground.work_all()
    assert ground.outcomes() == [FiringOutcome.REFUSED, FiringOutcome.SUCCEEDED], (
        "the next one is not held up"
    )


def endless(**settings: Any) -> str:
    plan = Plan("report", continue_as_new={"when": "`true`", "input": {"day": "x"}}, **settings)
    plan.task("write", "writer.write", day=plan.input("day"))
    return resolved(plan)


@pytest.mark.parametrize("order_key", [None, "k"])
@pytest.mark.parametrize("restarts", [False, True])
def test_cancel_previous_reaches_the_last_of_a_long_row(
    ground: Ground, order_key: str | None, restarts: bool
) -> None:
    settings = {} if order_key is None else {"order_key": order_key}
    ground.create(every_s=3_600, overlap="cancel_previous", plan_json=endless(**settings))
    ground.pass_time(3_600_000)
    ground.deliver_told()
    for _ in range(3):
        ground.work_one(lambda _: "done")
        ground.pump()
        ground.deliver_told()
        ground.pass_time(60_000)  # the markers of those before are gone by now
    first = f"{NAME}-20261121t100000z"
    assert f"{KEY}/run/{first}" in ground.journal
    assert f"run/{first}~3" in ground.journal
    if restarts:
        ground.restart()
        ground.pump()
    ground.at("2026-11-21T11:00:00")
    ground.at("2026-11-21T11:00:01")
    ground.answer_cancels()
    ground.pump()
    ground.deliver_told()
    last = ground.last_run(f"{first}~3").run
    assert last is not None
    assert last.state is RunState.CANCELLED
    assert ground.outcomes() == [FiringOutcome.CANCELLED, FiringOutcome.STARTED]
    assert [f.run_id for f in ground.row.firings] == [first, f"{NAME}-20261121t110000z"]


def test_a_schedule_whose_order_key_cannot_be_rendered_is_not_made(ground: Ground) -> None:
    plan = Plan("report", order_key=Plan("z").input("day"))
    plan.task("write", "writer.write", day=plan.input("day"))
    said = ground.create(every_s=60, plan_json=resolved(plan), input={"day": ["a"]})
    assert said.type is EventType.SCHEDULE_REFUSED
    assert "order key '${input.day}' gives a list" in said.message
    assert not ground.journal


def worn(ground: Ground) -> None:
    """Give the schedule a plan whose runs cannot be submitted, as an older build let it have."""
    plan = Plan("report", order_key=Plan("z").input("list"))
    plan.task("write", "writer.write", day=plan.input("day"))
    entry = decode(CoordinatorJournal, ground.journal[KEY]).body
    assert isinstance(entry, ScheduleEntry)
    changed = replace(entry, plan=resolved(plan))
    ground.journal[KEY] = encode(CoordinatorJournal(changed))
    ground.restart()
    ground.pump()


@pytest.mark.parametrize("crashes", [False, True])
def test_a_backfill_that_is_refused_throughout_is_cut_into_events(
    ground: Ground, crashes: bool
) -> None:
    ground.create(every_s=60, paused=True, input={"day": "${schedule.date}", "list": ["a"]})
    worn(ground)
    seen = len(ground.commits)
    ground.settings = ground.settings.model_copy(update={"batch_inputs": 1})
    ground.restart()
    begin, end = moment("2026-11-20T09:00:00"), moment("2026-11-20T19:00:00")
    command = ScheduleCommand("c", ScheduleAction.BACKFILL, "ann", "because")
    command.from_ms, command.to_ms, command.parallel = begin, end, 1
    ground.deliver(CoordinatorEnvelope(KEY, ground.now_ms, command), KEY)
    for _ in range(40):
        ground.step()
        if crashes:
            ground.restart()
    commits = ground.commits[seen:]
    assert max(map(len, commits)) < 60
    refused = [e.firing.run_id for e in ground.events if e.firing is not None]
    assert len(refused) == len(set(refused)) == 600
    entry = decode(CoordinatorJournal, ground.journal[KEY]).body
    assert isinstance(entry, ScheduleEntry)
    assert entry.backfills == []


def test_a_restored_schedule_with_nothing_left_writes_nothing(ground: Ground) -> None:
    ground.create(every_s=60)
    ground.pass_time(60_000)
    seen = len(ground.commits)
    ground.restart()
    ground.pump()
    assert len(ground.commits) == seen


def test_a_trigger_that_is_repeated_while_its_run_is_open_starts_no_other(ground: Ground) -> None:
    """Ten due times later the row does not show it any more; that it is open is state."""
    ground.create(every_s=60, overlap="allow")
    for _ in range(2):
        ground.word(ScheduleAction.TRIGGER, command_id="mine")
        for _ in range(12):
            ground.pass_time(60_000)
    assert sum("trigger" in run_id for run_id in ground.fired()) == 1
