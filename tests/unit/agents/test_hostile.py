"""What handlers and foreign producers may bring: it costs a task or a record, never the slot."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from holdfast.agents import Agent, Context, SyncContext
from holdfast.bus.port import Record
from holdfast.schemas import decode, encode
from holdfast.schemas.records import (
    Accepted,
    ControlAction,
    ControlEnvelope,
    DeadLetter,
    FailureKind,
    Outcome,
    StepEntry,
    TaskResult,
)
from tests.unit.agents.fake_slot import TOPICS, FakeSlot
from tests.unit.agents.workers import CANCEL, Number, World, check, killer, worker

LONE = "caf\udce9.txt"
"""A file name that is no UTF-8, as `os.listdir` returns it: no codec takes it."""
RECORD_BYTES_MAX = 1_000_000


def letters(slot: FakeSlot) -> list[DeadLetter]:
    return [
        decode(DeadLetter, r.value or b"")
        for r in slot.log.written
        if r.topic == TOPICS.dead_letters
    ]


def refusing_large(slot: FakeSlot) -> None:
    def size(record: Any) -> int:
        headers = sum(len(name) + len(value) for name, value in record.headers)
        return len(record.key or b"") + len(record.value or b"") + headers

    slot.refuse = lambda record: size(record) > RECORD_BYTES_MAX


@check
async def test_text_that_is_no_utf8_fails_its_task_and_nothing_else() -> None:
    agent = Agent("worker", concurrency=4)

    @agent.task
    async def message(ctx: Context) -> None:
        raise FileNotFoundError(LONE)

    @agent.task
    async def step_key(ctx: Context) -> None:
        await ctx.step("one", len, "abc", key=LONE)

    @agent.task
    async def step_name(ctx: Context) -> None:
        await ctx.step(LONE, len, "abc")

    @agent.task
    async def progress(ctx: Context) -> None:
        ctx.progress(LONE)
        await asyncio.sleep(1)

    @agent.task
    async def publishes(ctx: Context) -> None:
        ctx.publish("words", key=LONE, value=b"")

    @agent.task
    async def topic(ctx: Context) -> None:
        ctx.publish(LONE, key="a", value=b"")

    @agent.task
    async def class_name(ctx: Context) -> None:
        raise type(LONE, (Exception,), {})("x")

    slot = FakeSlot(agent)
    slot.boot(clean=True)
    for name in agent.tasks:
        slot.send(name, name.replace("_", "-"))
    await slot.work(seconds=2)
    outcomes = {r.task_id: r.outcome for r in slot.results}
    failed = {"message", "step-key", "step-name", "publishes", "topic", "class-name"}
    assert {name for name, o in outcomes.items() if o is Outcome.FAILED} == failed
    assert outcomes["progress"] is Outcome.SUCCEEDED
    failure = slot.result("message").failure
    assert failure is not None
    assert failure.message == "caf\\udce9.txt"


@check
async def test_progress_too_long_for_a_record_is_cut() -> None:
    agent = Agent("worker")

    @agent.task
    async def talks(ctx: Context) -> None:
        ctx.progress("x" * 2_000_000, float("nan"))
        await asyncio.sleep(1)

    slot = FakeSlot(agent)
    refusing_large(slot)
    slot.boot(clean=True)
    slot.send("talks")
    await slot.work(seconds=2)
    assert slot.result().outcome is Outcome.SUCCEEDED
    assert len(slot.progress) == 1
    assert len(slot.progress[0].message) < 10_000


class Odd(BaseException):
    """Neither an `Exception` nor anything that ends a process."""


@check
async def test_an_exception_of_a_foreign_kind_fails_its_task() -> None:
    agent = Agent("worker")

    @agent.task
    async def odd(ctx: Context) -> None:
        raise Odd("odd")

    @agent.task
    async def grouped(ctx: Context) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(raising())

    async def raising() -> None:
        raise Odd("in a group")

    @agent.task
    async def in_a_step(ctx: Context) -> None:
        await ctx.step("s", raising)

    slot = FakeSlot(agent)
    slot.boot(clean=True)
    for name in agent.tasks:
        slot.send(name, name.replace("_", "-"))
    await slot.work(seconds=1)
    assert {r.task_id: r.outcome for r in slot.results} == {
        "odd": Outcome.FAILED,
        "grouped": Outcome.FAILED,
        "in-a-step": Outcome.FAILED,
    }
    assert slot.places.taken == 0


async def test_a_synchronous_function_that_raises_stop_iteration_fails_its_task() -> None:
    """A future refuses just this exception: whoever waits for it would wait for ever."""
    agent = Agent("worker")

    def first_of_none(n: int) -> int:
        return next(iter([n][1:]))

    @agent.task
    def sync(ctx: SyncContext) -> None:
        first_of_none(1)

    @agent.task
    async def in_a_step(ctx: Context) -> None:
        await ctx.step("s", first_of_none, 1)

    @agent.task
    def in_a_sync_step(ctx: SyncContext) -> None:
        ctx.step("s", first_of_none, 1)

    slot = FakeSlot(agent, threads=asyncio.to_thread)
    slot.boot(clean=True)
    for name in agent.tasks:
        slot.send(name, name.replace("_", "-"))
    await slot.work(lambda: len(slot.results) == 3, seconds=5)
    assert {r.failure.error_class for r in slot.results if r.failure} == {"RuntimeError"}
    assert len(slot.results) == 3
    assert slot.places.taken == 0


@pytest.mark.parametrize("attempt", [b"99999999999999999999999", b"-1", b"x", b"1_0"])
def test_an_undecodable_record_with_any_headers_is_buried(attempt: bytes) -> None:
    @check
    async def test() -> None:
        slot = FakeSlot(worker(World()))
        slot.boot(clean=True)
        headers = [
            ("holdfast-run", b"r"),
            ("holdfast-task", b"t"),
            ("holdfast-attempt", attempt),
            ("holdfast-reply-key", b"r"),
        ]
        slot.append(TOPICS.tasks, b"junk", headers)
        slot.deliver()
        assert slot.commit()
        assert [letter.source.value for letter in letters(slot) if letter.source] == [b"junk"]
        assert slot.log.offsets[TOPICS.tasks] == 1

    test()


@pytest.mark.parametrize("name", ["holdfast-run", "holdfast-reply-key", "other"])
def test_an_undecodable_record_as_large_as_a_record_may_be_is_passed(name: str) -> None:
    @check
    async def test() -> None:
        slot = FakeSlot(worker(World()))
        refusing_large(slot)
        slot.boot(clean=True)
        headers = {
            "holdfast-run": b"r",
            "holdfast-task": b"t",
            "holdfast-attempt": b"1",
            "holdfast-reply-key": b"r",
        }
        headers[name] = b"h" * 990_000
        slot.append(TOPICS.tasks, b"junk", tuple(headers.items()))
        slot.send("plain", "after", value=Number(n=1))
        await slot.work(seconds=1)
        assert not any(slot.refuse(record) for record in slot.log.written)
        (letter,) = letters(slot)
        assert letter.source is not None
        assert len(letter.source.sha256) == 64
        assert slot.result("after").outcome is Outcome.SUCCEEDED
        assert slot.log.offsets[TOPICS.tasks] == 2

    test()


@check
async def test_a_cancel_with_an_endless_reason_is_answered(slot: FakeSlot) -> None:
    refusing_large(slot)
    slot.boot(clean=True)
    reason = "r" * 999_950
    slot.append(
        TOPICS.control, encode(ControlEnvelope("r", "t", 1, ControlAction.CANCEL, reason, "r", 0))
    )
    slot.deliver()
    await slot.work(seconds=1)
    assert slot.result().outcome is Outcome.CANCELLED
    assert not any(slot.refuse(record) for record in slot.log.written)


@pytest.mark.parametrize(("run_id", "task_id"), [("r", "a/b"), ("a/b", "t"), ("r/t", "step/x")])
def test_a_name_that_a_journal_could_not_read_back_is_refused(run_id: str, task_id: str) -> None:
    """A foreign producer's: accepted, it would be forgotten by the next restart."""

    @check
    async def test() -> None:
        slot = FakeSlot(worker(World()))
        slot.boot(clean=True)
        slot.send("waits", task_id, run_id=run_id)
        await slot.work(seconds=1)
        assert not any(isinstance(body, Accepted) for body in slot.journal.values())
        assert len(letters(slot)) == 1
        assert slot.log.offsets[TOPICS.tasks] == 1
        slot.tell(CANCEL, task_id, run_id=run_id)
        await slot.work(seconds=1)
        assert slot.journal == {}

    test()


