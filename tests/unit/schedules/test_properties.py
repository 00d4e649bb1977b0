"""Whatever happens to the coordinator: each due time fires at most once, and exactly those that
the catch-up policy keeps do."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.schemas.records import ScheduleAction, ScheduleSpec
from holdfast.schemas.schedules import Schedule, jitter_ms, scheduled_run_id, spec_times
from tests.unit.schedules.ground import NAME, Ground, moment

BEGIN = "2026-10-24T23:50:00"
"""Berlin puts its clocks back an hour and ten minutes later."""
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("pass"), st.integers(1, 400_000)),
        st.tuples(st.just("outage"), st.integers(1, 4_000_000)),
        st.tuples(st.just("crash"), st.integers(1, 90_000)),
        st.tuples(st.just("jump"), st.integers(-3_000_000, 3_000_000)),
        st.tuples(st.just("work"), st.just(0)),
        st.tuples(st.just("pause"), st.just(0)),
        st.tuples(st.just("resume"), st.just(0)),
    ),
    min_size=1,
    max_size=14,
)
SPECS = st.builds(
    lambda when, jitter_s, catch_up_s, runs: Schedule.of(
        {
            **when,
            "timezone": "Europe/Berlin",
            "input": {"day": "x"},
            "overlap": "allow",
            "jitter_s": jitter_s,
            "catch_up_s": catch_up_s,
            "catch_up_runs": runs,
        }
    ).spec("report"),
    st.sampled_from(
        [
            {"cron": "*/5 * * * *"},
            {"cron": ["30 2 * * *", "*/20 * * * *"]},
            {"every_s": 60},
            {"every_s": 37},
            {"cron": "*/15 * * * * *"},
            {"cron": "*/10 * * * *", "end": "2026-10-25T02:30:00+01:00"},
        ]
    ),
    st.sampled_from([0, 0, 40, 600]),
    st.sampled_from([1, 60, 900]),
    st.sampled_from([1, 3, 100]),
)


@dataclass
class Model:
    """The policy, said in the plainest way: every due time is looked at, one by one."""

    spec: ScheduleSpec
    waiting: list[int]
    paused: bool = False
    fired: list[str] = field(default_factory=list)
    missed: int = 0

    def look(self, now_ms: int) -> None:
        """The coordinator looks at the clock."""
        if self.paused:
            return
        due = []
        while self.waiting and self.waiting[0] + self._jitter(self.waiting[0]) <= now_ms:
            due.append(self.waiting.pop(0))
        oldest = now_ms - self.spec.jitter_ms - self.spec.catch_up_ms
        kept = [at for at in due if at >= oldest][-self.spec.catch_up_runs :]
        self.fired += [scheduled_run_id(NAME, at) for at in kept]
        self.missed += len(due) - len(kept)

    def _jitter(self, at: int) -> int:
        return jitter_ms(NAME, self.spec, at)


@given(SPECS, STEPS)
@settings(max_examples=60, deadline=None)
def test_exactly_what_the_policy_says_is_fired(
    spec: ScheduleSpec, steps: list[tuple[str, int]]
) -> None:
    ground = Ground()
    ground.begin_at(BEGIN)
    times = spec_times(spec)
    until = min(moment("2026-10-25T18:00:00"), spec.end_ms or 2**62)
    model = Model(spec, list(times.between(moment(BEGIN) + 1, until)))
    ground.word(ScheduleAction.CREATE, spec=spec, plan=ground_plan())
    for what, value in steps:
        _take(ground, model, what, value)
        model.look(_told(ground))
        ground.pump()
    ours = [e.firing.run_id for e in ground.events if e.type == "schedule.fired" and e.firing]
    assert ours == model.fired
    assert len(set(ours)) == len(ours)
    missed = [e.firing.count for e in ground.events if e.type == "schedule.missed" and e.firing]
    assert sum(missed) in (
        model.missed,
        *([] if model.missed < 1_000 else [ground.row.missed]),
    )


def _take(ground: Ground, model: Model, what: str, value: int) -> None:
    if what == "pass":
        ground.pass_time(value)
    elif what == "outage":
        ground.now_ms += value
        ground.monotonic_s += value / 1_000
        ground.restart()
        ground.pump()
    elif what == "crash":
        # In the middle: what was collected is lost.
        ground.now_ms += value
        ground.monotonic_s += value / 1_000
        ground.machine.due(ground.now_ms)
        ground.collect()
        ground.restart()
        ground.pump()
    elif what == "jump":
        ground.now_ms += value
        ground.pump()
    elif what == "work":
        ground.work_all()
    elif what == "pause" and not model.paused and model.waiting:
        model.look(_told(ground))
        ground.word(ScheduleAction.PAUSE)
        model.paused = True
    elif what == "resume" and model.paused:
        model.paused = False
        ground.word(ScheduleAction.RESUME)


def _told(ground: Ground) -> int:
    """Return what the coordinator holds the time to be: it follows no jump of the wall clock."""
    return ground.machine._time().now_ms()


def ground_plan() -> str:
    from tests.unit.schedules.ground import plan

    return plan()
