"""A slot of an agent from record to result, on a fake slot under a virtual clock."""

from __future__ import annotations

import asyncio

from pydantic import BaseModel

from holdfast.agents import Agent, Context, Retry
from holdfast.schemas import decode
from holdfast.schemas.records import (
    Accepted,
    DeadLetter,
    Failed,
    FailureKind,
    Outcome,
)
from tests.unit.agents.fake_slot import TOPICS, FakeSlot
from tests.unit.agents.workers import Number, World, check, killer, worker


@check
async def test_a_short_task_costs_one_commit_and_no_journal_record(slot: FakeSlot) -> None:
    slot.boot(clean=True)
    slot.send("plain", value=Number(n=4))
    await slot.settle()
    assert slot.commit()
    assert slot.output() == {"n": 5}
    assert slot.result().outcome is Outcome.SUCCEEDED
    assert slot.log.journal == []
    assert slot.log.offsets[TOPICS.tasks] == 1
    assert not slot.commit()
    assert slot.machine.idle()


@check
async def test_a_long_task_is_accepted_after_20_ms_and_forgotten_with_its_result(
    world: World, slot: FakeSlot
) -> None:
    slot.boot(clean=True)
    slot.send("waits", "a")
    await slot.settle()
    assert not slot.commit()
    await asyncio.sleep(0.021)
    assert slot.commit()
    assert isinstance(slot.journal["r/a"], Accepted)
    assert slot.log.offsets[TOPICS.tasks] == 1
    world.gate.set()
    await slot.work()
    assert slot.journal == {}
    assert slot.result("a").outcome is Outcome.SUCCEEDED


@check
async def test_what_stands_before_a_closed_record_is_accepted_with_it(
    world: World, slot: FakeSlot
) -> None:
    slot.boot(clean=True)
    slot.send("waits", "a", deliver=False)
    slot.send("plain", "b", deliver=False)
    slot.send("waits", "c")
    await slot.settle()
    assert slot.commit()
    assert set(slot.journal) == {"r/a"}
    assert slot.log.offsets[TOPICS.tasks] == 2


@check
async def test_steps_run_once_whatever_commit_a_crash_hits() -> None:
    for crash_at in range(8):
        for keep in (False, True):
            world = World()
            slot = FakeSlot(worker(world))
            slot.boot(clean=True)
            slot.send("steps", value=Number(n=1))
            crashes = 0
            for _ in range(40):
                await slot.settle()
                if not slot.collect():
                    break
                if slot.log.commits == crash_at and not crashes:
                    crashes += 1
                    committed = {k for k in slot.journal if "/step/" in k}
                    bodies = len(world.seen)
                    slot.crash(keep=keep)
                    await slot.settle()
                    assert len(world.seen) == bodies
                    slot.boot()
                    again = {k for k in slot.journal if "/step/" in k}
                    assert committed <= again or slot.results
                else:
                    slot.acknowledge()
            assert slot.output() == {"n": 4}, (crash_at, keep)
            assert slot.journal == {}
            lost = 1 if crashes and not keep and crash_at < 3 else 0
            assert len(world.seen) <= 3 + lost, (crash_at, keep, world.seen)


@check
async def test_a_failed_attempt_keeps_its_steps_for_the_next() -> None:
    world = World()
    slot = FakeSlot(worker(world, retry=Retry(never=(ValueError,))))
    slot.boot(clean=True)
    slot.send("fails")
    await slot.work()
    failure = slot.result().failure
    assert failure is not None
    assert (failure.kind, failure.error_class, failure.message) == (
        FailureKind.ERROR,
        "ValueError",
        "no luck",
    )
    assert not failure.retryable
    assert "workers.py" in failure.traceback
    assert "execution.py" not in failure.traceback
    assert slot.journal["r/t"] == Failed(1, None, 0)
    slot.crash()
    slot.boot()
    slot.send("fails", attempt=1)  # an older attempt: dropped
    slot.send("fails", attempt=2)
    await slot.work()
    assert slot.result(attempt=2).outcome is Outcome.SUCCEEDED
    assert world.seen == [("body", 1, 1)]
    assert slot.journal == {}


