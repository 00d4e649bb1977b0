"""A task that begins anew, at its agent: what is dropped, and what a crash in between leaves."""

from __future__ import annotations

from typing import Any

import pytest

from holdfast.agents import Agent, Context
from holdfast.agents.ledger import Draft, Ending, Entry, Identity, Incoming, Ledger
from holdfast.agents.ledger.restoring import Restored
from holdfast.bus.port import Position, Record
from holdfast.schemas.records import (
    Accepted,
    ControlAction,
    ControlEnvelope,
    Outcome,
    Reply,
    StepEntry,
    StepKind,
    TaskEnvelope,
)
from tests.unit.agents.fake_slot import FakeSlot
from tests.unit.agents.workers import Number, World, check

TASKS, CONTROL = "tasks", "control"
ASKED = Record("coordinator", b"run", b"ask")


def worker(world: World, build: str = "1") -> Agent:
    agent = Agent("worker")

    async def count(text: str) -> int:
        world.seen.append(f"{text} by {build}")
        return len(world.seen)

    @agent.task
    async def steps(ctx: Context, number: Number) -> Number:
        await ctx.step("one", count, "one")
        if ctx.attempt == 1:
            await ctx.step("old", count, "old")
            raise ValueError("begin anew")
        await world.gate.wait()
        return Number(n=await ctx.step("two", count, "two"))

    return agent


async def failed_once(world: World) -> FakeSlot:
    slot = FakeSlot(worker(world))
    slot.boot(clean=True)
    slot.send("steps", value=Number())
    await slot.work(lambda: bool(slot.results))
    assert {key for key in slot.journal if "/step/" in key} == {"r/t/step/one/", "r/t/step/old/"}
    return slot


def steps_of(slot: FakeSlot) -> dict[str, Any]:
    return {key: body.attempt for key, body in slot.journal.items() if "/step/" in key}


@check
async def test_older_steps_are_dropped_ahead_of_what_the_new_attempt_writes() -> None:
    world = World()
    slot = await failed_once(world)
    slot.send("steps", attempt=2, value=Number(), journal_from=2)
    await slot.work(seconds=0.1)
    assert steps_of(slot) == {"r/t/step/one/": 2}
    world.gate.set()
    await slot.work(lambda: len(slot.results) == 2)
    assert slot.output(attempt=2) == {"n": 4}
    assert world.seen == ["one by 1", "old by 1", "one by 1", "two by 1"]
    assert slot.journal == {}


@check
async def test_without_a_restart_they_stay() -> None:
    world = World()
    slot = await failed_once(world)
    world.gate.set()
    slot.send("steps", attempt=2, value=Number())
    await slot.work(lambda: len(slot.results) == 2)
    assert world.seen == ["one by 1", "old by 1", "two by 1"]


@pytest.mark.parametrize("keep", [False, True])
@check
async def test_a_crash_before_they_are_removed_changes_nothing(keep: bool) -> None:
    world = World()
    slot = await failed_once(world)
    slot.send("steps", attempt=2, value=Number(), journal_from=2)
    slot.collect()
    slot.crash(keep=keep)
    slot.boot()
    await slot.work(seconds=0.1)
    slot.crash()
    slot.boot()
    world.gate.set()
    await slot.work(lambda: len(slot.results) == 2)
    assert world.seen.count("one by 1") == 2
    assert slot.output(attempt=2)["n"] == 4
    await slot.work(seconds=0.1)
    assert slot.journal == {}


@check
async def test_a_later_attempt_drops_them_too_if_the_first_one_never_came() -> None:
    world = World()
    world.gate.set()
    slot = await failed_once(world)
    slot.send("steps", attempt=3, value=Number(), journal_from=2)
    await slot.work(lambda: len(slot.results) == 2)
    assert world.seen == ["one by 1", "old by 1", "one by 1", "two by 1"]


class Slot:
    """A ledger, driven by hand; what its commits write, in order."""

    def __init__(self) -> None:
        self.ledger = Ledger(Identity("i", "b"), TASKS, lambda name: False)
        self.ledger.opened({TASKS: 0, CONTROL: 0}, clean=True, now_ms=0, at_s=0.0)
        self.journal: dict[str, object] = {}

    def start(self, attempt: int, journal_from: int = 0) -> Entry:
        envelope = TaskEnvelope("run", "task", "t", attempt, b"", "run", "run", 0)
        envelope.journal_from = journal_from
        self.ledger.read(Incoming(envelope, attempt - 1, 10), 0)
        entry = self.ledger.next_startable()
        assert entry is not None
        self.ledger.start(entry, 0.0)
        return entry

    def ask(self, entry: Entry) -> None:
        step = StepEntry("nap", "", StepKind.ASK, entry.attempt, "d", None, 0, 0)
        self.ledger.write_step(entry, "nap", "", step, ASKED)
        self.commit()

    def reply(self, attempt: int, offset: int) -> None:
        control = ControlEnvelope("run", "task", attempt, ControlAction.REPLY, "nap", "run", 0)
        control.reply = Reply("nap", "", b"answer", None)
        self.ledger.reply(control, Position(CONTROL, 0, offset), 5)
        self.commit()

    def commit(self) -> None:
        drafts: list[Draft] = self.ledger.collect(1, 1.0) or []
        for draft in drafts:
            self.journal.update(draft.writes)
            draft.apply()


def test_an_answer_of_before_the_restart_does_not_end_a_wait_of_after_it() -> None:
    slot = Slot()
    entry = slot.start(1)
    slot.ask(entry)
    slot.ledger.end(entry, Ending(Outcome.CANCELLED))
    slot.commit()
    entry = slot.start(2, journal_from=2)
    slot.ask(entry)
    slot.reply(1, 0)  # sent to the first attempt, and read late
    assert entry.steps["nap", ""].kind is StepKind.ASK
    slot.reply(2, 1)
    assert entry.steps["nap", ""].kind is StepKind.ANSWER


def test_steps_of_before_a_restart_are_left_over_where_a_journal_still_has_them() -> None:
    envelope = TaskEnvelope("r", "t", "t", 3, b"", "r", "r", 0, journal_from=2)
    restored = Restored()
    restored.take("r/t", Accepted(envelope, 0, 0, 0, 0, False, 0))
    for attempt in (1, 2, 3):
        step = StepEntry(f"s{attempt}", "", StepKind.STEP, attempt, "d", None, 0, 0)
        restored.take(f"r/t/step/s{attempt}/", step)
    entries, _, leftovers = restored.settle()
    assert sorted(entries[0].steps) == [("s2", ""), ("s3", "")]
    assert leftovers == ["r/t/step/s1/"]
