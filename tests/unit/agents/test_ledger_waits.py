"""Answers to asks, at the moments at which they were once lost: the ledger, driven by hand."""

from __future__ import annotations

import pytest

from holdfast.agents.ledger import Draft, Ending, Entry, Identity, Incoming, Ledger, Phase
from holdfast.bus.port import Position, Record
from holdfast.bus.slot.machine import CHANGE_RECORDS_MAX
from holdfast.schemas.records import (
    Accepted,
    ControlAction,
    ControlEnvelope,
    Failure,
    FailureKind,
    Outcome,
    Reply,
    StepEntry,
    StepKind,
    TaskEnvelope,
)

TASKS, CONTROL = "tasks", "control"
FAILURE = Failure(FailureKind.ERROR, "E", "", "", retryable=True)
ASKED = Record("coordinator", b"run", b"ask")


class Slot:
    """One slot with one task that runs; what its commits write, in order."""

    def __init__(self) -> None:
        self.ledger = Ledger(Identity("i", "b"), TASKS, lambda name: False)
        self.ledger.opened({TASKS: 0, CONTROL: 0}, clean=True, now_ms=0, at_s=0.0)
        envelope = TaskEnvelope("run", "task", "t", 1, b"", "run", "run", 0)
        self.ledger.read(Incoming(envelope, 0, 10), 0)
        entry = self.ledger.next_startable()
        assert entry is not None
        self.entry: Entry = entry
        self.ledger.start(entry, 0.0)
        self.journal: dict[str, object] = {}
        self.records: list[Record] = []
        self.replies = 0

    def ask(self) -> None:
        step = StepEntry("nap", "", StepKind.ASK, 1, "d", None, 0, 0)
        self.ledger.write_step(self.entry, "nap", "", step, ASKED)

    def step_done(self, name: str) -> None:
        step = StepEntry(name, "", StepKind.STEP, 1, "d", b"x", 0, 0)
        self.ledger.write_step(self.entry, name, "", step)

    def ask_all(self, count: int) -> None:
        """Ask under keys of their own, and be journaled."""
        for number in range(count):
            step = StepEntry("s", str(number), StepKind.ASK, 1, "d", None, 0, 0)
            self.ledger.write_step(self.entry, "s", str(number), step, ASKED)
        while self.ledger.pending():
            self.commit()

    def answer_all(self, count: int) -> None:
        for number in range(count):
            self.reply("s", str(number))

    def reply(self, name: str = "nap", key: str = "", attempt: int = 1) -> None:
        control = ControlEnvelope("run", "task", attempt, ControlAction.REPLY, name, "run", 0)
        control.reply = Reply(name, key, b"answer", None)
        self.ledger.reply(control, Position(CONTROL, 0, self.replies), 5)
        self.replies += 1

    def begin(self) -> list[Draft]:
        """Begin a commit."""
        return self.ledger.collect(1, 1.0) or []

    def end(self, drafts: list[Draft]) -> None:
        """It is acknowledged."""
        for draft in drafts:
            self.journal.update(draft.writes)
            self.records += draft.records
            draft.apply()

    def commit(self) -> None:
        self.end(self.begin())

    def fail(self) -> None:
        self.ledger.end(self.entry, Ending(Outcome.FAILED, None, FAILURE, [], 0, 0))

    def next_attempt(self, offset: int = 1) -> None:
        envelope = TaskEnvelope("run", "task", "t", 2, b"", "run", "run", 0)
        self.ledger.read(Incoming(envelope, offset, 10), 0)

    def answered(self) -> int:
        return sum(step.kind is StepKind.ANSWER for step in self.entry.steps.values())

    @property
    def step(self) -> StepKind:
        return self.entry.steps["nap", ""].kind


def test_an_answer_may_be_read_before_the_ask_is_acknowledged() -> None:
    slot = Slot()
    slot.ask()
    under_way = slot.begin()
    slot.reply()  # the coordinator has seen the commit, we have not heard of it
    slot.end(under_way)
    slot.commit()
    assert slot.step is StepKind.ANSWER
    assert slot.ledger.offsets()[CONTROL] == 1


