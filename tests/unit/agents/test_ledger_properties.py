"""The ledger under random histories: sends, steps, ends, cancels, commits, crashes, restores.

A coordinator that keeps the protocol (docs/protocol.md) drives it. What a history may do is random;
what must hold is said in the invariants, and, once all is driven to its end, in `teardown`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from holdfast.agents.ledger import Draft, Ending, Entry, Identity, Incoming, Ledger
from holdfast.bus.port import Position
from holdfast.schemas.records import (
    Accepted,
    ControlAction,
    ControlEnvelope,
    Failed,
    Failure,
    FailureKind,
    Outcome,
    StepEntry,
    StepKind,
    TaskEnvelope,
    TaskResult,
)

TASKS, CONTROL = "tasks", "control"
PLACES = 3
FAILURE = Failure(FailureKind.ERROR, "E", "", "", retryable=True)


@dataclass
class Sent:
    """What the coordinator knows of one task."""

    task_id: str
    order_key: str | None
    loose: bool
    attempt: int = 1
    cancelled: set[int] = field(default_factory=set)
    closed: bool = False
    released: bool = False
    poison: bool = False


class LedgerMachine(RuleBasedStateMachine):
    """One slot, its log, a coordinator, and handlers."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: dict[str, Sent] = {}
        self.tasks: list[TaskEnvelope] = []
        self.controls: list[ControlEnvelope] = []
        self.journal: list[tuple[str, Any]] = []
        self.offsets = {TASKS: 0, CONTROL: 0}
        self.results: list[TaskResult] = []
        self.at_s = 0.0
        self.under_way: list[Draft] | None = None
        self.place: dict[str, int] = {}
        self.boot(clean=True)

    # --- the slot ------------------------------------------------------------------------------

    def boot(self, *, clean: bool) -> None:
        self.ledger = Ledger(Identity("i", "b"), TASKS, lambda name: False)
        for key, body in self.journal:
            self.ledger.restore(key, body)
        self.ledger.opened(dict(self.offsets), clean=clean, now_ms=self.now_ms, at_s=self.at_s)
        self.read = dict(self.offsets)
        self.seated: dict[Entry, bool] = {}
        self.waiting: dict[Entry, Any] = {}
        self.under_way = None
        self.refused: set[Draft] = set()

    @property
    def now_ms(self) -> int:
        return round(self.at_s * 1000)

    def deliver(self, topic: str, most: int) -> None:
        log: list[Any] = self.tasks if topic == TASKS else self.controls
        while self.read[topic] < len(log) and most > 0:
            offset = self.read[topic]
            self.read[topic] += 1
            most -= 1
            if topic == TASKS:
                assert self.ledger.read(Incoming(log[offset], offset, 10), self.now_ms) is None
                self.place.setdefault(log[offset].task_id, offset)
            elif log[offset].action is ControlAction.RELEASE:
                self.ledger.release(log[offset], Position(topic, 0, offset))
            else:
                entry = self.ledger.cancel(log[offset], Position(topic, 0, offset), self.now_ms)
                if entry is not None:
                    self.finish(entry, Outcome.CANCELLED)

    def start_all(self) -> None:
        if any(entry.alone for entry in self.seated):
            return
        while len(self.seated) < PLACES and (entry := self.ledger.next_startable()) is not None:
            self.started(entry)
        if not self.seated and (entry := self.ledger.next_suspect()) is not None:
            self.started(entry)

    def started(self, entry: Entry) -> None:
        self.check_order(entry)
        self.seated[entry] = self.ledger.start(entry, self.at_s)

    def check_order(self, entry: Entry) -> None:
        """Nobody of its order key runs, and everybody before it has ended for good."""
        if entry.order_key is None:
            return
        for sent in self.sent.values():
            if sent.order_key != entry.order_key or f"r/{sent.task_id}" == entry.name:
                continue
            name = f"r/{sent.task_id}"
            assert name not in {e.name for e in self.seated}, "two of one key at once"
            place = self.place.get(sent.task_id)
            if place is not None and place < entry.order_offset and not sent.loose:
                done = sent.closed and (sent.released or self.succeeded(sent.task_id))
                assert done, f"{entry.name} overtook {name}"

    def succeeded(self, task_id: str) -> bool:
        return any(r.task_id == task_id and r.outcome is Outcome.SUCCEEDED for r in self.results)

    def finish(self, entry: Entry, outcome: Outcome) -> None:
        failure = None if outcome is Outcome.SUCCEEDED else FAILURE
        self.seated.pop(entry, None)
        self.waiting.pop(entry, None)
        self.ledger.end(entry, Ending(outcome, None, failure))

    def collect(self) -> bool:
        drafts = self.ledger.collect(self.now_ms, self.at_s)
        if drafts is None:
            return False
        open_drafts = [d.entry for d in drafts if d.entry is not None]
        assert len(open_drafts) == len(set(open_drafts)), "two drafts of one task"
        self.under_way = drafts
        self.next_offsets = self.ledger.offsets()
        return True

    def write(self) -> None:
        assert self.under_way is not None
        for draft in self.under_way:
            for key, body in draft.writes:
                if body is None:
                    assert key in self.compacted(), f"tombstone for {key}, which does not exist"
                self.journal.append((key, body))
            if draft.answer is not None:
                self.answered(draft.answer.result)
        self.offsets = self.next_offsets
        self.check_offsets()

    def answered(self, result: TaskResult) -> None:
        sent = self.sent[result.task_id]
        known = [
            r for r in self.results if (r.task_id, r.attempt) == (sent.task_id, result.attempt)
        ]
        if known:
            # A cancel read again after a crash; the coordinator ignores it.
            assert result.outcome is Outcome.CANCELLED
            assert result.attempt in sent.cancelled
            return
        assert result.attempt == sent.attempt
        self.results.append(result)
        sent.closed = result.outcome is Outcome.SUCCEEDED
        failure = result.failure
        sent.poison = failure is not None and failure.kind is FailureKind.POISON

    def compacted(self) -> dict[str, Any]:
        newest: dict[str, Any] = {}
        for key, body in self.journal:
            newest.pop(key, None)
            if body is not None:
                newest[key] = body
        return newest

    def check_offsets(self) -> None:
        """The offset passes only what is answered, or accepted in the journal."""
        journal = self.compacted()
        for envelope in self.tasks[: self.offsets[TASKS]]:
            if self.ended(envelope.task_id, envelope.attempt):
                continue
            body = journal.get(f"r/{envelope.task_id}")
            assert isinstance(body, Accepted), f"{envelope.task_id} is lost"
            assert body.envelope.attempt == envelope.attempt

    def ended(self, task_id: str, attempt: int) -> bool:
        return any((r.task_id, r.attempt) == (task_id, attempt) for r in self.results)

    # --- rules ---------------------------------------------------------------------------------

    @rule(
        order_keys=st.lists(st.sampled_from([None, None, "k", "l"]), min_size=1, max_size=3),
        loose=st.booleans(),
        read=st.sampled_from([True, True, False]),
    )
    def send(self, order_keys: list[str | None], loose: bool, read: bool) -> None:
        for order_key in order_keys:
            task_id = f"t{len(self.sent)}"
            self.sent[task_id] = Sent(task_id, order_key, loose)
            self.append(self.sent[task_id])
        if read:
            self.deliver(TASKS, 10)
            self.start_all()

    def append(self, sent: Sent) -> None:
        self.tasks.append(
            TaskEnvelope(
                "r",
                sent.task_id,
                "task",
                sent.attempt,
                b"",
                "r",
                "r",
                0,
                order_key=sent.order_key,
                loose_order=sent.loose,
            )
        )

    @rule(most=st.integers(1, 5), topic=st.sampled_from([TASKS, CONTROL]))
    def read_some(self, most: int, topic: str) -> None:
        self.deliver(topic, most)
        self.start_all()

    @rule(index=st.integers(0, 30), read=st.booleans())
    def go_on(self, index: int, read: bool) -> None:
        """An attempt has ended without success: the next one, or the end of the task."""
        open_ones = [
            s for s in self.sent.values() if not s.closed and self.ended(s.task_id, s.attempt)
        ]
        if not open_ones:
            return
        sent = open_ones[index % len(open_ones)]
        if sent.attempt < 3 and index % 3 and not sent.poison:
            sent.attempt += 1
            self.append(sent)
        else:
            self.close(sent)
        if read:
            self.deliver(CONTROL, 10)
            self.deliver(TASKS, 10)
            self.start_all()

    def close(self, sent: Sent) -> None:
        sent.closed = sent.released = True
        self.control(sent, ControlAction.RELEASE)

    def control(self, sent: Sent, action: ControlAction) -> None:
        self.controls.append(ControlEnvelope("r", sent.task_id, sent.attempt, action, "", "r", 0))

    @rule(index=st.integers(0, 30), read=st.booleans())
    def cancel(self, index: int, read: bool) -> None:
        open_ones = [s for s in self.sent.values() if not s.closed]
        if not open_ones:
            return
        sent = open_ones[index % len(open_ones)]
        if sent.attempt in sent.cancelled or self.ended(sent.task_id, sent.attempt):
            return
        sent.cancelled.add(sent.attempt)
        self.control(sent, ControlAction.CANCEL)
        if read:
            self.deliver(CONTROL, 10)

    @rule(index=st.integers(0, 30), name=st.sampled_from("abc"))
    def step(self, index: int, name: str) -> None:
        running = [e for e, runs in self.seated.items() if runs and e not in self.waiting]
        if not running:
            return
        entry = running[index % len(running)]
        if (name, "") in entry.steps:
            return
        key = f"{entry.name}/step/{name}/"
        assert key not in self.compacted(), "the body of a committed step runs again"
        step = StepEntry(name, "", StepKind.STEP, entry.attempt, "d", b"x", 0, 0)
        self.waiting[entry] = self.ledger.write_step(entry, name, "", step)

    @rule(index=st.integers(0, 30), succeeds=st.booleans())
    def end(self, index: int, succeeds: bool) -> None:
        running = [e for e, runs in self.seated.items() if runs]
        if running:
            outcome = Outcome.SUCCEEDED if succeeds else Outcome.FAILED
            self.finish(running[index % len(running)], outcome)
            self.start_all()

    @precondition(lambda self: self.under_way is None)
    @rule()
    def commit(self) -> None:
        if self.collect():
            self.acknowledge()

    @precondition(lambda self: self.under_way is None)
    @rule()
    def begin_commit(self) -> None:
        self.collect()

    @precondition(lambda self: self.under_way is not None)
    @rule()
    def acknowledge(self) -> None:
        drafts = self.under_way
        assert drafts is not None
        self.write()
        self.under_way = None
        for draft in drafts:
            draft.apply()
            if draft.entry in self.seated and self.ledger.accepted(draft.entry, self.at_s):
                self.seated[draft.entry] = True
        for entry, write in list(self.waiting.items()):
            if write.settled:
                del self.waiting[entry]
        self.start_all()

    @precondition(lambda self: self.under_way is not None)
    @rule(index=st.integers(0, 30))
    def refuse(self, index: int) -> None:
        """The bus does not take one of the records of one task."""
        drafts = self.under_way
        assert drafts is not None
        of_tasks = [
            i
            for i, draft in enumerate(drafts)
            if draft.entry is not None and draft not in self.refused and not _small(draft)
        ]
        if not of_tasks:
            return
        at = of_tasks[index % len(of_tasks)]
        entry = drafts[at].entry
        assert entry is not None
        drafts[at] = drafts[at].refuse("too large")
        self.refused.add(drafts[at])
        self.seated.pop(entry, None)
        self.waiting.pop(entry, None)

    @rule(seconds=st.sampled_from([0.005, 0.03, 11.0]))
    def time_passes(self, seconds: float) -> None:
        self.at_s += seconds

    @rule(keep=st.booleans(), clean=st.sampled_from([False, False, True]))
    def crash(self, keep: bool, clean: bool) -> None:
        if self.under_way is not None and keep:
            self.write()
        self.boot(clean=clean)
        self.deliver(TASKS, 2)
        self.start_all()

    # --- what holds ----------------------------------------------------------------------------

    @invariant()
    def journal_holds_only_what_is_open(self) -> None:
        for key, body in self.compacted().items():
            if key.startswith("/"):
                continue  # of an order key, not of a task
            sent = self.sent[key.split("/")[1]]
            if key.endswith("/cancelled"):
                continue  # a cancel that came after the end: it stays until it is released
            if self.succeeded(sent.task_id):
                raise AssertionError(f"{key} outlives the success of its task")
            if isinstance(body, Failed):
                assert self.ended(sent.task_id, body.attempt)

    def teardown(self) -> None:
        """Drive everything to its end: nothing is lost, nothing is left."""
        for _ in range(2000):
            self.deliver(CONTROL, 1000)
            self.deliver(TASKS, 1000)
            if self.under_way is None:
                self.collect()
            if self.under_way is not None:
                self.acknowledge()
                continue
            self.start_all()
            running = [e for e, runs in self.seated.items() if runs and e not in self.waiting]
            if running:
                self.finish(running[0], Outcome.SUCCEEDED)
                continue
            unfinished = [s for s in self.sent.values() if not s.closed]
            ended = [s for s in unfinished if self.ended(s.task_id, s.attempt)]
            if ended:
                self.close(ended[0])
                continue
            at_end = self.read[CONTROL] == len(self.controls)
            if not self.seated and at_end and not self.ledger.pending():
                break
        unanswered = [s.task_id for s in self.sent.values() if not s.closed]
        assert not unanswered, f"never answered: {unanswered}"
        kept = ("/cancelled", "/state/n/k", "/state/n/l")
        left = [key for key in self.compacted() if not key.endswith(kept)]
        assert not left, f"left behind: {left}"
        assert self.offsets[TASKS] == len(self.tasks)
        assert self.ledger.book.open_tasks == 0


def _small(draft: Draft) -> bool:
    """A release is never refused: its records have no value."""
    return draft.answer is None and all(body is None for _, body in draft.writes)


TestLedger = LedgerMachine.TestCase
TestLedger.settings = settings(
    max_examples=200,
    stateful_step_count=60,
    deadline=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