@check
async def test_many_steps_at_once_are_spread_over_commits() -> None:
    agent = Agent("worker")

    @agent.task
    async def wide(ctx: Context) -> None:
        await asyncio.gather(*(ctx.step("s", abs, n, key=str(n)) for n in range(1_200)))

    slot = FakeSlot(agent)
    slot.boot(clean=True)
    slot.send("wide")
    largest = 0
    for _ in range(20_000):
        await asyncio.sleep(0)
        if slot.log.written:
            break
        if not slot.collect():
            continue
        assert slot.under_way is not None
        largest = max(largest, *(len(c.records) for c in slot.under_way.changes))
        slot.acknowledge()
    assert slot.result().outcome is Outcome.SUCCEEDED
    assert 100 < largest <= 500
    await slot.work()
    assert slot.journal == {}


@check
async def test_one_that_waits_to_run_alone_is_not_struck_for_another_that_dies() -> None:
    world = World()
    agent = Agent("worker", concurrency=4)

    @agent.task
    async def alone(ctx: Context) -> None:
        world.seen.append("alone")
        await asyncio.sleep(3600)

    slot = FakeSlot(agent)
    slot.boot(clean=True)
    slot.send("alone", "a")
    await slot.work(seconds=0.1)
    for _ in range(2):
        slot.crash()
        slot.boot()
        await slot.work(seconds=0.1)
    assert slot.journal["r/a"].alone
    strikes = slot.journal["r/a"].strikes
    slot.machine.abandon()  # the slot is handed over: it ran alone, and did nobody harm
    await slot.work()
    slot.machine.lost()
    for _ in range(3):
        # Others hold the places of the process, so it waits; one of them kills the process.
        started = world.seen.count("alone")
        slot.boot(clean=True, places=_full())
        await slot.work(seconds=0.1)
        assert world.seen.count("alone") == started
        slot.crash()
        slot.boot(places=_full())
        await slot.work(seconds=0.1)
        slot.machine.abandon()
        await slot.work()
        slot.machine.lost()
    assert slot.journal["r/a"].strikes == strikes, "struck though it did not run"
    assert slot.results == []