def test_it_counts_for_the_next_attempt_where_this_one_has_ended_meanwhile() -> None:
    slot = Slot()
    slot.ask()
    under_way = slot.begin()
    slot.fail()
    slot.reply()
    slot.end(under_way)
    slot.commit()
    assert slot.entry.phase is Phase.FAILED
    assert slot.step is StepKind.ANSWER


def test_an_ask_that_never_left_is_asked_again_by_the_next_attempt() -> None:
    slot = Slot()
    slot.commit()
    slot.ask()
    slot.fail()
    slot.commit()
    assert slot.records == []
    assert ("nap", "") not in slot.entry.steps


def test_who_falls_asleep_while_its_answer_is_on_its_way_wakes() -> None:
    slot = Slot()
    slot.ask()
    slot.commit()
    slot.reply()
    under_way = slot.begin()
    slot.ledger.fall_asleep(slot.entry, [("nap", "")])
    assert slot.ledger.next_startable() is None, "it would not find the answer"
    slot.end(under_way)
    assert slot.entry.phase is Phase.WAITING
    slot.commit()
    accepted = slot.journal["run/task"]
    assert isinstance(accepted, Accepted)
    assert not accepted.asleep
    assert slot.ledger.next_startable() is slot.entry


@pytest.mark.parametrize("under_way", [False, True])
@pytest.mark.parametrize("answered", [False, True])
def test_who_has_left_a_step_behind_wakes_once_it_is_written(
    under_way: bool, answered: bool
) -> None:
    slot = Slot()
    slot.ask()
    slot.commit()
    slot.step_done("a")
    drafts = slot.begin() if under_way else []
    if answered:
        slot.reply()
    slot.ledger.fall_asleep(slot.entry, [("nap", "")])
    assert slot.ledger.next_startable() is None, "it would run the step again"
    slot.end(drafts)
    while slot.ledger.pending():
        assert slot.ledger.next_startable() is None
        slot.commit()
    assert slot.ledger.next_startable() is slot.entry, "nobody else knows what comes after it"
    assert ("a", "") in slot.entry.steps
    accepted = slot.journal["run/task"]
    assert isinstance(accepted, Accepted)
    assert not accepted.asleep


def test_only_the_commit_that_holds_the_answer_wakes_it() -> None:
    slot = Slot()
    slot.ask()
    slot.commit()
    slot.ledger.fall_asleep(slot.entry, [("nap", "")])
    under_way = slot.begin()  # says that it sleeps
    slot.reply()
    slot.end(under_way)
    assert slot.entry.phase is Phase.ASLEEP
    slot.commit()
    assert slot.entry.phase is Phase.WAITING
    assert slot.step is StepKind.ANSWER


def test_an_answer_that_comes_with_the_end_leaves_nothing_behind() -> None:
    slot = Slot()
    slot.ask()
    slot.commit()
    slot.reply()
    slot.ledger.end(slot.entry, Ending(Outcome.SUCCEEDED))
    closing = slot.begin()
    slot.reply()
    slot.end(closing)
    slot.commit()
    assert {key for key, body in slot.journal.items() if body is not None} == set()
    assert slot.ledger.offsets()[CONTROL] == 2


def refused(slot: Slot, drafts: list[Draft]) -> list[Draft]:
    return [draft.refuse("too large") if draft.entry is slot.entry else draft for draft in drafts]


@pytest.mark.parametrize("while_collected", [True, False])
def test_a_refused_draft_leaves_no_answer_unpassed(while_collected: bool) -> None:
    slot = Slot()
    slot.ask_all(250)
    slot.step_done("big")
    slot.answer_all(250)
    drafts = slot.begin()
    if while_collected:
        drafts = refused(slot, drafts)
        slot.ledger.offsets()
    else:  # what the commit says of its offsets stands; the bus refuses the record only then
        slot.ledger.offsets()
        drafts = refused(slot, drafts)
    slot.end(drafts)
    while slot.ledger.pending():
        slot.commit()
    assert slot.entry.phase is Phase.FAILED
    assert slot.answered() == 250
    assert slot.ledger.offsets()[CONTROL] == 250


