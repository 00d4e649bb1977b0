"""Handlers that wait for an answer while something else of them is under way: nothing of it is cut
off, done twice, or left behind."""

from __future__ import annotations

import asyncio
import threading
import time

from holdfast.agents import Agent, CallFailed, Context, SyncContext
from holdfast.agents.ledger import Phase
from holdfast.agents.runs import GRACE_S
from holdfast.agents.threads import HandlerThreads
from holdfast.schemas import encode
from holdfast.schemas.records import (
    Ask,
    ControlAction,
    ControlEnvelope,
    FailureKind,
    Outcome,
    Reply,
    StepEntry,
    StepKind,
)
from tests.unit.agents.fake_slot import TOPICS, FakeSlot
from tests.unit.agents.workers import Number, check

DAY_S = 86_400
ENOUGH_S = 12.0
"""Longer than a handler rests before it sleeps."""


def answer(slot: FakeSlot, name: str, result: bytes = b"\0\0\0\0\0null") -> None:
    control = ControlEnvelope("r", "t", 1, ControlAction.REPLY, name, "r", 0)
    control.reply = Reply(name, "", result, None)
    slot.append(TOPICS.control, encode(control))
    slot.deliver()


def asks(slot: FakeSlot) -> list[str]:
    bodies = [body for body in slot._coordinator() if isinstance(body, Ask)]
    return [body.name for body in bodies]


async def pass_time(slot: FakeSlot, seconds: float) -> None:
    """As `FakeSlot.work`, in few steps."""
    loop = asyncio.get_running_loop()
    end_s = loop.time() + seconds
    while loop.time() < end_s:
        await slot.settle(10)
        slot.commit()
        await asyncio.sleep(0.25)
    await slot.settle(10)
    slot.commit()