def _full() -> Any:
    from holdfast.agents.places import Places

    places = Places(4)
    places.sit("r/other")
    return places


@check
async def test_a_cancel_reaches_the_attempt_that_waits_for_a_lost_answer() -> None:
    """Attempt 1 has ended, its answer was read, we have not been told; 2 came and is cancelled."""
    world = World()
    slot = FakeSlot(worker(world))
    slot.boot(clean=True)
    slot.send("fails")
    for _ in range(20):
        await slot.settle()
        assert slot.collect()
        if any(isinstance(r, TaskResult) for r in _results_of(slot)):
            break
        slot.acknowledge()
    bodies = len(world.seen)
    slot.send("waits", attempt=2)
    slot.tell(CANCEL, attempt=2)
    slot.acknowledge()
    await slot.work(seconds=1)
    assert len(world.seen) == bodies, "a cancelled attempt was started"
    assert slot.result(attempt=2).outcome is Outcome.CANCELLED
    assert slot.log.offsets == {TOPICS.tasks: 2, TOPICS.control: 1}
    slot.crash()
    slot.boot()
    slot.send("plain", attempt=3, value=Number(n=1))
    await slot.work(seconds=1)
    assert slot.result(attempt=3).outcome is Outcome.SUCCEEDED
    assert not any(isinstance(body, StepEntry) for body in slot.journal.values())


