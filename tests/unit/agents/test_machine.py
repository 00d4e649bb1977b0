"""A slot of an agent from record to result, on a fake slot under a virtual clock."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from pydantic import BaseModel
from tests.unit.agents.fake_slot import TOPICS, FakeSlot
from tests.unit.agents.virtual import run_virtual

from holdfast.agents import Agent, Context, EffectNotApplied, Fatal, Retry
from holdfast.bus.port import Record
from holdfast.schemas import decode
from holdfast.schemas.records import (
    Accepted,
    Cancelled,
    ControlAction,
    DeadLetter,
    Failed,
    FailureKind,
    Outcome,
    StepKind,
)


class Number(BaseModel):
    n: int = 0


class Text(BaseModel):
    text: str


CANCEL, RELEASE = ControlAction.CANCEL, ControlAction.RELEASE


class World:
    """What handlers of one test did, and what holds them up."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.gate = asyncio.Event()
        self.crash: Callable[[], None] | None = None


def worker(world: World, **task_options: Any) -> Agent:
    agent = Agent("worker", concurrency=4)

    async def add(a: int, b: int) -> int:
        world.seen.append(("body", a, b))
        return a + b

    @agent.task(**task_options)
    async def plain(ctx: Context, number: Number) -> Number:
        world.seen.append(("plain", ctx.task_id, ctx.attempt))
        return Number(n=number.n + 1)

    @agent.task(**task_options)
    async def waits(ctx: Context, number: Number) -> Number:
        world.seen.append(("waits", ctx.task_id, ctx.attempt))
        await world.gate.wait()
        return number

    @agent.task(**task_options)
    async def steps(ctx: Context, number: Number) -> Number:
        one = await ctx.step("one", add, number.n, 1)
        two = await ctx.step("two", add, one, 1)
        return Number(n=await ctx.step("three", add, two, 1))

    @agent.task(**task_options)
    async def fails(ctx: Context, number: Number) -> Number:
        await ctx.step("kept", add, 1, 1)
        if ctx.attempt == 1:
            raise ValueError("no luck")
        return number

    return agent