@check
async def test_a_timeout_fails_the_attempt_and_may_be_tried_again(slot: FakeSlot) -> None:
    slot.boot(clean=True)
    slot.send("waits", timeout_ms=1500)
    await slot.work(seconds=1.4)
    assert slot.results == []
    await slot.work(seconds=0.2)
    failure = slot.result().failure
    assert failure is not None
    assert (failure.kind, failure.retryable) == (FailureKind.TIMEOUT, True)
    assert slot.result().outcome is Outcome.FAILED


@check
async def test_an_unclean_end_counts_resumes_before_anything_starts(
    world: World, slot: FakeSlot
) -> None:
    slot.boot(clean=True)
    slot.send("waits", "a")
    await slot.work(seconds=0.1)
    slot.crash()
    slot.boot()
    slot.send("plain", "b")
    await slot.settle()
    assert world.seen == [("waits", "a", 1)]
    slot.collect()
    await slot.settle()
    assert world.seen == [("waits", "a", 1)]
    slot.acknowledge()
    assert slot.journal["r/a"].resumes == 1
    await slot.settle()
    assert world.seen == [("waits", "a", 1)] * 2
    slot.commit()  # on probation: accepted before it starts
    assert isinstance(slot.journal["r/b"], Accepted)
    await slot.settle()
    assert world.seen[-1] == ("plain", "b", 1)


@check
async def test_a_handler_that_kills_its_process_is_poison_after_three_deaths_alone() -> None:
    world = World()
    slot = FakeSlot(killer(world))
    died = asyncio.Event()
    world.crash = died.set
    slot.boot(clean=True)
    slot.send("kill", "k")
    slot.send("neighbour", "n")
    for _ in range(10):
        await slot.work(died.is_set, seconds=300)
        if not died.is_set():
            break
        died.clear()
        slot.crash()
        slot.boot()
    # one start not yet accepted, two beside others, three alone
    assert world.seen.count("kill") in (5, 6)
    failure = slot.result("k").failure
    assert failure is not None
    assert (failure.kind, failure.retryable) == (FailureKind.POISON, False)
    assert slot.result("n").outcome is Outcome.SUCCEEDED
    assert set(slot.journal) == {"r/k"}


@check
async def test_a_suspect_runs_alone_and_shares_again_after_its_next_step() -> None:
    world = World()
    agent = Agent("worker", concurrency=4)

    @agent.task
    async def suspect(ctx: Context) -> None:
        world.seen.append("suspect")
        await world.gate.wait()
        await ctx.step("past", len, "abc")
        await asyncio.sleep(100)

    @agent.task
    async def other(ctx: Context) -> None:
        world.seen.append("other")

    slot = FakeSlot(agent)
    slot.boot(clean=True)
    slot.send("suspect", "s")
    await slot.work(seconds=0.1)
    for _ in range(2):
        slot.crash()
        slot.boot()
        await slot.work(seconds=0.1)
    assert slot.journal["r/s"].alone
    slot.send("other", "o")
    await slot.work(seconds=1)
    assert world.seen == ["suspect"] * 3
    world.gate.set()
    await slot.work(seconds=1)
    assert world.seen[-1] == "other"
    slot.crash()
    slot.boot()
    await slot.work(seconds=0.1)
    assert slot.journal["r/s"].strikes == 0
    assert slot.journal["r/s"].resumes_since_step == 1