@pytest.mark.parametrize("then", ["failed", "refused"])
def test_no_draft_holds_more_answers_than_a_change_may(then: str) -> None:
    slot = Slot()
    slot.ask_all(900)
    slot.answer_all(900)
    slot.fail()
    drafts = slot.begin()
    passed = slot.ledger.offsets()[CONTROL]
    drafts = refused(slot, drafts) if then == "refused" else drafts
    assert max(draft.size for draft in drafts) <= CHANGE_RECORDS_MAX
    slot.end(drafts)
    journaled = [key for key, body in slot.journal.items() if _is_answer(body)]
    assert passed <= len(journaled), "a crash now would lose the others"
    while slot.ledger.pending():
        drafts = slot.begin()
        assert max((draft.size for draft in drafts), default=0) <= CHANGE_RECORDS_MAX
        slot.end(drafts)
    assert slot.answered() == 900
    assert sum(_is_answer(body) for body in slot.journal.values()) == 900
    assert slot.ledger.offsets()[CONTROL] == 900


def _is_answer(body: object) -> bool:
    return isinstance(body, StepEntry) and body.kind is StepKind.ANSWER


def test_an_answer_of_which_the_success_is_refused_is_kept() -> None:
    slot = Slot()
    slot.ask()
    slot.commit()
    slot.reply()
    slot.ledger.end(slot.entry, Ending(Outcome.SUCCEEDED, b"too much"))
    slot.end(refused(slot, slot.begin()))
    while slot.ledger.pending():
        slot.commit()
    assert slot.step is StepKind.ANSWER
    assert slot.ledger.offsets()[CONTROL] == 1


@pytest.mark.parametrize("how", ["refused", "superseded", "cancelled"])
def test_who_ends_while_it_sleeps_is_counted_as_asleep_no_longer(how: str) -> None:
    slot = Slot()
    slot.ask()
    slot.commit()
    slot.ledger.fall_asleep(slot.entry, [("nap", "")])
    slot.commit()
    book = slot.ledger.book
    assert (book.asleep, book.open_tasks) == (1, 1)
    if how == "refused":
        slot.reply()
        slot.end(refused(slot, slot.begin()))
    elif how == "cancelled":
        control = ControlEnvelope("run", "task", 1, ControlAction.CANCEL, "", "run", 0)
        slot.ledger.cancel(control, Position(CONTROL, 0, 0), 5)
    if how != "superseded":
        while slot.ledger.pending():
            slot.commit()
        assert (book.asleep, book.open_tasks, book.open_bytes) == (0, 0, 0)
    slot.next_attempt()
    assert (book.asleep, book.open_tasks, book.open_bytes) == (0, 1, 10)


def test_an_ask_under_way_is_known_to_the_attempt_that_supersedes() -> None:
    slot = Slot()
    slot.ask()
    under_way = slot.begin()
    slot.next_attempt()
    slot.reply(attempt=2)  # the coordinator answers the attempt that it knows
    slot.end(under_way)
    while slot.ledger.pending():
        slot.commit()
    assert slot.step is StepKind.ANSWER
    assert slot.ledger.next_startable() is slot.entry


def test_who_was_given_up_publishes_nothing() -> None:
    slot = Slot()
    slot.commit()
    control = ControlEnvelope("run", "task", 1, ControlAction.RELEASE, "", "run", 0)
    slot.ledger.release(control, Position(CONTROL, 0, 0))
    published = Record("elsewhere", b"key", b"value")
    slot.ledger.end(slot.entry, Ending(Outcome.SUCCEEDED, published=[published]))
    slot.commit()
    assert published not in slot.records
    assert slot.journal["run/task"] is None
