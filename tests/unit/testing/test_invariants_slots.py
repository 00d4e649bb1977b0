"""What breaks a slot or its decisions, and which invariant says so: I3, I4, I6, I8, I11, I12."""

from __future__ import annotations

import dataclasses
import hashlib
import random

import pytest

from holdfast.bus.port import Record, TopicPartition
from holdfast.coordinator.engine import State
from holdfast.schemas.codec import encode
from holdfast.schemas.records import (
    AgentJournal,
    CommandAction,
    CoordinatorEnvelope,
    CoordinatorJournal,
    DeadLetter,
    DeadLetterReason,
    Event,
    EventType,
    RecordHeader,
    RunEntry,
    SlotOffset,
    SourceRecord,
    TaskEntry,
    TaskEnvelope,
    TaskResult,
)
from holdfast.testing import (
    Evidence,
    History,
    PoisonSent,
    StateHash,
    Usage,
    check,
)
from tests.unit.testing.made import (
    AGENT_JOURNAL,
    INPUTS,
    JOURNAL,
    LETTERS,
    TASKS,
    Made,
    chain,
    error,
    happy,
    journal,
)
from tests.unit.testing.test_invariants_runs import found

# --- I3 ------------------------------------------------------------------------------------------


def test_i3_an_event_that_the_engine_does_not_decide() -> None:
    made = happy()

    def change(event: Event) -> None:
        assert event.task is not None
        event.task.resumes = 5

    made.alter(made.event(EventType.TASK_SUCCEEDED), Event, change)
    assert "task.resumes is 0, the log says 5" in found(made, "I3")


def test_i3_an_event_that_is_missing() -> None:
    made = happy()
    made.drop(made.event(EventType.TASK_DISPATCHED, "two"))
    assert "task.dispatched, the log says task.succeeded" in found(made, "I3")


def test_i3_a_retry_at_the_wrong_time() -> None:
    made = happy()

    def change(event: Event) -> None:
        assert event.task is not None
        assert event.task.retry_ms is not None
        event.task.retry_ms += 1

    made.alter(made.event(EventType.TASK_RETRYING), Event, change)
    assert "task.retry_ms" in found(made, "I3")


def test_i3_a_task_that_is_not_as_decided() -> None:
    made = happy()

    def change(task: TaskEnvelope) -> None:
        task.timeout_ms = 5

    made.alter(made.logs[TASKS][0], TaskEnvelope, change)
    assert "r1/one attempt 1 for 'a' is not on its topic as decided" in found(made, "I3")


def test_i3_a_dead_letter_that_was_decided_and_is_not_there() -> None:
    made = happy()
    made.drop(made.logs[LETTERS][0])
    assert "dead letter r4/one/1 is not as decided" in found(made, "I3")


def test_i3_a_journaled_value_that_the_engine_does_not_reach() -> None:
    made = happy()

    def change(entry: CoordinatorJournal) -> None:
        assert isinstance(entry.body, TaskEntry)
        entry.body.attempts_base = 9

    entry = made.find(JOURNAL, CoordinatorJournal, lambda e: isinstance(e.body, TaskEntry))
    made.alter(entry, CoordinatorJournal, change)
    assert "holds what the engine does not decide" in found(made, "I3")


def test_i3_a_pause_hides_a_retry_without_an_event() -> None:
    made = Made()
    made.submit("r", chain())
    made.coordinate()
    made.work(error())
    made.coordinate()
    made.command("r", CommandAction.PAUSE)
    made.coordinate()
    made.timer("r", "one", 5_000)  # due, and nothing is said
    made.command("r", CommandAction.RESUME)
    verdict = made.finish().check()
    assert verdict.ok, verdict.report()


def test_i3_an_attempt_that_left_the_journal_without_a_result() -> None:
    made = happy()
    made.drop(made.find(INPUTS, CoordinatorEnvelope, lambda e: isinstance(e.body, TaskResult)))
    verdict = made.check("I3")
    assert "r1/one attempt 1 was dropped from the journal" in verdict.report()