@check
async def test_an_undecodable_record_is_buried_whole_and_answered(slot: FakeSlot) -> None:
    slot.boot(clean=True)
    headers = (
        ("holdfast-run", b"r"),
        ("holdfast-task", b"t"),
        ("holdfast-attempt", b"3"),
        ("holdfast-reply-key", b"r"),
    )
    slot.append(TOPICS.tasks, b"\0\0\0\0\x01junk", headers)
    slot.append(TOPICS.tasks, b"junk")
    slot.deliver()
    assert slot.commit()
    letters = [
        decode(DeadLetter, r.value or b"")
        for r in slot.log.written
        if r.topic == TOPICS.dead_letters
    ]
    assert [letter.source.value for letter in letters if letter.source] == [
        b"\0\0\0\0\x01junk",
        b"junk",
    ]
    answer = next(dict(r.headers) for r in slot.log.written if r.topic == TOPICS.coordinator)
    assert answer["holdfast-dead-letter"] == letters[0].dead_letter_id.encode()
    failure = slot.result("t", 3).failure
    assert failure is not None
    assert (failure.kind, failure.retryable) == (FailureKind.UNDECODABLE, False)
    assert slot.log.offsets[TOPICS.tasks] == 2


@check
async def test_an_input_that_does_not_fit_and_a_task_nobody_has(slot: FakeSlot) -> None:
    slot.boot(clean=True)

    class Wrong(BaseModel):
        n: str = "x"

    slot.send("plain", "a", value=Wrong())
    slot.send("nothing", "b")
    await slot.work()
    kinds = {r.task_id: r.failure.kind for r in slot.results if r.failure}
    assert kinds == {"a": FailureKind.SCHEMA, "b": FailureKind.UNKNOWN_TASK}


@check
async def test_an_abandoned_slot_keeps_what_runs_and_tells_nobody(
    world: World, slot: FakeSlot
) -> None:
    slot.boot(clean=True)
    slot.send("waits", "a")
    await slot.work(seconds=0.1)
    slot.machine.quiesce()
    slot.send("plain", "b")
    slot.machine.abandon()
    await slot.work()
    assert slot.machine.idle()
    assert slot.results == []
    assert set(slot.journal) == {"r/a"}
    slot.machine.lost()
    world.gate.set()
    slot.boot(clean=True)
    await slot.work()
    assert slot.journal == {}
    assert slot.result("a").resumes == 0
    assert {r.task_id for r in slot.results} == {"a", "b"}


@check
async def test_a_handler_that_cancels_something_of_its_own_has_failed() -> None:
    agent = Agent("worker")

    @agent.task
    async def odd(ctx: Context) -> None:
        other = asyncio.create_task(asyncio.sleep(100))
        asyncio.get_running_loop().call_soon(other.cancel)
        await other

    @agent.task
    async def leaves(ctx: Context) -> None:
        raise SystemExit(3)

    slot = FakeSlot(agent)
    slot.boot(clean=True)
    slot.send("odd", "a")
    slot.send("leaves", "b")
    await slot.work(seconds=1)
    failures = {r.task_id: r.failure.error_class for r in slot.results if r.failure}
    assert failures == {"a": "CancelledError", "b": "SystemExit"}


@check
async def test_resumes_after_a_crash_inside_each_commit_leave_offsets_consistent() -> None:
    """Twenty tasks, a crash at every commit in turn: each is answered once, none is lost."""
    for crash_at in range(1, 12):
        world = World()
        slot = FakeSlot(worker(world))
        slot.boot(clean=True)
        for index in range(20):
            slot.send("steps" if index % 2 else "plain", f"t{index}", deliver=False)
        slot.deliver()
        crashed = False
        for _ in range(400):
            await slot.settle(5)
            if not slot.collect():
                if slot.machine.idle():
                    break
                continue
            if slot.log.commits == crash_at and not crashed:
                crashed = True
                slot.crash(keep=bool(crash_at % 2))
                slot.boot()
            else:
                slot.acknowledge()
        for index in range(20):
            assert slot.result(f"t{index}").outcome is Outcome.SUCCEEDED
        assert slot.journal == {}
        assert slot.log.offsets[TOPICS.tasks] == 20
