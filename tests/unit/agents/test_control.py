"""Cancels, releases, order keys, attempts: what the coordinator may do to a task."""

from __future__ import annotations

import asyncio

import pytest

from holdfast.agents import Agent, Context
from holdfast.bus.errors import Rejected
from holdfast.bus.slot.machine import Commit
from holdfast.schemas.records import (
    Cancelled,
    ControlAction,
    Failed,
    FailureKind,
    Outcome,
)
from tests.unit.agents.fake_slot import TOPICS, FakeSlot
from tests.unit.agents.workers import CANCEL, RELEASE, World, check, worker


@check
async def test_release_leaves_no_key(slot: FakeSlot) -> None:
    slot.boot(clean=True)
    slot.send("fails")
    await slot.work()
    assert len(slot.journal) == 2
    slot.tell(RELEASE)
    await slot.work()
    assert slot.journal == {}


@check
async def test_cancel_of_a_running_task_is_answered_once(world: World, slot: FakeSlot) -> None:
    slot.boot(clean=True)
    slot.send("waits")
    await slot.settle()
    slot.tell(CANCEL)
    slot.tell(CANCEL)
    await slot.work()
    assert slot.result().outcome is Outcome.CANCELLED
    assert slot.journal == {"r/t": Failed(1, None, 0)}
    assert slot.log.offsets[TOPICS.control] == 2


@check
async def test_a_cancel_is_read_again_after_a_crash_before_its_end(slot: FakeSlot) -> None:
    slot.boot(clean=True)
    slot.send("waits")
    await asyncio.sleep(0.03)
    slot.commit()
    slot.tell(CANCEL)
    slot.send("plain", "b")
    await asyncio.sleep(0)
    slot.collect()
    slot.crash(keep=True)
    slot.boot()
    await slot.work()
    assert slot.result().outcome is Outcome.CANCELLED


@check
async def test_cancel_before_the_record_is_answered_and_the_record_dropped(
    world: World, slot: FakeSlot
) -> None:
    slot.boot(clean=True)
    slot.tell(CANCEL)
    await slot.work()
    assert slot.result().outcome is Outcome.CANCELLED
    assert isinstance(slot.journal["r/t/cancelled"], Cancelled)
    slot.crash()
    slot.boot()
    slot.send("plain")
    await slot.work()
    assert world.seen == []
    assert slot.journal == {"r/t": Failed(1, None, 0)}
    slot.tell(RELEASE)
    await slot.work()
    assert slot.journal == {}
    assert len(slot.results) == 1


@check
async def test_a_release_before_the_cancelled_record_leaves_nothing_once_it_comes(
    slot: FakeSlot,
) -> None:
    slot.boot(clean=True)
    slot.tell(CANCEL)
    slot.tell(RELEASE)
    await slot.work()
    assert slot.journal["r/t/cancelled"].released
    slot.crash()
    slot.boot()
    slot.send("plain")
    await slot.work()
    assert slot.journal == {}


@check
async def test_the_record_of_an_older_attempt_does_not_undo_a_cancel(
    world: World, slot: FakeSlot
) -> None:
    slot.boot(clean=True)
    slot.tell(CANCEL)
    await slot.work()
    slot.tell(CANCEL, attempt=2)  # both are answered before a record is read
    await slot.work()
    slot.send("plain")
    slot.send("plain", attempt=2)
    await slot.work()
    assert world.seen == []
    assert slot.result(attempt=2).outcome is Outcome.CANCELLED
    assert slot.journal == {"r/t": Failed(2, None, 0)}
    slot.send("plain", attempt=3)
    await slot.work()
    assert world.seen == [("plain", "t", 3)]


@check
async def test_a_cancel_whose_record_never_comes_is_forgotten_after_7_days(slot: FakeSlot) -> None:
    slot.boot(clean=True)
    slot.tell(CANCEL)
    await slot.work()
    await asyncio.sleep(7 * 24 * 3600 - 10)
    await slot.work()
    assert slot.journal
    await asyncio.sleep(3700)
    await slot.work()
    assert slot.journal == {}