def test_i3_an_answered_attempt_that_is_still_open_in_the_journal() -> None:
    made = happy()
    made.again(made.find(AGENT_JOURNAL, AgentJournal))
    assert "is open in the journal, and was answered" in found(made, "I3")


# --- I4 ------------------------------------------------------------------------------------------


def test_i4_an_offset_that_moved_without_an_outcome() -> None:
    made = Made()
    made.submit("r", chain())
    made.coordinate()
    made.agent.offsets[TASKS] = 1
    made.commit(made.agent, [])
    assert f"I4 at {TASKS}/0/0: the offset has passed it" in found(made, "I4")
    made = Made()
    made.submit("r", chain())
    made.coordinator.offsets[INPUTS] = 1
    made.commit(made.coordinator, [])
    assert f"I4 at {INPUTS}/0/0: the offset has passed it" in found(made, "I4")


def test_i4_an_outcome_without_its_offset() -> None:
    made = Made()
    made.submit("r", chain())
    made.coordinate()
    task = made.work(accept=False)
    assert task.attempt == 1
    made.agent.offsets[TASKS] = 0
    log = made.logs[AGENT_JOURNAL]

    def change(offset: SlotOffset) -> None:
        for consumed in offset.offsets:
            consumed.offset = 0

    made.alter(log[-1], SlotOffset, change)
    assert "its outcome is visible" in found(made, "I4", commits=True)


def test_i4_an_outcome_in_another_commit_than_its_offset() -> None:
    for early in (True, False):
        made = Made()
        made.submit("r", chain())
        made.coordinate()
        made.agent.offsets[TASKS] = 1
        if early:
            made.commit(made.agent, [])  # the offset first, the result later
        made.agent.offsets[TASKS] = int(early)
        task = made.find(TASKS, TaskEnvelope)
        made.agent.offsets[TASKS] = 0
        made.work(accept=False)
        if not early:

            def change(offset: SlotOffset) -> None:
                for consumed in offset.offsets:
                    consumed.offset = 0

            made.alter(made.logs[AGENT_JOURNAL][-1], SlotOffset, change)
            made.commit(made.agent, [])  # the result first, the offset later
        assert task.offset == 0
        assert "its outcome came with commit" in found(made, "I4", commits=True)
        assert made.check("I4").ok, "only the order of commits tells"


def test_i4_an_acceptance_after_its_offset_shows_in_the_journal_alone() -> None:
    made = Made()
    made.submit("r", chain())
    made.coordinate()
    made.work()
    log = made.logs[AGENT_JOURNAL]
    accepted, offset = log[0], log[2]
    assert offset.key == b"offset"
    log[0] = offset._replace(offset=0)
    log[2] = accepted._replace(offset=2)
    made.drop(made.find(INPUTS, CoordinatorEnvelope, lambda e: isinstance(e.body, TaskResult)))
    assert "it was journaled after the offset had passed it" in found(made, "I4")


def test_i4_journal_and_broker_disagree() -> None:
    made = happy()
    made.agent.offsets[TASKS] += 1
    assert "is committed, the journal stands at" in found(made, "I4")


# --- I6 ------------------------------------------------------------------------------------------


def test_i6_two_processes_that_write_into_each_other() -> None:
    made = happy()
    zombie = dataclasses.replace(made.agent, name="zombie", offsets=dict(made.agent.offsets))
    made.commit(made.agent, [])
    made.commit(zombie, [])
    told = found(made, "I6")
    assert "process zombie-id) stands behind commit" in told


def test_i6_a_takeover_that_read_the_journal_is_none() -> None:
    made = happy()
    heir = dataclasses.replace(made.agent, name="heir", epoch=2, offsets=dict(made.agent.offsets))
    made.commit(heir, [])
    for commits in (False, True):
        verdict = made.check("I6", commits=commits)
        assert verdict.ok, verdict.report()
        assert verdict.looked_at["I6"]["changes of owner"] == 1


