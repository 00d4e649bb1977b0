"""What breaks the order of an order key, and that I13 says so."""

from __future__ import annotations

import dataclasses

from holdfast.schemas.codec import decode
from holdfast.schemas.records import (
    CoordinatorEnvelope,
    Event,
    EventType,
    TaskEnvelope,
    TaskResult,
)
from holdfast.testing import (
    BodyStart,
    Excused,
    check,
)
from tests.unit.testing.made import (
    EVENTS,
    INPUTS,
    TASKS,
    Made,
    chain,
    error,
    ordered,
)
from tests.unit.testing.test_invariants_runs import found


def test_i13_the_second_begins_before_the_first_has_ended() -> None:
    made = ordered(2)
    starts = [s for s in made.evidence.of(BodyStart) if s.step is None]
    early = dataclasses.replace(starts[1], at_ms=starts[0].at_ms, after_commit=2)
    made.evidence.add(early)
    assert "before o0/one ended at" in found(made, "I13")
    made.evidence.add(Excused("*", "clock jump"))
    assert made.check("I13").ok
    assert "clocks jumped" in made.check("I13").report()


def test_i13_the_second_begins_before_the_end_of_the_first_is_committed() -> None:
    made = ordered(2)
    start = [s for s in made.evidence.of(BodyStart) if s.step is None][1]
    assert (start.run_id, start.task_id) == ("o1", "one")
    made.evidence.add(dataclasses.replace(start, after_commit=0))
    assert made.check("I13").ok, "without known commits nobody can tell"
    assert "o1/one began after 0 commits" in found(made, "I13", commits=True)


def test_i13_an_end_that_may_have_been_missed_is_not_judged() -> None:
    made = ordered(2)
    made.drop(
        made.find(
            INPUTS,
            CoordinatorEnvelope,
            lambda e: (
                isinstance(e.body, TaskResult) and (e.run_id, e.body.task_id) == ("o0", "one")
            ),
        )
    )
    assert "o1/one began while o0/one has not ended" in found(made, "I13")
    verdict = check(made.with_a_gap(INPUTS), made.evidence, only=["I13"])
    assert verdict.ok, verdict.report()
    assert "I13" in verdict.not_checkable


def test_i13_the_second_passes_while_the_first_waits_for_its_retry() -> None:
    made = Made()
    for number in range(2):
        made.submit(f"o{number}", chain("ordered", order_key="k"), order_key="k")
    made.coordinate()
    made.work(error())  # the first attempt of the first
    made.work()  # the second, which should have waited
    made.coordinate()
    made.timer("o0", "one", 2_000)
    made.finish()
    assert "a 'k'" in found(made, "I13")
    assert "before o0/one ended at" in found(made, "I13")


def test_i13_a_plan_key_is_kept_across_agents() -> None:
    made = ordered(2)
    log = made.logs[TASKS]
    first = made.find(TASKS, TaskEnvelope, lambda t: (t.run_id, t.task_id) == ("o0", "two"))
    second = made.find(TASKS, TaskEnvelope, lambda t: (t.run_id, t.task_id) == ("o1", "two"))
    one, two = log.index(first), log.index(second)
    log[one] = second._replace(offset=first.offset)
    log[two] = first._replace(offset=second.offset)
    assert "o1/two was handed over before o0/two" in found(made, "I13")


def test_i13_runs_of_a_key_start_in_the_order_of_their_submissions() -> None:
    made = ordered(2)
    log = made.logs[EVENTS]
    one, two = (r for r in log if decode(Event, r.value or b"").type is EventType.RUN_STARTED)
    at_one, at_two = log.index(one), log.index(two)
    log[at_one] = two._replace(offset=one.offset)
    log[at_two] = one._replace(offset=two.offset)
    assert "o1 was started before o0" in found(made, "I13")
