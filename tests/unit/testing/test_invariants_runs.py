"""What breaks a run, and which invariant says so: I1, I2, I5, I7, I9, I10."""

from __future__ import annotations

import dataclasses

import pytest

from holdfast.bus.port import Record
from holdfast.schemas.codec import encode
from holdfast.schemas.records import (
    AgentJournal,
    CommandAction,
    CoordinatorEnvelope,
    Event,
    EventType,
    RunState,
    StepEntry,
    TaskEnvelope,
    TaskResult,
    TaskState,
)
from holdfast.testing import BodyStart, EffectSeen, Excused, Quiet, check
from holdfast.testing import Submission as Submitted
from tests.unit.testing.made import (
    AGENT_JOURNAL,
    CONTROL,
    EVENTS,
    INPUTS,
    TASKS,
    Made,
    chain,
    error,
    happy,
    ordered,
)


def found(made: Made, name: str, *, commits: bool = False) -> str:
    """Return the violations of one invariant as text; there must be some."""
    verdict = made.check(name, commits=commits)
    assert not verdict.ok, verdict.report()
    return "\n".join(str(v) for v in verdict.violations)


# --- I1 ------------------------------------------------------------------------------------------


def test_i1_two_ends() -> None:
    made = happy()
    made.again(made.event(EventType.RUN_SUCCEEDED))
    assert "after its end" in found(made, "I1")


def test_i1_no_end() -> None:
    made = happy()
    made.drop(made.event(EventType.RUN_SUCCEEDED))
    assert "has no end; it is running" in found(made, "I1")


def test_i1_an_open_run_is_no_violation_before_all_is_quiet_nor_while_it_waits_for_people() -> None:
    made = Made()
    made.submit("r", chain())
    made.coordinate()
    assert made.check("I1").ok
    made.command("r", CommandAction.PAUSE)
    made.coordinate()
    made.evidence.add(Quiet(made.now_ms))
    verdict = made.check("I1")
    assert verdict.ok, verdict.report()
    assert verdict.looked_at["I1"]["runs that wait for people"] == 1


def test_i1_an_answered_submission_that_is_not_there() -> None:
    made = happy()
    made.evidence.add(Submitted("lost", True, "chain"))
    made.evidence.add(Submitted("perhaps", False, "chain"))
    assert "I1 at lost: was answered" in found(made, "I1")


def test_i1_a_submission_without_an_answer_or_with_two() -> None:
    made = happy()
    made.again(made.logs[INPUTS][0])
    assert "has 0 answers" in found(made, "I1")
    made = happy()
    made.again(made.event(EventType.RUN_STARTED))
    assert "has 2 answers" in found(made, "I1")


def test_i1_an_illegal_move() -> None:
    made = happy()

    def change(event: Event) -> None:
        assert event.run is not None
        event.run.state = RunState.CANCELLED

    made.alter(made.event(EventType.RUN_SUCCEEDED), Event, change)
    assert "went from running to cancelled" in found(made, "I1")


# --- I2 ------------------------------------------------------------------------------------------


def test_i2_two_results_of_one_attempt() -> None:
    made = happy()
    made.again(made.find(INPUTS, CoordinatorEnvelope, lambda e: isinstance(e.body, TaskResult)))
    assert "was answered 2 times" in found(made, "I2")


def test_i2_two_accepted_results_in_the_events() -> None:
    made = happy()
    made.again(made.event(EventType.TASK_SUCCEEDED))
    assert "after its end (succeeded)" in found(made, "I2")


def test_i2_a_success_that_its_cause_does_not_say() -> None:
    made = happy()

    def change(event: Event) -> None:
        assert event.task is not None
        event.task.output = b"other"

    made.alter(made.event(EventType.TASK_SUCCEEDED), Event, change)
    assert "says otherwise" in found(made, "I2")


def test_i2_a_step_that_is_journaled_twice() -> None:
    made = happy()
    made.again(made.find(AGENT_JOURNAL, AgentJournal, lambda e: isinstance(e.body, StepEntry)))
    assert "was journaled before" in found(made, "I2")


@pytest.mark.parametrize("commits", [False, True])
def test_i2_a_body_after_its_step_was_committed(commits: bool) -> None:
    made = happy()
    start = next(row for row in made.evidence.of(BodyStart) if row.step is not None)
    late = dataclasses.replace(start, at_ms=made.now_ms, after_commit=len(made.commits))
    made.evidence.add(late)
    assert "after its end was committed" in found(made, "I2", commits=commits)


def test_i2_a_process_that_was_stopped_is_excused_and_no_other() -> None:
    made = happy()
    start = made.evidence.of(BodyStart)[0]
    made.evidence.add(dataclasses.replace(start, at_ms=made.now_ms, process="zombie"))
    stopped = Excused("zombie", "SIGSTOP", made.now_ms - 5, made.now_ms - 1)
    made.evidence.add(dataclasses.replace(stopped, process="other"))
    found(made, "I2")
    made.evidence.add(stopped)
    assert made.check("I2").ok


def test_i2_an_effect_that_was_applied_twice() -> None:
    made = happy()
    for outcome in ("applied", "repeated"):
        made.evidence.add(EffectSeen("key", outcome))  # type: ignore[arg-type]
    assert made.check("I2").ok
    made.evidence.add(EffectSeen("key", "applied"))
    assert "I2 at key: an effect was applied 2 times" in found(made, "I2")


# --- I5 ------------------------------------------------------------------------------------------


def test_i5_an_event_whose_cause_is_not_there() -> None:
    made = happy()
    made.drop(made.find(INPUTS, CoordinatorEnvelope, lambda e: isinstance(e.body, TaskResult)))
    assert "is not on the topic" in found(made, "I5")