def test_i6_a_hole_in_the_numbers() -> None:
    made = happy()
    made.drop(made.find(AGENT_JOURNAL, SlotOffset, lambda o: o.commit_number == 3))
    assert "commit 4 of 'w1'" in found(made, "I6")


def test_i6_an_offset_that_goes_back() -> None:
    made = happy()
    made.agent.offsets[TASKS] -= 1
    made.commit(made.agent, [])
    assert "went back to" in found(made, "I6")


def test_i6_a_record_outside_of_any_commit() -> None:
    made = happy()
    made.put(journal("r9/one", None))
    assert "stands in no numbered commit" in found(made, "I6")


def test_i6_an_old_epoch_and_a_shared_one() -> None:
    made = happy()
    made.agent.epoch = 2
    made.commit(made.agent, [])
    made.agent.epoch = 1
    made.commit(made.agent, [])
    assert "epoch 1 after epoch 2" in found(made, "I6", commits=True)
    made = happy()
    made.agent.name = "other"
    made.commit(made.agent, [])
    assert "is used by two processes" in found(made, "I6", commits=True)


def test_i6_offsets_that_are_not_those_journaled() -> None:
    made = happy()
    made.commit(made.agent, [])
    last = made.commits[-1]
    made.commits[-1] = dataclasses.replace(last, offsets={TopicPartition(TASKS, 0): 999})
    assert f"it moves {TASKS} to 999" in found(made, "I6", commits=True)


# --- I8 ------------------------------------------------------------------------------------------

POISON = b"\0\0\0\0\3nothing that anybody can read"


def poisoned() -> Made:
    """One record that nobody can read, buried as the agent does."""
    made = happy()
    where = made.put(Record(TASKS, b"k", POISON, (("h", b"v"),)))
    sha256 = hashlib.sha256(POISON).hexdigest()
    headers = [RecordHeader("h", b"v")]
    source = SourceRecord(*where, b"k", POISON, headers, sha256)
    place = f"{TASKS}/0/{where.offset}"
    letter = DeadLetter(
        place, DeadLetterReason.UNDECODABLE, None, None, None, "a", None, 0, None, source, 1
    )
    made.agent.offsets[TASKS] += 1
    made.commit(made.agent, [Record(LETTERS, place.encode(), encode(letter))])
    made.evidence.add(PoisonSent("bytes", sha256, *where))
    return made


def test_i8_poison_that_is_kept_is_none() -> None:
    for commits in (False, True):
        verdict = poisoned().check(commits=commits)
        assert verdict.ok, verdict.report()
        assert verdict.looked_at["I8"]["poison records"] == 1


def test_i8_poison_that_is_lost_or_kept_twice() -> None:
    made = poisoned()
    letter = made.logs[LETTERS][-1]
    made.drop(letter)
    told = found(made, "I8")
    assert "an unreadable record has 0 dead letters" in told
    assert "sent 1 times, kept 0 times" in told
    assert "the offset has passed it" in found(made, "I4")
    made = poisoned()
    made.again(made.logs[LETTERS][-1])
    assert "is kept twice" in found(made, "I8")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda s: setattr(s, "value", POISON[:-1]), "is not that of the bytes it holds"),
        (lambda s: setattr(s, "value", None), "are not kept"),
        (lambda s: setattr(s, "key", b"x"), "key or headers"),
        (lambda s: s.headers.clear(), "key or headers"),
    ],
)
def test_i8_poison_that_is_not_whole(change: object, told: str) -> None:
    made = poisoned()
    made.alter(made.logs[LETTERS][-1], DeadLetter, lambda letter: change(letter.source))  # type: ignore[operator]
    assert told in found(made, "I8")


def test_i8_a_poison_task() -> None:
    made = happy()
    made.evidence.add(PoisonSent("raises", "", run_id="r4", task_id="one"))
    assert made.check("I8").ok
    made.evidence.add(PoisonSent("raises", "", run_id="r1", task_id="one"))
    assert "poison task r1/one (raises) has 0 letters" in found(made, "I8")
    made.evidence.add(PoisonSent("raises", "0" * 64, run_id="r4", task_id="one"))
    assert "its input is not what was sent" in found(made, "I8")