class Scene:
    """One agent, and a gate at which the second half of its handlers waits."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.gate = asyncio.Event()
        self.slot = FakeSlot(self._agent())
        self.slot.boot(clean=True)

    async def note(self, name: str) -> str:
        self.seen.append(name)
        return name

    def _agent(self) -> Agent:
        agent = Agent("worker", concurrency=4)

        @agent.task
        async def steps(ctx: Context, number: Number) -> Number:
            async def work() -> None:
                await self.gate.wait()
                await ctx.step("a", self.note, "a")
                await ctx.step("b", self.note, "b")
                await ctx.sleep("other", 5)

            await asyncio.gather(ctx.sleep("long", DAY_S), work())
            return number

        @agent.task
        async def calls(ctx: Context, number: Number) -> Number:
            async def work() -> None:
                await self.gate.wait()
                await ctx.call("other.task", {"n": 1}, name="other")

            await asyncio.gather(ctx.sleep("long", DAY_S), work())
            return number

        @agent.task
        async def impatient(ctx: Context, number: Number) -> Number:
            async def work() -> None:
                await self.gate.wait()
                try:
                    async with asyncio.timeout(0.05):
                        await ctx.step("a", self.note, "a")
                except TimeoutError:
                    self.seen.append("gave up")

            await asyncio.gather(ctx.sleep("long", DAY_S), work())
            return number

        return agent

    async def half_way(self, task: str) -> None:
        """The first ask is committed; the commit of what comes after it is under way."""
        self.slot.send(task)
        await self.slot.work(lambda: asks(self.slot) == ["long"], 1)
        await self.slot.settle()
        self.gate.set()
        await self.slot.settle()
        assert self.slot.under_way is not None or self.slot.collect()

    @property
    def phase(self) -> Phase:
        (entry,) = self.slot.machine._ledger.book
        return entry.phase


@check
async def test_who_waits_for_a_commit_does_not_rest_whatever_else_it_waits_for() -> None:
    scene = Scene()
    await scene.half_way("steps")
    await asyncio.sleep(ENOUGH_S)  # the bus is away
    assert scene.phase is Phase.RUNNING
    scene.slot.acknowledge()
    await scene.slot.work(seconds=0.5)
    assert scene.seen == ["a", "b"]
    await pass_time(scene.slot, ENOUGH_S)
    assert scene.phase is Phase.ASLEEP, "now it only waits"


@check
async def test_what_was_under_way_at_a_stop_goes_on_after_it() -> None:
    scene = Scene()
    await scene.half_way("steps")
    await asyncio.sleep(0.03)
    scene.slot.machine.quiesce()
    await scene.slot.settle()
    scene.slot.acknowledge()
    await pass_time(scene.slot, 1)
    scene.slot.crash()
    scene.slot.boot(clean=True)
    await scene.slot.work(seconds=0.5)
    assert scene.seen == ["a", "b"]


@check
async def test_a_step_is_not_run_again_by_who_is_woken_before_it_is_committed() -> None:
    scene = Scene()
    await scene.half_way("steps")
    answer(scene.slot, "long")
    await asyncio.sleep(ENOUGH_S)
    scene.slot.acknowledge()
    await pass_time(scene.slot, 30)
    assert scene.seen == ["a", "b"]


@check
async def test_an_ask_is_not_sent_again_by_who_is_woken_before_it_is_committed() -> None:
    scene = Scene()
    await scene.half_way("calls")
    answer(scene.slot, "long")
    await asyncio.sleep(ENOUGH_S)
    scene.slot.acknowledge()
    await pass_time(scene.slot, 1)
    assert asks(scene.slot) == ["long", "other"]


@check
async def test_a_step_that_its_handler_gave_up_wakes_it_once_it_is_written() -> None:
    scene = Scene()
    await scene.half_way("impatient")
    await asyncio.sleep(ENOUGH_S)
    assert scene.seen == ["a", "gave up"]
    scene.slot.acknowledge()
    await pass_time(scene.slot, 1)
    assert scene.phase is Phase.RUNNING, "only it knows what comes after the step"
    answer(scene.slot, "long")
    await pass_time(scene.slot, 1)
    assert scene.seen == ["a", "gave up"], "the step is found"
    assert scene.slot.result().outcome is Outcome.SUCCEEDED


@check
async def test_after_its_own_time_out_a_handler_has_a_place_and_its_time_runs() -> None:
    agent = Agent("worker", concurrency=1)
    taken: list[int] = []

    async def plainly(ctx: Context, seconds: float) -> None:
        try:
            async with asyncio.timeout(5):
                await ctx.sleep("long", DAY_S)
        except TimeoutError:
            taken.append(slot.places.taken)
        await asyncio.sleep(seconds)

    @agent.task
    async def goes_on(ctx: Context, number: Number) -> Number:
        await plainly(ctx, 8)
        return number

    @agent.task
    async def hangs(ctx: Context, number: Number) -> Number:
        await plainly(ctx, 800)
        return number

    slot = FakeSlot(agent)
    slot.boot(clean=True)
    slot.send("goes_on")
    await pass_time(slot, 30)
    assert taken == [1]
    assert slot.result().outcome is Outcome.SUCCEEDED
    slot.send("hangs", "t2", timeout_ms=60_000)
    await pass_time(slot, 100)
    failure = slot.result("t2").failure
    assert failure is not None
    assert failure.kind is FailureKind.TIMEOUT


@check
async def test_who_got_a_place_for_what_it_gave_up_gives_it_back() -> None:
    agent = Agent("worker", concurrency=1)
    gate = asyncio.Event()

    @agent.task
    async def two(ctx: Context, number: Number) -> Number:
        async def short() -> None:
            try:
                async with asyncio.timeout(7):
                    await ctx.sleep("short", 5)
            except TimeoutError:
                await ctx.sleep("third", DAY_S)

        await asyncio.gather(ctx.sleep("long", DAY_S), short())
        return number

    @agent.task
    async def takes(ctx: Context, number: Number) -> Number:
        await gate.wait()
        return number

    slot = FakeSlot(agent)
    slot.boot(clean=True)
    slot.send("two")
    await pass_time(slot, 1)
    slot.send("takes", "t2")
    await pass_time(slot, 1)
    assert slot.places.taken == 1
    answer(slot, "short")  # it rises, but there is no place; its time-out comes first
    await pass_time(slot, 8)
    gate.set()
    await pass_time(slot, 3)
    assert slot.result("t2").outcome is Outcome.SUCCEEDED
    assert slot.places.taken == 0, "all that is left of the other are asks"


@check
async def test_what_a_handler_leaves_behind_does_not_wait_for_ever() -> None:
    agent = Agent("worker", concurrency=4)
    left: list[asyncio.Task[None]] = []

    @agent.task
    async def fails(ctx: Context, number: Number) -> Number:
        waits = asyncio.ensure_future(ctx.sleep("long", DAY_S))
        left.append(waits)
        for _ in range(number.n):
            await asyncio.sleep(0)
        raise ValueError

    slot = FakeSlot(agent)
    slot.boot(clean=True)
    for n in range(30):  # before the ask is sent, while it is, and after
        slot.send("fails", f"t{n}", value=Number(n=n))
        await pass_time(slot, 0.1)
    assert len(slot.results) == 30
    assert all(task.done() for task in left)
    assert not len(slot.machine._commits)
    assert not slot.machine.resting._rested


def test_a_cancel_counts_that_comes_while_a_thread_winds_up_for_its_sleep() -> None:
    entered, go_on = threading.Event(), threading.Event()
    agent = Agent("worker", concurrency=2)

    @agent.task
    def nap(ctx: SyncContext, number: Number) -> Number:
        try:
            ctx.sleep("nap", DAY_S)
        finally:
            entered.set()
            go_on.wait(GRACE_S - 1)
        return number

    async def scene() -> None:
        slot = FakeSlot(agent, threads=HandlerThreads("worker", 2))
        slot.boot(clean=True)
        slot.send("nap")
        until_s = time.monotonic() + 40
        while not entered.is_set() and time.monotonic() < until_s:
            slot.commit()
            await asyncio.sleep(0.01)
        assert entered.is_set()
        await slot.settle()
        slot.tell(ControlAction.CANCEL)
        await slot.settle()
        go_on.set()
        while not slot.results and time.monotonic() < until_s:
            slot.commit()
            await asyncio.sleep(0.01)
        assert slot.result().outcome is Outcome.CANCELLED

    asyncio.run(asyncio.wait_for(scene(), 60))


@check
async def test_who_sleeps_keeps_those_behind_it_from_filling_the_slot() -> None:
    agent = Agent("worker", concurrency=4)

    @agent.task
    async def naps(ctx: Context, number: Number) -> Number:
        await ctx.sleep("long", DAY_S)
        return number

    slot = FakeSlot(agent)
    slot.boot(clean=True)
    slot.send("naps", order_key="K")
    await pass_time(slot, ENOUGH_S)
    for n in range(520):
        slot.send("naps", f"n{n}", order_key="K", deliver=False)
    slot.deliver()
    await pass_time(slot, 1)
    assert not slot.machine.congested(), "what wakes it may stand behind them"
    answer(slot, "long")
    await pass_time(slot, 0.1)
    assert slot.machine.congested(), "now they wait for their turn"


@check
async def test_an_answer_that_the_journal_does_not_take_is_a_failure_of_its_ask() -> None:
    agent = Agent("worker", concurrency=4)

    @agent.task
    async def asks_much(ctx: Context, number: Number) -> Number:
        try:
            await ctx.wait_for("much")
        except CallFailed as failed:
            return Number(n=7 if failed.failure.kind is FailureKind.TOO_LARGE else 0)
        return number

    slot = FakeSlot(agent)
    slot.refuse = lambda record: len(record.value or b"") > 5_000
    slot.boot(clean=True)
    slot.send("asks_much")
    await pass_time(slot, ENOUGH_S)
    answer(slot, "much", b"\0\0\0\0\0" + b"x" * 6_000)
    await pass_time(slot, 1)
    assert slot.output() == {"n": 7}
    assert slot.log.offsets[TOPICS.control] == 1


@check
async def test_an_answer_too_large_is_a_failure_between_two_attempts_too() -> None:
    agent = Agent("worker", concurrency=4)

    @agent.task
    async def fails(ctx: Context, number: Number) -> Number:
        waits = asyncio.ensure_future(ctx.wait_for("much"))
        await asyncio.wait({waits}, timeout=1)
        raise ValueError

    slot = FakeSlot(agent)
    slot.refuse = lambda record: len(record.value or b"") > 5_000
    slot.boot(clean=True)
    slot.send("fails")
    await pass_time(slot, 2)
    assert slot.result().outcome is Outcome.FAILED
    answer(slot, "much", b"\0\0\0\0\0" + b"x" * 6_000)
    await pass_time(slot, 1)
    step = slot.journal["r/t/step/much/"]
    assert isinstance(step, StepEntry)
    assert (step.kind, step.result) == (StepKind.ANSWER, None)
    assert step.failure is not None
    assert step.failure.kind is FailureKind.TOO_LARGE


@check
async def test_no_attempt_begins_beside_a_body_that_outlives_its_cancel_at_rest() -> None:
    agent = Agent("worker", concurrency=4)
    at_work: list[int] = []
    most: list[int] = []

    @agent.task
    async def clings(ctx: Context, number: Number) -> Number:
        at_work.append(ctx.attempt)
        most.append(len(at_work))
        try:
            await ctx.sleep("long", DAY_S)
        finally:
            try:
                await asyncio.sleep(GRACE_S * 4)
            finally:
                at_work.remove(ctx.attempt)
        return number

    slot = FakeSlot(agent)
    slot.boot(clean=True)
    slot.send("clings")
    await pass_time(slot, 1)
    assert slot.places.resting == 1
    slot.tell(ControlAction.CANCEL)
    await pass_time(slot, GRACE_S + 1)
    assert slot.result().outcome is Outcome.CANCELLED
    assert (slot.places.taken, slot.places.stuck, slot.places.resting) == (1, 1, 0)
    slot.send("clings", attempt=2)
    await pass_time(slot, 1)
    assert at_work == [1]
    await pass_time(slot, GRACE_S * 4)
    assert at_work == [2]
    assert max(most) == 1
    assert slot.places.resting == 1