def test_i5_what_may_be_missing_is_not_judged() -> None:
    made = happy()
    made.drop(made.logs[INPUTS][0])
    assert not made.check("I5").ok
    verdict = check(made.with_a_gap(INPUTS), made.evidence)
    assert verdict.ok, verdict.report()
    assert {"I1", "I3", "I4", "I5", "I11"} <= set(verdict.not_checkable), verdict.report()


def test_i5_a_task_that_was_never_dispatched() -> None:
    made = happy()
    made.drop(made.event(EventType.TASK_DISPATCHED))
    assert "was sent without a task.dispatched" in found(made, "I5")


def test_i5_a_result_an_acceptance_a_step_and_a_body_without_their_task() -> None:
    made = happy()
    made.drop(made.logs[TASKS][0])
    told = found(made, "I5")
    for what in ("a result of", "was accepted from offset 0", "a step of", "a body of"):
        assert what in told, told


def test_i5_a_body_that_ran_ahead_of_the_commit() -> None:
    made = happy()
    start = made.evidence.of(BodyStart)[-1]
    made.evidence.add(dataclasses.replace(start, after_commit=0))
    assert made.check("I5").ok, "without known commits nobody can tell"
    assert "before its task was visible" in found(made, "I5", commits=True)


def test_i5_a_task_that_was_sent_twice() -> None:
    made = happy()
    made.again(made.logs[TASKS][0])
    assert "was sent 2 times" in found(made, "I5")


# --- I7 ------------------------------------------------------------------------------------------


def test_i7_a_task_that_started_before_what_it_depends_on() -> None:
    made = happy()
    log = made.logs[EVENTS]
    done = log.index(made.event(EventType.TASK_SUCCEEDED, "one"))
    sent = log.index(made.event(EventType.TASK_DISPATCHED, "two"))
    log[done], log[sent] = log[sent], log[done]
    assert "r1/two was started while 'one' was dispatched" in found(made, "I7")


def test_i7_a_task_that_the_plan_does_not_have() -> None:
    made = happy()

    def change(event: Event) -> None:
        assert event.task is not None
        event.task.task_id = "three"

    made.alter(made.event(EventType.TASK_DISPATCHED, "two"), Event, change)
    assert "r1/three is not in the plan" in found(made, "I7")


# --- I9 ------------------------------------------------------------------------------------------


def test_i9_needs_that_somebody_says_so() -> None:
    made = Made().finish(quiet=False)
    assert "I9" in made.check("I9").not_checkable


def test_i9_a_run_and_a_task_that_hang() -> None:
    made = Made()
    made.submit("r", chain())
    made.coordinate()
    made.evidence.add(Quiet(made.now_ms))
    told = found(made, "I9")
    assert "r is still running" in told
    assert "r/one is still dispatched" in told
    assert "1 records are not consumed" in told


def test_i9_what_is_left_in_journals() -> None:
    made = happy()
    for entry in (made.logs[AGENT_JOURNAL][0], made.logs["ns.journal.coordinator"][0]):
        made.again(entry)
    told = found(made, "I9")
    assert "journal key r1/one of 'a' is left" in told
    assert "run/r1 is left of a run that has ended" in told


def test_i9_a_task_that_was_never_released() -> None:
    made = Made()
    made.submit("r", chain())
    made.coordinate()
    made.work(error(retryable=False))
    made.coordinate()
    made.agent.offsets["ns.control.a"] = len(made.logs[CONTROL])
    made.commit(made.agent, [])
    made.evidence.add(Quiet(made.now_ms))
    assert "r/one of 'a' was never released" in found(made, "I9")


def test_i9_what_the_broker_says() -> None:
    made = happy()
    made.evidence.add(Quiet(made.now_ms, open_transactions=1, unstable_groups=("ns.a",)))
    told = found(made, "I9")
    assert "1 transactions are open" in told
    assert "I9 at ns.a: the group is not stable" in told


# --- I10 -----------------------------------------------------------------------------------------


def test_i10_a_repeated_submission_is_one_run() -> None:
    made = happy()
    made.send("r1", _submission(made))
    made.coordinate()
    verdict = made.check()
    assert verdict.ok, verdict.report()
    assert verdict.looked_at["I10"]["answers"] == 5


def _submission(made: Made) -> object:
    from holdfast.schemas.codec import decode

    return decode(CoordinatorEnvelope, made.logs[INPUTS][0].value or b"").body


def test_i10_two_runs_of_one_id() -> None:
    made = happy()
    made.again(made.event(EventType.RUN_STARTED))
    told = found(made, "I10")
    assert "was started before" in told
    assert "version 1 (running) after version" in told


def test_i10_a_repeated_answer_for_another_input() -> None:
    made = happy()
    made.send("r1", _submission(made))
    made.coordinate()

    def change(event: Event) -> None:
        event.type = EventType.RUN_CONFLICTED

    made.alter(made.event(EventType.RUN_REPEATED), Event, change)
    assert "run.conflicted for a submission of hash h-r1" in found(made, "I10")


def test_i10_a_version_that_says_two_things() -> None:
    made = happy()

    def change(event: Event) -> None:
        assert event.task is not None
        event.task.version = 1
        event.task.state = TaskState.SUCCEEDED

    made.alter(made.event(EventType.TASK_SUCCEEDED), Event, change)
    assert "version 1 (succeeded) after version 1 (dispatched)" in found(made, "I10")


def test_a_second_copy_of_a_task_under_another_attempt_is_a_task_of_nobody() -> None:
    made = ordered()
    task = made.find(TASKS, TaskEnvelope)
    from holdfast.schemas.codec import decode

    body = decode(TaskEnvelope, task.value or b"")
    body.attempt = 7
    made.put(Record(TASKS, task.key, encode(body)))
    assert "attempt 7 was sent without" in found(made, "I5")