@check
async def test_a_cancelled_record_behind_an_open_one_is_passed_with_its_cancel() -> None:
    """Read again after a crash, its task released meanwhile, it would be worked after all."""
    world = World()
    slot = FakeSlot(worker(world))
    slot.boot(clean=True)
    slot.tell(CANCEL, "b")
    slot.send("waits", "a", deliver=False)
    slot.send("plain", "b", value=Number(n=1))
    await slot.settle()
    assert slot.commit()
    assert slot.log.offsets[TOPICS.tasks] == 2
    assert isinstance(slot.journal["r/a"], Accepted)
    slot.crash()
    slot.boot()
    slot.tell(ControlAction.RELEASE, "b")
    await slot.work(seconds=1)
    assert slot.result("b").outcome is Outcome.CANCELLED
    assert ("plain", "b", 1) not in world.seen


@check
async def test_a_record_that_was_forwarded_is_not_forwarded_again_after_a_crash(
    slot: FakeSlot,
) -> None:
    slot.boot(clean=True)
    slot.control.misplaced = lambda received: (  # type: ignore[method-assign]
        Record(received.topic, b"k", received.value) if received.offset == 1 else None
    )
    slot.send("waits", "a", deliver=False)
    slot.send("plain", "b", value=Number(n=1))
    await slot.settle()
    assert slot.commit()
    assert [r.topic for r in slot.log.written] == [TOPICS.tasks]
    assert slot.log.offsets[TOPICS.tasks] == 2, "a crash would forward it once more"
    assert set(slot.journal) == {"r/a"}


@check
async def test_two_attempts_that_wait_for_a_lost_answer_leave_no_gap_in_the_offsets(
    slot: FakeSlot,
) -> None:
    slot.boot(clean=True)
    slot.send("fails")
    for _ in range(20):
        await slot.settle()
        assert slot.collect()
        if any(isinstance(r, TaskResult) for r in _results_of(slot)):
            break
        slot.acknowledge()
    slot.send("plain", attempt=2, value=Number(n=1))
    slot.send("plain", attempt=3, value=Number(n=1))
    slot.acknowledge()
    await slot.work(seconds=1)
    assert slot.result(attempt=3).outcome is Outcome.SUCCEEDED
    assert slot.log.offsets[TOPICS.tasks] == 3


@check
async def test_a_result_with_endless_step_keys_fits_into_a_record() -> None:
    agent = Agent("worker")

    @agent.task
    async def many(ctx: Context) -> None:
        for n in range(900):
            await ctx.step("s", abs, n, key=f"{n:0510d}\N{GRINNING FACE}")

    slot = FakeSlot(agent)
    slot.boot(clean=True)
    slot.send("many")
    await slot.work(lambda: bool(slot.log.written), seconds=60)
    assert len(slot.log.written[0].value or b"") < 200_000
    assert slot.result().outcome is Outcome.SUCCEEDED
    assert len(slot.result().steps) > 100


def _results_of(slot: FakeSlot) -> list[Any]:
    from holdfast.schemas.records import CoordinatorEnvelope

    assert slot.under_way is not None
    return [
        decode(CoordinatorEnvelope, record.value or b"").body
        for change in slot.under_way.changes
        for record in change.records
        if record.topic == TOPICS.coordinator
    ]


@check
async def test_a_killer_that_is_first_of_all_ends_as_poison_even_after_a_clean_end() -> None:
    world = World()
    slot = FakeSlot(killer(world))
    died = asyncio.Event()
    world.crash = died.set
    slot.boot(clean=True)
    slot.send("kill", "k")
    for _ in range(10):
        await slot.work(died.is_set, seconds=300)
        if not died.is_set():
            break
        died.clear()
        slot.crash()
        slot.boot()
    failure = slot.result("k").failure
    assert failure is not None
    assert failure.kind is FailureKind.POISON
