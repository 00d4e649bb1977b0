"""Schedules in the engine: what fires when, and what becomes of it."""

from __future__ import annotations

import pytest

from holdfast.schemas.codec import decode
from holdfast.schemas.records import (
    CommandAction,
    CoordinatorEnvelope,
    FiringOutcome,
    Outcome,
    OverlapPolicy,
    ScheduleAction,
    ScheduleState,
    Signal,
    Submission,
)
from holdfast.schemas.schedules import Schedule
from tests.unit.coordinator.host import given
from tests.unit.schedules.ground import KEY, NAME, Ground, moment, plan

O = FiringOutcome  # noqa: E741 - it is short, and used in lists


@pytest.fixture
def ground() -> Ground:
    made = Ground()
    made.begin_at("2026-11-21T09:00:00")
    return made


def test_a_due_time_is_one_run(ground: Ground) -> None:
    event = ground.create(cron="30 * * * *", timezone="Europe/Berlin")
    assert event.type == "schedule.created"
    assert event.plan == plan()
    assert ground.row.next_ms == moment("2026-11-21T09:30:00")
    ground.at("2026-11-21T09:29:59")
    assert not ground.fired()
    ground.at("2026-11-21T09:30:00.150")
    assert ground.fired() == ["20261121t093000z"]
    assert ground.row.next_ms == moment("2026-11-21T10:30:00")
    assert ground.row.open_runs == 1
    [(_, task)] = ground.sent
    assert given(task) == {"day": "2026-11-21"}
    ground.work_all()
    assert ground.output(f"{NAME}-20261121t093000z") == "done"
    assert ground.outcomes() == [O.SUCCEEDED]
    assert ground.row.open_runs == 0
    assert ground.said() == ["created", "fired", "run_ended"]
    assert list(ground.machine.state.entities) == [KEY]


def test_the_run_is_submitted_in_the_commit_that_moves_the_schedule_on(ground: Ground) -> None:
    ground.create(every_s=60)
    before = len(ground.commits)
    ground.pass_time(60_000)
    [commit] = ground.commits[before:]
    keys = [(r.topic.removeprefix("test."), (r.key or b"").decode()) for r in commit]
    run_id = f"{NAME}-20261121t090100z"
    assert ("coordinator", run_id) in keys
    assert ("journal.coordinator", KEY) in keys
    assert ("journal.coordinator", f"{KEY}/run/{run_id}") in keys


def test_a_run_that_fails_or_is_refused_is_told(ground: Ground) -> None:
    ground.create(every_s=60)
    ground.pass_time(60_000)
    ground.deliver_told()
    ground.command(CommandAction.CANCEL, run_id=f"{NAME}-20261121t090100z")
    ground.work_all()
    assert ground.outcomes() == [O.CANCELLED]
    assert "cancelled" in ground.row.firings[0].message
    ground.submit(plan(), run_id=f"{NAME}-20261121t090200z")
    ground.pass_time(60_000)
    ground.deliver_told()
    assert ground.outcomes() == [O.CANCELLED, O.REFUSED]
    assert "was there before" in ground.row.firings[1].message


def test_skip(ground: Ground) -> None:
    ground.create(every_s=60)
    ground.at("2026-11-21T09:01:00")
    ground.at("2026-11-21T09:02:00")
    assert ground.outcomes() == [O.STARTED, O.SKIPPED]
    assert "20261121t090100z is open" in ground.row.firings[1].message
    ground.work_all()
    ground.at("2026-11-21T09:03:00")
    assert ground.outcomes() == [O.SUCCEEDED, O.SKIPPED, O.STARTED]
    assert (ground.row.fired, ground.row.skipped) == (2, 1)


def test_queue_keeps_one(ground: Ground) -> None:
    ground.create(every_s=60, overlap="queue")
    for minute in (1, 2, 3):
        ground.at(f"2026-11-21T09:0{minute}:00")
    assert ground.outcomes() == [O.STARTED, O.QUEUED, O.SKIPPED]
    ground.restart()
    ground.work_all()
    assert ground.outcomes() == [O.SUCCEEDED, O.SUCCEEDED, O.SKIPPED]
    assert ground.fired() == ["20261121t090100z", "20261121t090200z"]