def check(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Make a coroutine a test that runs under the virtual clock."""

    def run() -> None:
        run_virtual(test)

    run.__name__ = test.__name__
    run.__doc__ = test.__doc__
    return run


@check
async def test_a_short_task_costs_one_commit_and_no_journal_record() -> None:
    slot = FakeSlot(worker(World()))
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
async def test_a_long_task_is_accepted_after_20_ms_and_forgotten_with_its_result() -> None:
    world = World()
    slot = FakeSlot(worker(world))
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
async def test_what_stands_before_a_closed_record_is_accepted_with_it() -> None:
    world = World()
    slot = FakeSlot(worker(world))
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
    slot = FakeSlot(worker(world, retry=Retry(non_retryable=(ValueError,))))
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
    assert "test_machine.py" in failure.traceback
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
async def test_release_leaves_no_key() -> None:
    slot = FakeSlot(worker(World()))
    slot.boot(clean=True)
    slot.send("fails")
    await slot.work()
    assert len(slot.journal) == 2
    slot.tell(RELEASE)
    await slot.work()
    assert slot.journal == {}


@check
async def test_cancel_of_a_running_task_is_answered_once() -> None:
    world = World()
    slot = FakeSlot(worker(world))
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
async def test_a_cancel_is_read_again_after_a_crash_before_its_end() -> None:
    slot = FakeSlot(worker(World()))
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
async def test_cancel_before_the_record_is_answered_and_the_record_dropped() -> None:
    world = World()
    slot = FakeSlot(worker(world))
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
async def test_a_release_before_the_cancelled_record_leaves_nothing_once_it_comes() -> None:
    slot = FakeSlot(worker(World()))
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
async def test_a_cancel_whose_record_never_comes_is_forgotten_after_7_days() -> None:
    slot = FakeSlot(worker(World()))
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
async def test_a_timeout_fails_the_attempt_and_may_be_tried_again() -> None:
    slot = FakeSlot(worker(World()))
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
async def test_an_order_key_stays_closed_until_the_last_attempt_has_ended() -> None:
    world = World()
    slot = FakeSlot(worker(world))
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
async def test_release_opens_the_order_key() -> None:
    slot = FakeSlot(worker(World()))
    slot.boot(clean=True)
    slot.send("fails", "a", order_key="k")
    slot.send("plain", "b", order_key="k")
    await slot.work()
    slot.tell(RELEASE, "a")
    await slot.work()
    assert [r.task_id for r in slot.results] == ["a", "b"]


@check
async def test_loose_order_lets_others_pass_while_one_retries() -> None:
    slot = FakeSlot(worker(World()))
    slot.boot(clean=True)
    slot.send("fails", "a", order_key="k", loose_order=True)
    slot.send("plain", "b", order_key="k", loose_order=True)
    await slot.work()
    assert [r.task_id for r in slot.results] == ["a", "b"]


@check
async def test_a_full_slot_still_reads_the_attempt_that_its_tasks_wait_for() -> None:
    slot = FakeSlot(worker(World()))
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
async def test_an_unclean_end_counts_resumes_before_anything_starts() -> None:
    world = World()
    slot = FakeSlot(worker(world))
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


def killer(world: World) -> Agent:
    agent = Agent("worker", concurrency=4)

    @agent.task
    async def kill(ctx: Context) -> None:
        world.seen.append("kill")
        assert world.crash is not None
        world.crash()

    @agent.task
    async def neighbour(ctx: Context) -> None:
        world.seen.append("neighbour")
        await asyncio.sleep(60)

    return agent


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


@pytest.mark.parametrize(
    ("settle", "calls"),
    [
        ("park", ["post"]),
        ("reconcile", ["post", "find"]),
        ("not applied", ["post", "find", "post"]),
        ("idempotent", ["post", "post"]),
    ],
)
def test_an_effect_found_open_is_parked_settled_or_repeated(settle: str, calls: list[str]) -> None:
    run_virtual(lambda: _effect_found_open(settle, calls))


async def _effect_found_open(settle: str, calls: list[str]) -> None:
    world = World()
    agent = Agent("worker")

    async def post(what: str, *, idempotency_key: str) -> str:
        world.seen.append(("post", idempotency_key))
        await world.gate.wait()
        return what

    async def find(what: str, *, idempotency_key: str) -> str:
        world.seen.append(("find", idempotency_key))
        if settle == "not applied":
            raise EffectNotApplied("never arrived")
        return "found"

    @agent.task
    async def notify(ctx: Context) -> Number:
        extra: dict[str, Any] = {"idempotent": True} if settle == "idempotent" else {}
        if settle in ("reconcile", "not applied"):
            extra = {"reconcile": find}
        return Number(n=len(await ctx.effect("tell", post, "hello", **extra)))

    slot = FakeSlot(agent)
    slot.boot(clean=True)
    slot.send("notify")
    await slot.settle()
    assert world.seen == []  # the intent comes first
    slot.commit()
    assert slot.journal["r/t/step/tell/"].kind is StepKind.INTENT
    await slot.settle()
    key = hashlib.sha256(b"r/t/tell/").hexdigest()
    assert world.seen == [("post", key)]
    slot.crash()
    world.gate.set()
    slot.boot()
    await slot.work(seconds=0.1)
    assert [what for what, _ in world.seen] == calls
    assert {k for _, k in world.seen} == {key}
    if settle == "park":
        failure = slot.result().failure
        assert failure is not None
        assert (failure.kind, failure.retryable) == (FailureKind.OUTCOME_UNKNOWN, False)
    else:
        assert slot.output() == {"n": 5}


@check
async def test_a_mismatch_parks_with_a_diff_even_if_the_handler_catches_it() -> None:
    world = World()
    agent = Agent("worker")

    async def read(path: str) -> str:
        return path

    @agent.task
    async def drifts(ctx: Context) -> Number:
        try:
            await ctx.step("read", read, f"file-{len(world.seen)}")
        except Exception:
            world.seen.append("caught")
        await world.gate.wait()
        return Number()

    slot = FakeSlot(agent)
    slot.boot(clean=True)
    slot.send("drifts")
    await slot.work(seconds=0.1)
    slot.crash()
    world.seen.append("another listing")
    world.gate.set()
    slot.boot()
    await slot.work(seconds=0.1)
    failure = slot.result().failure
    assert failure is not None
    assert (failure.kind, failure.retryable) == (FailureKind.MISMATCH, False)
    assert "- journaled in attempt 1: sha256" in failure.message
    assert "file-1" in failure.message
    assert world.seen == ["another listing", "caught"]


@check
async def test_a_resume_that_skips_a_journaled_step_is_a_mismatch() -> None:
    world = World()
    agent = Agent("worker")

    @agent.task
    async def skips(ctx: Context) -> Number:
        if not world.seen:
            await ctx.step("first", len, "abc")
        await world.gate.wait()
        return Number()

    slot = FakeSlot(agent)
    slot.boot(clean=True)
    slot.send("skips")
    await slot.work(seconds=0.1)
    slot.crash()
    world.seen.append("changed")
    world.gate.set()
    slot.boot()
    await slot.work(seconds=0.1)
    failure = slot.result().failure
    assert failure is not None
    assert failure.kind is FailureKind.MISMATCH
    assert "'first'" in failure.message


@check
async def test_ownership_is_proven_before_each_body() -> None:
    world = World()
    slot = FakeSlot(worker(world))
    slot.boot(clean=True)
    slot.control.before_proof = lambda: world.seen.append("proof")
    slot.send("steps", value=Number(n=0))
    await slot.work()
    assert [word[0] if isinstance(word, tuple) else word for word in world.seen] == [
        "proof",
        "body",
    ] * 3


@check
async def test_parallel_steps_gather_in_one_commit() -> None:
    agent = Agent("worker")

    async def double(n: int) -> int:
        return 2 * n

    @agent.task
    async def fan(ctx: Context) -> Number:
        found = await asyncio.gather(
            *(ctx.step("double", double, n, key=str(n)) for n in range(20))
        )
        return Number(n=sum(found))

    slot = FakeSlot(agent)
    slot.boot(clean=True)
    slot.send("fan")
    await slot.work()
    assert slot.output() == {"n": 380}
    assert slot.log.commits == 2
    assert len(slot.result().steps) == 20


@check
async def test_what_is_published_stands_in_the_commit_of_the_success() -> None:
    agent = Agent("worker")

    @agent.task
    async def tells(ctx: Context) -> None:
        ctx.publish("reviews", key="k", value={"stars": 5})
        ctx.progress("half", 0.5)
        ctx.progress("nearly", 0.9)
        await asyncio.sleep(2)
        if ctx.attempt == 1:
            raise Fatal("no")

    slot = FakeSlot(agent)
    slot.boot(clean=True)
    slot.send("tells")
    await slot.work(seconds=3)
    assert not [r for r in slot.log.written if r.topic == "reviews"]
    assert [(p.message, p.fraction) for p in slot.progress] == [("nearly", 0.9)]
    failure = slot.result().failure
    assert failure is not None
    assert not failure.retryable
    slot.send("tells", attempt=2)
    await slot.work(seconds=3)
    published = [r for r in slot.log.written if r.topic == "reviews"]
    assert published == [Record("reviews", b"k", b'{"stars":5}')]
    assert slot.log.written[-1].topic == TOPICS.coordinator


@pytest.mark.parametrize("topic", ["reviews", "journal"])
def test_a_record_that_the_bus_refuses_fails_its_task_alone(topic: str) -> None:
    run_virtual(lambda: _refused(topic))


async def _refused(topic: str) -> None:
    agent = Agent("worker")

    @agent.task
    async def tells(ctx: Context) -> None:
        ctx.publish("reviews", value=b"A" * 100)
        await ctx.step("big", lambda: "A" * 100)

    @agent.task
    async def fine(ctx: Context) -> None:
        return None

    slot = FakeSlot(agent)
    slot.refuse = lambda record: record.topic == topic and b"AAAA" in (record.value or b"")
    slot.boot(clean=True)
    slot.send("tells", "a")
    slot.send("fine", "b")
    await slot.work()
    failure = slot.result("a").failure
    assert failure is not None
    assert failure.kind is FailureKind.TOO_LARGE
    assert slot.result("b").outcome is Outcome.SUCCEEDED
    slot.tell(RELEASE, "a")
    await slot.work()
    assert slot.journal == {}
    assert slot.machine.idle()


@check
async def test_an_undecodable_record_is_buried_whole_and_answered() -> None:
    slot = FakeSlot(worker(World()))
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
    failure = slot.result("t", 3).failure
    assert failure is not None
    assert (failure.kind, failure.retryable) == (FailureKind.UNDECODABLE, False)
    assert slot.log.offsets[TOPICS.tasks] == 2


@check
async def test_an_input_that_does_not_fit_and_a_task_nobody_has() -> None:
    slot = FakeSlot(worker(World()))
    slot.boot(clean=True)

    class Wrong(BaseModel):
        n: str = "x"

    slot.send("plain", "a", value=Wrong())
    slot.send("nothing", "b")
    await slot.work()
    kinds = {r.task_id: r.failure.kind for r in slot.results if r.failure}
    assert kinds == {"a": FailureKind.SCHEMA, "b": FailureKind.UNKNOWN_TASK}


@check
async def test_an_abandoned_slot_keeps_what_runs_and_tells_nobody() -> None:
    world = World()
    slot = FakeSlot(worker(world))
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
async def test_a_large_output_goes_by_reference() -> None:
    agent = Agent("worker")

    @agent.task
    async def write(ctx: Context) -> Text:
        text = await ctx.step("make", lambda: "x" * 600_000)
        return Text(text=text)

    slot = FakeSlot(agent)
    slot.boot(clean=True)
    slot.send("write")
    await slot.work()
    assert len(slot.blobs.blobs) == 2
    assert all(len(record.value or b"") < 1000 for record in slot.log.written)


@check
async def test_a_task_of_thousands_of_steps_is_forgotten_bit_by_bit() -> None:
    agent = Agent("worker")

    @agent.task
    async def many(ctx: Context) -> None:
        await asyncio.gather(*(ctx.step("s", len, "abc", key=str(n)) for n in range(450)))

    slot = FakeSlot(agent)
    slot.boot(clean=True)
    slot.send("many")
    await slot.work()
    assert slot.journal == {}
    assert slot.result().outcome is Outcome.SUCCEEDED


@check
async def test_two_uses_of_one_step_are_an_error() -> None:
    agent = Agent("worker")

    @agent.task
    async def twice(ctx: Context) -> None:
        await ctx.step("s", len, "abc")
        await ctx.step("s", len, "abc")

    slot = FakeSlot(agent)
    slot.boot(clean=True)
    slot.send("twice")
    await slot.work()
    failure = slot.result().failure
    assert failure is not None
    assert failure.error_class == "DuplicateStep"
    assert not failure.retryable


@check
async def test_a_release_of_an_end_that_is_being_committed_waits_for_it() -> None:
    slot = FakeSlot(worker(World()))
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
async def test_the_next_attempt_can_come_before_the_end_of_the_last_is_acknowledged() -> None:
    slot = FakeSlot(worker(World()))
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