def test_i8_a_parked_task_without_a_letter() -> None:
    made = Made()
    made.submit("r", chain(on_dead_letter="wait"))
    made.coordinate()
    made.work(error(retryable=False))
    made.coordinate()
    assert made.check("I8").ok
    made.drop(made.logs[LETTERS][0])
    assert "r/one was parked without a letter" in found(made, "I8")


# --- I11 -----------------------------------------------------------------------------------------


def half_way() -> Made:
    made = Made()
    made.submit("r", chain())
    made.coordinate()
    return made


def test_i11_the_hash_of_the_state_is_that_of_its_journal() -> None:
    made = half_way()
    end = len(made.logs[JOURNAL])
    live = made.state.digest()
    made.evidence.add(StateHash("ns.coordinator", 0, end, live, "before"))
    made.evidence.add(StateHash("ns.coordinator", 0, 0, State().digest(), "after"))
    made.finish()
    verdict = made.check("I11")
    assert verdict.ok, verdict.report()
    assert verdict.looked_at["I11"]["hashes"] == 2
    made.evidence.add(StateHash("ns.coordinator", 0, end, State().digest(), "after"))
    assert "the state after was" in found(made, "I11")


def test_i11_a_journal_that_is_not_where_the_events_lead() -> None:
    made = half_way()
    assert made.check("I11", commits=True).looked_at["I11"]["values"] == 2

    def change(entry: CoordinatorJournal) -> None:
        assert isinstance(entry.body, RunEntry)
        entry.body.row.created_ms += 1

    run = made.find(JOURNAL, CoordinatorJournal, lambda e: isinstance(e.body, RunEntry))
    made.alter(run, CoordinatorJournal, change)
    assert "run/r/: the journal holds version 1 (running)" in found(made, "I11", commits=True)
    made = half_way()
    made.drop(made.find(JOURNAL, CoordinatorJournal, lambda e: isinstance(e.body, TaskEntry)))
    assert "run/r/one: the journal holds nothing" in found(made, "I11", commits=True)


def test_i11_a_closed_run_without_its_marker() -> None:
    made = happy()
    marker = next(r for r in made.logs[JOURNAL] if (r.key or b"").startswith(b"closed/"))
    made.drop(marker)
    assert "the run is closed without a marker" in found(made, "I11")


# --- I12 -----------------------------------------------------------------------------------------


def usage(slope_per_hour: float, samples: int = 200, seconds: float = 5_400.0) -> Evidence:
    """Memory around 100 MB with noise, outliers, a warm-up, and a slope."""
    dice = random.Random(7)
    evidence = Evidence()
    for number in range(samples):
        at_s = seconds * number / samples
        warm_up = -40e6 if number < samples / 10 else 0
        spike = 80e6 if number % 17 == 0 else 0
        value = 100e6 + slope_per_hour * at_s / 3_600 + dice.gauss(0, 1e6) + spike + warm_up
        evidence.add(Usage("w1", at_s, memory_bytes=round(value), descriptors=12))
    return evidence


def test_i12_a_slope_is_seen_through_noise_and_no_slope_is_none() -> None:
    empty = History("ns", {})
    flat = check(empty, usage(0), only=["I12"])
    assert flat.ok, flat.report()
    assert flat.looked_at["I12"] == {"series": 2, "samples": 300}
    grown = check(empty, usage(20e6), only=["I12"])
    assert [v.where for v in grown.violations] == ["w1"], grown.report()
    assert "memory_bytes grows by" in grown.report()


def test_i12_too_few_samples_prove_nothing() -> None:
    for evidence in (usage(1e9, samples=10), usage(1e9, seconds=60)):
        verdict = check(History("ns", {}), evidence, only=["I12"])
        assert verdict.ok
        assert "are too few" in verdict.report()
