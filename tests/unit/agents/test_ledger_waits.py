"""Answers to asks, at the moments at which they were once lost: the ledger, driven by hand."""

from __future__ import annotations

from holdfast.agents.ledger import Draft, Ending, Entry, Identity, Incoming, Ledger, Phase
from holdfast.bus.port import Position, Record
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

    def reply(self) -> None:
        control = ControlEnvelope("run", "task", 1, ControlAction.REPLY, "nap", "run", 0)
        control.reply = Reply("nap", "", b"answer", None)
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
    assert slot.entry.phase is Phase.ASLEEP
    slot.end(under_way)
    assert slot.entry.phase is Phase.WAITING
    slot.commit()
    accepted = slot.journal["run/task"]
    assert isinstance(accepted, Accepted)
    assert not accepted.asleep
    assert slot.ledger.next_startable() is slot.entry


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