@check
async def test_a_handler_that_swallows_its_cancel_is_ended_without_it() -> None:
    world = World()
    agent = Agent("worker", concurrency=1)
    tries: list[str] = []

    @agent.task
    async def stubborn(ctx: Context) -> None:
        while not world.gate.is_set():
            try:
                await world.gate.wait()
            except asyncio.CancelledError:
                tries.append("swallowed")
        with pytest.raises(asyncio.CancelledError):
            await ctx.step("late", len, "abc")
        tries.append("ended")

    @agent.task
    async def other(ctx: Context) -> None:
        tries.append("other")

    slot = FakeSlot(agent)
    slot.boot(clean=True)
    slot.send("stubborn")
    await slot.settle()
    slot.tell(CANCEL)
    slot.send("other", "o")
    await slot.work(seconds=4.9)
    assert slot.results == []
    await slot.work(seconds=0.2)
    assert slot.result().outcome is Outcome.CANCELLED
    slot.send("stubborn", attempt=2)
    await slot.work(seconds=30)
    assert tries == ["swallowed"]  # its place is kept: nothing else starts, least of all itself
    assert not slot.machine.idle()
    world.gate.set()
    await slot.work()
    assert tries[:3] == ["swallowed", "ended", "other"]
    assert {r.task_id for r in slot.results} == {"t", "o"}


@check
async def test_an_order_key_stays_closed_until_the_last_attempt_has_ended(
    world: World, slot: FakeSlot
) -> None:
    slot.boot(clean=True)
    slot.send("fails", "a", order_key="k")
    slot.send("plain", "b", order_key="k")
    slot.send("plain", "c")
    await slot.work()
    assert [r.task_id for r in slot.results] == ["c", "a"]
    slot.crash()
    slot.boot()
    await slot.work()
    assert len(slot.results) == 2
    slot.send("plain", "d", order_key="k")
    slot.send("fails", "a", attempt=2, order_key="k")
    await slot.work()
    assert [(r.task_id, r.attempt) for r in slot.results[2:]] == [("a", 2), ("b", 1), ("d", 1)]
    assert slot.journal == {}


@check
async def test_release_opens_the_order_key(slot: FakeSlot) -> None:
    slot.boot(clean=True)
    slot.send("fails", "a", order_key="k")
    slot.send("plain", "b", order_key="k")
    await slot.work()
    slot.tell(RELEASE, "a")
    await slot.work()
    assert [r.task_id for r in slot.results] == ["a", "b"]


@check
async def test_loose_order_lets_others_pass_while_one_retries(slot: FakeSlot) -> None:
    slot.boot(clean=True)
    slot.send("fails", "a", order_key="k", loose_order=True)
    slot.send("plain", "b", order_key="k", loose_order=True)
    await slot.work()
    assert [r.task_id for r in slot.results] == ["a", "b"]


@check
async def test_the_next_of_a_loose_key_waits_until_the_cancel_of_the_first_is_committed(
    world: World, slot: FakeSlot
) -> None:
    """Else who owns the slot next may read the record before the cancel, and begin it behind it."""
    slot.boot(clean=True)
    slot.tell(CANCEL)
    slot.send("plain", order_key="k", loose_order=True)
    slot.send("plain", "b", order_key="k", loose_order=True)
    for _ in range(10):
        await asyncio.sleep(0)
    assert world.seen == []
    await slot.work()
    assert [r.task_id for r in slot.results] == ["t", "b"]
    assert len(world.seen) == 1


@check
async def test_a_full_slot_still_reads_the_attempt_that_its_tasks_wait_for(slot: FakeSlot) -> None:
    slot.boot(clean=True)
    slot.send("fails", "a", order_key="k")
    await slot.work()
    for index in range(600):
        slot.send("plain", f"b{index}", order_key="k", deliver=False)
    slot.deliver()
    assert slot.machine.congested() == frozenset()
    for index in range(600):
        slot.send("plain", f"c{index}", order_key="l", deliver=False)
    slot.deliver()
    assert slot.machine.congested() == {TOPICS.tasks}
    slot.send("fails", "a", attempt=2, order_key="k")
    await slot.work()
    assert len(slot.results) == 1 + 1 + 1200
    assert slot.machine.congested() == frozenset()


