"""Keyed state under random histories: it is the fold of the successes, whatever is interrupted.

The histories are those of `test_ledger_properties`; each success of a task with an order key adds
one to what it had read when it began, and deletions come at any moment.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule

from holdfast.agents.ledger import Ending, Entry, Ledger
from holdfast.schemas import encode, order_record_key, state_key
from holdfast.schemas.records import (
    AgentJournal,
    ControlAction,
    ControlEnvelope,
    Outcome,
    StateDeletion,
    StateEntry,
    TaskResult,
)
from tests.unit.agents.test_ledger_properties import CONTROL, FAILURE, LedgerMachine

KEYS = ("k", "l")


class StateMachine(LedgerMachine):
    """A slot whose tasks count under their order keys."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.deleted = 0
        self.asked = 0
        self.seen: dict[Entry, bytes | None] = {}
        super().__init__()

    def boot(self, *, clean: bool) -> None:
        tasks = [(key, body) for key, body in self.journal if not key.startswith("/")]
        others = [(key, body) for key, body in self.journal if key.startswith("/")]
        whole, self.journal = self.journal, tasks
        opened = Ledger.opened

        def with_state(ledger: Ledger, *given: Any, **more: Any) -> None:
            for key, body in others:
                record = None if body is None else encode(AgentJournal(body, "b"))
                ledger.state.restore(key, record)
            opened(ledger, *given, **more)

        Ledger.opened = with_state  # type: ignore[method-assign]
        try:
            super().boot(clean=clean)
        finally:
            Ledger.opened = opened  # type: ignore[method-assign]
            self.journal = whole
        self.seen = {}

    def deliver(self, topic: str, most: int) -> None:
        log: list[Any] = self.controls if topic == CONTROL else []
        for _ in range(most):
            at = self.read[topic]
            if at < len(log) and log[at].deletion is not None:
                self.read[topic] += 1
                self.ledger.skip(topic, at)
                self.ledger.state.delete(log[at].deletion, at)
            else:
                super().deliver(topic, 1)

    @rule(key=st.sampled_from(KEYS), read=st.booleans())
    def delete(self, key: str, read: bool) -> None:
        self.asked += 1
        deletion = StateDeletion(str(self.asked), key, None, "ada", "", 0)
        self.controls.append(
            ControlEnvelope("", "", 0, ControlAction.DELETE_STATE, "", "", 0, None, deletion)
        )
        assert order_record_key(key) == f"o:{key}".encode()
        if read:
            self.deliver(CONTROL, 10)

    def started(self, entry: Entry) -> None:
        super().started(entry)
        if entry.order_key is not None and entry.strict:
            self.seen[entry] = self.ledger.state.read(entry.order_key, "n")

    def finish(self, entry: Entry, outcome: Outcome) -> None:
        state: dict[str, bytes | None] = {}
        if entry in self.seated and entry.order_key is not None and entry.strict:
            now = self.ledger.state.read(entry.order_key, "n")
            assert now == self.seen[entry], f"{entry.name}: what it had read has changed"
            state = {"n": str(int(now or b"0") + 1).encode()}
        self.seated.pop(entry, None)
        self.waiting.pop(entry, None)
        failure = None if outcome is Outcome.SUCCEEDED else FAILURE
        # That of a failure must never be written.
        self.ledger.end(entry, Ending(outcome, None, failure, state=state))

    def answered(self, result: TaskResult) -> None:
        before = len(self.results)
        super().answered(result)
        sent = self.sent[result.task_id]
        counts = sent.order_key is not None and not sent.loose
        if counts and len(self.results) > before and result.outcome is Outcome.SUCCEEDED:
            self.counts[str(sent.order_key)] += 1

    def write(self) -> None:
        drafts = self.under_way or []
        super().write()
        for draft in drafts:
            if draft.deleted is not None:
                self.deleted += 1
                del self.counts[draft.deleted.order_key]

    @invariant()
    def state_is_the_fold_of_the_successes(self) -> None:
        journal = self.compacted()
        for key in KEYS:
            body = journal.get(state_key(key, "n"))
            kept = int(body.value) if isinstance(body, StateEntry) else 0
            assert kept == self.counts[key], f"{key}: {kept}, not {self.counts[key]}"
            if self.under_way is None:
                assert int(self.ledger.state.read(key, "n") or b"0") == kept
        if self.under_way is None:
            values = [key for key in journal if key.startswith("/state/")]
            assert self.ledger.state.values == len(values)
            assert bool(self.ledger.state.size_bytes) == bool(values)

    def teardown(self) -> None:
        """Every deletion that was asked for was carried out, once."""
        super().teardown()
        assert self.deleted == self.asked


TestState = StateMachine.TestCase
TestState.settings = settings(
    max_examples=200,
    stateful_step_count=60,
    deadline=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