def test_allow_runs_beside_each_other_up_to_a_bound(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast.coordinator.engine.schedule.firing.OPEN_RUNS_MAX", 2)
    ground.create(every_s=60, overlap="allow")
    for minute in (1, 2, 3):
        ground.at(f"2026-11-21T09:0{minute}:00")
    assert ground.outcomes() == [O.STARTED, O.STARTED, O.SKIPPED]
    assert "no more are started" in ground.row.firings[2].message


def test_cancel_previous_never_overlaps_and_the_newest_wins(ground: Ground) -> None:
    ground.create(every_s=60, overlap="cancel-previous")
    for minute in (1, 2, 3):
        ground.pass_time(60_000)
        if minute == 1:
            ground.deliver_told()
    assert ground.outcomes() == [O.STARTED, O.SKIPPED, O.QUEUED]
    cancels = [r for r in ground.forwarded if b"cancel-previous" in (r.value or b"")]
    assert len(cancels) == 1, "once"
    ground.work_all()
    assert ground.outcomes() == [O.CANCELLED, O.SKIPPED, O.SUCCEEDED]
    assert ground.fired() == ["20261121t090100z", "20261121t090300z"]


def test_an_outage_is_made_good_within_its_window(ground: Ground) -> None:
    ground.create(every_s=10, overlap="allow", catch_up_s=30)
    ground.pass_time(600_000)
    # 09:10:00 is now; 30 s before it is the oldest time that counts.
    assert ground.fired() == [f"20261121t09{t}z" for t in ("0930", "0940", "0950", "1000")]
    [missed] = [e for e in ground.events if e.type == "schedule.missed"]
    assert missed.firing is not None
    assert missed.firing.count == 56
    assert ground.row.missed == 56


def test_only_the_newest_are_made_good(ground: Ground) -> None:
    ground.create(every_s=1, overlap="allow", catch_up_s=3_600, catch_up_runs=3)
    ground.pass_time(1_800_000)
    assert ground.fired() == [f"20261121t09{t}z" for t in ("2958", "2959", "3000")]
    assert ground.row.missed == 1_000, "at least: it is not counted to the end"
    assert "1000 or more" in ground.row.firings[0].message


def test_a_pause_is_made_good_as_an_outage_is(ground: Ground) -> None:
    ground.create(every_s=60, overlap="allow", catch_up_s=120)
    assert ground.word(ScheduleAction.PAUSE, reason="audit").type == "schedule.paused"
    assert (ground.row.state, ground.row.note) == (ScheduleState.PAUSED, "audit")
    ground.pass_time(600_000)
    assert not ground.fired()
    assert ground.word(ScheduleAction.RESUME).type == "schedule.resumed"
    assert ground.fired() == [f"20261121t09{t}z" for t in ("0800", "0900", "1000")]
    assert ground.row.note == ""


def test_a_pause_holds_what_waits(ground: Ground) -> None:
    ground.create(every_s=60, overlap="queue")
    ground.at("2026-11-21T09:01:00")
    ground.at("2026-11-21T09:02:00")
    ground.word(ScheduleAction.PAUSE)
    ground.work_all()
    assert ground.outcomes() == [O.SUCCEEDED, O.QUEUED]
    ground.word(ScheduleAction.RESUME)
    assert ground.outcomes() == [O.SUCCEEDED, O.STARTED]


def test_jitter_puts_off_always_by_the_same(ground: Ground) -> None:
    ground.create(every_s=600, jitter_s=300, overlap="allow")
    other = Ground()
    other.begin_at("2026-11-21T09:00:00")
    other.create(every_s=600, jitter_s=300, overlap="allow")
    for each, step in ((ground, 1_000), (other, 250)):
        for _ in range(3_600_000 // step):
            each.pass_time(step)
            if each is other and len(each.fired()) == 3:
                each.restart()
    at = [
        [-(-e.at_ms // 1_000) for e in each.events if e.type == "schedule.fired"]
        for each in (ground, other)
    ]
    assert at[0] == at[1]
    late = [t % 600 for t in at[0]]
    assert len(set(late)) > 2
    assert max(late) <= 300
    assert ground.fired()[0] == "20261121t091000z", "its name is that of the time itself"


def test_bounds(ground: Ground) -> None:
    ground.create(
        every_s=60, overlap="allow", start="2026-11-21T09:10:00", end="2026-11-21T09:12:00"
    )
    for minute in range(1, 15):
        ground.at(f"2026-11-21T09:{minute:02}:00")
    assert ground.fired() == ["20261121t091000z", "20261121t091100z"]
    assert ground.row.state is ScheduleState.FINISHED
    assert ground.row.next_ms is None
    refused = ground.word(ScheduleAction.RESUME).message
    assert refused == "schedule 'nightly' is finished: it cannot be resumed now: update its end"
    ground.work_all()
    spec = Schedule(every_s=60, input={"day": "x"}).spec("report")
    assert ground.word(ScheduleAction.UPDATE, spec=spec).type == "schedule.updated"
    assert ground.row.state is ScheduleState.ACTIVE
    ground.at("2026-11-21T09:15:00")
    assert ground.fired()[-1] == "20261121t091500z"


def test_the_end_of_an_outage_that_holds_the_last_times(ground: Ground) -> None:
    ground.create(every_s=60, overlap="allow", catch_up_s=600, end="2026-11-21T09:03:00")
    ground.pass_time(400_000)
    assert ground.fired() == ["20261121t090100z", "20261121t090200z"]
    assert ground.said()[-1] == "finished"


def test_trigger(ground: Ground) -> None:
    ground.create(cron="0 0 1 1 *")
    answer = ground.word(ScheduleAction.TRIGGER, command_id="once")
    assert answer.type == "schedule.triggered"
    [run] = ground.fired()
    assert run in answer.message
    ground.work_all()
    assert ground.outcomes() == [O.SUCCEEDED]
    again = ground.word(ScheduleAction.TRIGGER, command_id="once")
    assert "was asked for before" in again.message
    assert len(ground.fired()) == 1
    ground.word(ScheduleAction.TRIGGER)
    refused = ground.word(ScheduleAction.TRIGGER)
    assert refused.type == "schedule.refused"
    assert "--overlap allow" in refused.message
    assert ground.word(ScheduleAction.TRIGGER, overlap=OverlapPolicy.ALLOW).type.endswith("ed")
    assert len(ground.fired()) == 3


def test_backfill_is_worked_in_order_and_survives(ground: Ground) -> None:
    ground.create(every_s=3_600)
    answer = ground.word(
        ScheduleAction.BACKFILL,
        from_ms=moment("2026-11-20T00:00:00"),
        to_ms=moment("2026-11-20T05:00:00"),
        parallel=2,
    )
    assert answer.message.startswith("5 due times: backfill by ann")
    assert ground.fired() == ["20261120t000000z", "20261120t010000z"]
    ground.restart()
    ground.work_all()
    assert ground.fired() == [f"20261120t0{hour}0000z" for hour in range(5)]
    assert set(ground.outcomes()) == {O.SUCCEEDED}
    ground.at("2026-11-21T10:00:00")
    assert ground.fired()[-1] == "20261121t100000z"
    again = ground.word(
        ScheduleAction.BACKFILL,
        from_ms=moment("2026-11-20T04:00:00"),
        to_ms=moment("2026-11-20T05:00:00"),
    )
    assert again.type == "schedule.backfilled"
    ground.deliver_told()
    assert ground.row.firings[-1].outcome is O.REFUSED, "one time, one run"


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ({}, "a time to begin with"),
        ({"from_ms": 5, "to_ms": 5}, "a later one"),
        ({"from_ms": 5, "to_ms": 2**42}, "ends in the past"),
        ({"from_ms": 5, "to_ms": 1_000_000_000_000}, "more than 1000 due times"),
        ({"from_ms": 5, "to_ms": 3_600_000}, "no due time"),
        ({"from_ms": 0, "to_ms": 7_200_000, "parallel": 51}, "from 1 to 50"),
        ({"from_ms": -(2**60), "to_ms": 7_200_000}, "no moment"),
    ],
)
def test_backfills_that_are_refused(ground: Ground, given_: dict[str, int], message: str) -> None:
    ground.create(every_s=3_600)
    journal = dict(ground.journal)
    refused = ground.word(ScheduleAction.BACKFILL, **given_)
    assert refused.type == "schedule.refused"
    assert message in refused.message
    assert ground.journal == journal, "nothing is half-done"
    assert refused.schedule_command is not None
    assert refused.schedule_command.actor == "ann"


def test_update_asks_for_the_revision_that_was_seen(ground: Ground) -> None:
    ground.create(every_s=60)
    spec = Schedule(cron="0 12 * * *", input={"day": "x"}).spec("report")
    refused = ground.word(ScheduleAction.UPDATE, spec=spec, revision=3)
    assert "is at revision 1, and this update was made for 3" in refused.message
    updated = ground.word(ScheduleAction.UPDATE, spec=spec, revision=1)
    assert updated.type == "schedule.updated"
    assert (ground.row.revision, ground.row.next_ms) == (2, moment("2026-11-21T12:00:00"))
    ground.pass_time(120_000)
    assert not ground.fired()
    other = plan("another")
    refused = ground.word(ScheduleAction.UPDATE, spec=spec, plan=other)
    assert "its plan is 'another', not 'report'" in refused.message


def test_create_twice(ground: Ground) -> None:
    ground.create(every_s=60)
    assert ground.create(every_s=60).type == "schedule.repeated"
    refused = ground.create(every_s=61)
    assert refused.type == "schedule.refused"
    assert "exists (active, revision 1)" in refused.message
    assert "update it, or choose another name" in refused.message


def test_creations_that_are_refused(ground: Ground) -> None:
    spec = Schedule(every_s=60).spec("report")
    good, bad = plan(), "{}"
    ended = Schedule(every_s=60, end="2026-01-01T00:00:00Z").spec("report")
    spec.catch_up_runs = 1_000
    refused = ground.word(ScheduleAction.CREATE, spec=spec, plan=None)
    assert "with a spec and a plan" in refused.message
    refused = ground.word(ScheduleAction.CREATE, spec=spec, plan=good, overlap=None)
    assert "catch_up_runs: 1000 cannot be used" in refused.message
    spec.catch_up_runs = 1
    assert "resolved plan" in ground.word(ScheduleAction.CREATE, spec=spec, plan=bad).message
    refused = ground.word(ScheduleAction.CREATE, spec=ended, plan=good)
    assert "never due any more" in refused.message
    spec.cron = ["nonsense"]
    refused = ground.word(ScheduleAction.CREATE, spec=spec, plan=good)
    assert "not both" in refused.message
    assert not ground.machine.state.entities


async def test_the_service_checks_the_plan_against_the_agents(ground: Ground) -> None:
    ground.agents.trouble = "task 'write': no agent 'writer' is known"
    spec = Schedule(every_s=60).spec("report")
    command = ground.events
    ground.deliver(_create(spec, plan()), KEY)
    await ground.settle()
    assert command[-1].type == "schedule.refused"
    assert "no agent 'writer'" in command[-1].message
    ground.agents.started = True
    ground.deliver(_create(spec, plan()), KEY)
    await ground.settle()
    assert ground.events[-1].type == "schedule.created"


def _create(spec: object, plan_json: str) -> CoordinatorEnvelope:
    from holdfast.schemas.records import ScheduleCommand

    command = ScheduleCommand("c", ScheduleAction.CREATE, "ann", "", spec, plan_json)  # type: ignore[arg-type]
    return CoordinatorEnvelope(KEY, 1, command)


@pytest.mark.parametrize("action", [a for a in ScheduleAction if a is not ScheduleAction.CREATE])
def test_words_about_a_schedule_that_is_not_there(ground: Ground, action: ScheduleAction) -> None:
    refused = ground.word(action)
    assert refused.type == "schedule.refused"
    assert refused.message.startswith(f"there is no schedule 'nightly' to {action}")
    assert not ground.journal


def test_words_that_the_state_does_not_allow(ground: Ground) -> None:
    ground.create(every_s=60, paused=True)
    assert ground.row.state is ScheduleState.PAUSED
    assert "is paused: it cannot be paused now" in ground.word(ScheduleAction.PAUSE).message
    ground.word(ScheduleAction.RESUME)
    assert "is active: it cannot be resumed now" in ground.word(ScheduleAction.RESUME).message
    assert "reason is too long" in ground.word(ScheduleAction.PAUSE, reason="x" * 20_000).message


def test_delete_lets_runs_go_on_and_leaves_nothing(ground: Ground) -> None:
    ground.create(every_s=60)
    ground.pass_time(60_000)
    deleted = ground.word(ScheduleAction.DELETE)
    assert deleted.schedule is not None
    assert deleted.schedule.state is ScheduleState.DELETED
    ground.work_all()
    assert ground.output(f"{NAME}-20261121t090100z") == "done"
    assert ground.said()[-2:] == ["deleted", "result.ignored"]
    assert not ground.machine.state.entities
    assert not [key for key in ground.journal if key.startswith("schedule/")]
    ground.pass_time(600_000)
    assert len(ground.fired()) == 1


def test_a_name_may_be_that_of_a_run(ground: Ground) -> None:
    ground.submit(plan(), {"day": "x"}, run_id=NAME)
    ground.work_all()
    ground.create(every_s=60)
    ground.pass_time(60_000)
    ground.work_all()
    assert ground.outcomes() == [O.SUCCEEDED]
    assert ground.last_run(NAME).type == "run.succeeded"


def test_order_keys(ground: Ground) -> None:
    ground.create(every_s=60, order_key="customer-9")
    ground.pass_time(60_000)
    record = ground.forwarded[0]
    assert record.key == b"customer-9"
    body = decode(CoordinatorEnvelope, record.value or b"").body
    assert isinstance(body, Submission)
    assert body.order_key == "customer-9"
    ground.work_all()
    assert ground.outcomes() == [O.SUCCEEDED]


def test_what_cannot_be_written_pauses_it_with_a_note(ground: Ground) -> None:
    ground.create(every_s=60)
    ground.refuse_next = lambda record: (
        record.topic.endswith(".coordinator")
        and (b"report" in (record.value or b"") and not record.topic.startswith("test.journal"))
    )
    ground.pass_time(60_000)
    ground.refuse_next = None
    assert ground.row.state is ScheduleState.PAUSED
    assert "refused by the test" in ground.row.note
    assert ground.row.open_runs == 0
    assert ground.word(ScheduleAction.RESUME).type == "schedule.resumed"
    assert len(ground.fired()) == 1


def test_records_that_no_schedule_takes_go_to_the_dead_letters(ground: Ground) -> None:
    ground.deliver(CoordinatorEnvelope(KEY, 1, Signal("s", "go", None, "ann")))
    ground.deliver(CoordinatorEnvelope("schedule/Not A Name", 1, Signal("s", "go", None, "ann")))
    spec = Schedule(every_s=60).spec("report")
    envelope = _create(spec, plan())
    envelope.run_id = "run-1"
    ground.deliver(envelope)
    ground.pump()
    reasons = [letter.failure.message for letter in ground.dead_letters if letter.failure]
    assert len(reasons) == 3
    assert "a Signal is nothing for a schedule" in reasons[0]
    assert "is no schedule/<name>" in reasons[2]


def test_the_end_of_an_unknown_run_changes_nothing(ground: Ground) -> None:
    from holdfast.schemas.records import ChildEnded

    ended = ChildEnded("stranger", "", "", "", None, None, outcome=Outcome.SUCCEEDED)
    ground.deliver(CoordinatorEnvelope(KEY, 1, ended), KEY)
    ground.pump()
    assert not ground.journal
    ground.create(every_s=60)
    ground.deliver(CoordinatorEnvelope(KEY, 1, ended), KEY)
    ground.pump()
    assert ground.said() == ["result.ignored", "created", "result.ignored"]


def test_a_run_that_goes_on_as_another_is_one_firing(ground: Ground) -> None:
    from holdfast.schemas.records import ChildEnded

    ground.create(every_s=60)
    ground.pass_time(60_000)
    first, second = f"{NAME}-20261121t090100z", "next-one"
    ended = ChildEnded(first, "", "", "", None, None, successor=second, successor_key="k")
    ground.deliver(CoordinatorEnvelope(KEY, 1, ended), KEY)
    ground.pump()
    assert ground.said()[-1] == "run_continued"
    ground.pass_time(60_000)
    assert ground.outcomes()[-1] is O.SKIPPED
    # The end of the last in the row is told under the id of the first.
    ended = ChildEnded(first, "", "", "", None, None, outcome=Outcome.SUCCEEDED)
    ground.deliver(CoordinatorEnvelope(KEY, 1, ended), KEY)
    ground.pump()
    assert ground.row.open_runs == 0
    assert ground.outcomes() == [O.SUCCEEDED, O.SKIPPED]


@pytest.mark.parametrize("action", [ScheduleAction.PAUSE, ScheduleAction.UPDATE])
def test_what_was_due_before_a_word_is_fired_before_it(
    ground: Ground, action: ScheduleAction
) -> None:
    """After an outage the word may be read before the timers are looked at."""
    ground.create(every_s=60, overlap="allow", catch_up_s=600)
    ground.now_ms += 180_000
    ground.monotonic_s += 180
    spec = Schedule(every_s=3_600, input={"day": "x"}).spec("report")
    ground.word(action, spec=spec if action is ScheduleAction.UPDATE else None)
    assert ground.fired() == [f"20261121t090{minute}00z" for minute in (1, 2, 3)]
    assert ground.said()[1:5] == ["fired", "fired", "fired", f"{action}d"]


def test_a_pause_that_comes_after_the_last_time(ground: Ground) -> None:
    ground.create(every_s=60, end="2026-11-21T09:02:00", catch_up_s=600)
    ground.now_ms += 180_000
    ground.monotonic_s += 180
    assert "has had its last time" in ground.word(ScheduleAction.PAUSE).message
    assert ground.said() == ["created", "refused", "fired", "finished"]
    assert ground.fired() == ["20261121t090100z"]


def test_catching_up_counts_from_the_latest_moment_that_jitter_allows(ground: Ground) -> None:
    ground.create(every_s=60, jitter_s=600, catch_up_s=60, overlap="allow")
    ground.pass_time(900_000)
    assert ground.fired()[:2] == ["20261121t090400z", "20261121t090500z"]
    assert ground.row.missed == 3