@check
async def test_a_release_of_an_end_that_is_being_committed_waits_for_it(slot: FakeSlot) -> None:
    slot.boot(clean=True)
    slot.send("fails", "a")
    await slot.settle()
    slot.commit()
    await slot.settle()
    assert slot.collect()  # readers see the result before we are told of it
    slot.tell(RELEASE, "a")
    slot.acknowledge()
    await slot.work()
    assert slot.journal == {}


@check
async def test_the_next_attempt_can_come_before_the_end_of_the_last_is_acknowledged(
    slot: FakeSlot,
) -> None:
    slot.boot(clean=True)
    slot.send("fails", "a")
    await slot.settle()
    slot.commit()
    await slot.settle()
    assert slot.collect()
    slot.send("fails", "a", attempt=2)
    slot.acknowledge()
    await slot.work()
    assert slot.result("a", 2).outcome is Outcome.SUCCEEDED
    assert slot.log.offsets[TOPICS.tasks] == 2


@check
async def test_a_newer_attempt_supersedes_one_that_still_runs() -> None:
    """No coordinator should send it; if one does, the newest attempt is the one that counts."""
    world = World()
    slot = FakeSlot(worker(world))
    slot.boot(clean=True)
    slot.send("waits", "a")
    await slot.work(seconds=0.1)
    slot.send("plain", "a", attempt=2)
    await slot.work(seconds=0.1)
    assert slot.result("a", 1).outcome is Outcome.CANCELLED
    assert slot.result("a", 2).outcome is Outcome.SUCCEEDED
    assert slot.journal == {}
    assert slot.machine.idle()


@check
async def test_a_task_that_waits_for_a_place_is_cancelled_without_running() -> None:
    world = World()
    slot = FakeSlot(worker(world), concurrency=1)
    slot.boot(clean=True)
    slot.send("waits", "a")
    slot.send("plain", "b")
    slot.tell(CANCEL, "b")
    await slot.settle()
    assert slot.commit()
    assert slot.result("b").outcome is Outcome.CANCELLED
    world.gate.set()
    await slot.work()
    assert world.seen == [("waits", "a", 1)]


@check
async def test_a_queue_time_out_ends_what_has_not_begun_and_nothing_else() -> None:
    world = World()
    slot = FakeSlot(worker(world), concurrency=1)
    slot.boot(clean=True)
    slot.send("waits", "a")
    slot.send("plain", "b")
    await slot.settle()
    slot.tell(ControlAction.EXPIRE, "a")
    slot.tell(ControlAction.EXPIRE, "b")
    await slot.settle()
    assert slot.commit()
    assert slot.result("b").outcome is Outcome.CANCELLED
    world.gate.set()
    await slot.work()
    assert slot.result("a").outcome is Outcome.SUCCEEDED
    assert slot.log.offsets[TOPICS.control] == 2


@check
async def test_a_cancel_that_meets_a_refused_record_is_settled_with_it() -> None:
    """The bus refuses a record of a task while a cancel of it comes in: one end, both offsets."""
    slot = FakeSlot(worker(World()))
    slot.boot(clean=True)
    slot.send("waits", "a")
    await asyncio.sleep(0.03)
    assert slot.collect()
    commit = slot.under_way
    assert commit is not None
    slot.tell(CANCEL, "a")
    (change,) = commit.changes
    slot.under_way = Commit(
        [change.refuse(Rejected(change.records[0], "too large"))], commit.offsets
    )
    slot.acknowledge()
    await slot.work()
    failure = slot.result("a").failure
    assert failure is not None
    assert failure.kind is FailureKind.TOO_LARGE
    assert slot.log.offsets == {TOPICS.tasks: 1, TOPICS.control: 1}
    assert slot.machine.idle()
