"""Items that a handler hands out: sent once, in their order, whatever happens to its process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from holdfast.agents import Agent, Context, SyncContext
from holdfast.agents.batches import batches
from holdfast.agents.errors import DefinitionError
from holdfast.agents.threads import HandlerThreads
from holdfast.schemas import decode_json, encode
from holdfast.schemas.records import (
    EMIT_NAME,
    Ask,
    ControlAction,
    ControlEnvelope,
    EmitAsk,
    FailureKind,
    Outcome,
    Reply,
)
from tests.unit.agents.fake_slot import TOPICS, FakeSlot
from tests.unit.agents.virtual import run_virtual
from tests.unit.agents.workers import Number

Emits = Callable[[Context], Any]


def worker(emits: Emits) -> FakeSlot:
    """A slot whose task `find` hands out items so; it is at work."""
    agent = Agent("worker", concurrency=4)

    @agent.task
    async def find(ctx: Context, number: Number) -> Number:
        await emits(ctx)
        return number

    slot = FakeSlot(agent)
    slot.boot(clean=True)
    slot.send("find")
    return slot


def asked(slot: FakeSlot) -> list[tuple[int, list[Any]]]:
    """The batches that the coordinator has heard of, by the index of their first item."""
    found = []
    for body in slot._coordinator():
        if isinstance(body, Ask) and isinstance(body.what, EmitAsk):
            assert (body.name, body.key) == (EMIT_NAME, str(body.what.first))
            assert isinstance(body.what.items, bytes)
            items = decode_json(body.what.items)
            assert len(items) == body.what.count
            found.append((body.what.first, items))
    return found


def answer(slot: FakeSlot, first: int) -> None:
    control = ControlEnvelope("r", "t", 1, ControlAction.REPLY, EMIT_NAME, "r", 0)
    control.reply = Reply(EMIT_NAME, str(first), None, None)
    slot.append(TOPICS.control, encode(control))
    slot.deliver()


def journaled(slot: FakeSlot) -> list[str]:
    prefix = f"r/t/step/{EMIT_NAME}/"
    return sorted(key.removeprefix(prefix) for key in slot.journal if key.startswith(prefix))


async def answer_all(slot: FakeSlot, known: int = 0) -> None:
    """Answer batch after batch until nothing more comes."""
    while True:
        await slot.work(seconds=0.1)
        new = asked(slot)[known:]
        if not new:
            return
        known += len(new)
        for first, _ in new:
            answer(slot, first)


async def three(ctx: Context) -> None:
    await ctx.emit({"n": 0})
    await ctx.emit_many([1, Number(n=2)])
    await ctx.emit(None)


def test_items_are_sent_batch_after_batch_and_the_journal_keeps_the_newest() -> None:
    async def scene() -> None:
        slot = worker(three)
        await slot.work(seconds=0.1)
        assert asked(slot) == [(0, [{"n": 0}])]  # it waits
        await answer_all(slot, 0)
        assert asked(slot) == [(0, [{"n": 0}]), (1, [1, {"n": 2}]), (3, [None])]
        assert slot.output() == {"n": 0}
        assert journaled(slot) == []

    run_virtual(scene)


def test_what_was_handed_out_before_a_crash_is_not_handed_out_again() -> None:
    async def scene() -> None:
        slot = worker(three)
        await slot.work(seconds=0.1)
        answer(slot, 0)
        await slot.work(seconds=0.1)
        assert journaled(slot) == ["1"]  # the first is answered, and gone
        slot.crash()
        slot.boot()
        await slot.work(seconds=0.1)
        assert len(asked(slot)) == 2
        answer(slot, 1)
        await answer_all(slot, 2)
        assert [first for first, _ in asked(slot)] == [0, 1, 3]
        assert slot.output() == {"n": 0}

    run_virtual(scene)


async def _resumed_with(before: Emits, after: Emits) -> FakeSlot:
    """Hand out in one way, until the second batch is on its way; die; hand out in another way."""
    ways = [before, after]

    async def emits(ctx: Context) -> None:
        await ways[0](ctx)

    slot = worker(emits)
    await slot.work(seconds=0.1)
    answer(slot, 0)
    await slot.work(seconds=0.1)
    slot.crash()
    ways.pop(0)
    slot.boot()
    await slot.work(seconds=0.1)
    return slot


async def other_item(ctx: Context) -> None:
    await ctx.emit({"n": "other"})
    await ctx.emit_many([1, 2])


async def other_batch(ctx: Context) -> None:
    await ctx.emit_many([{"n": 0}, 1, 2])


async def nothing(ctx: Context) -> None:
    """It hands out nothing any more."""


@pytest.mark.parametrize(
    ("after", "said"),
    [
        (other_item, "was journaled with other arguments"),
        (other_batch, "items are handed out otherwise than in an execution before"),
        (nothing, "returned without asking for 1 steps"),
    ],
)
def test_other_items_than_before_park_the_task(after: Emits, said: str) -> None:
    async def scene() -> None:
        slot = await _resumed_with(three, after)
        failure = slot.result().failure
        assert failure is not None
        assert failure.kind is FailureKind.MISMATCH
        assert said in failure.message
        assert len(asked(slot)) == 2

    run_virtual(scene)


def test_items_have_an_order() -> None:
    async def at_once(ctx: Context) -> None:
        await asyncio.gather(ctx.emit(1), ctx.emit(2))

    async def scene() -> None:
        slot = worker(at_once)
        await slot.work(seconds=0.1)
        failure = slot.result().failure
        assert failure is not None
        assert "await each emit before the next" in failure.message

    run_virtual(scene)


def test_what_is_on_its_way_at_the_end_was_to_be_awaited() -> None:
    async def forgets(ctx: Context) -> None:
        left.append(asyncio.ensure_future(ctx.emit(1)))
        await asyncio.sleep(0.01)

    left: list[Any] = []

    async def scene() -> None:
        slot = worker(forgets)
        await slot.work(seconds=0.2)
        assert slot.result().outcome is Outcome.FAILED
        failure = slot.result().failure
        assert failure is not None
        assert "await each emit" in failure.message
        left[0].cancel()

    run_virtual(scene)


def test_a_synchronous_handler_hands_out_too() -> None:
    agent = Agent("worker")

    @agent.task
    def find(ctx: SyncContext, number: Number) -> Number:
        ctx.emit(1)
        ctx.emit_many([2, 3])
        return number

    async def scene() -> None:
        slot = FakeSlot(agent, threads=HandlerThreads("worker", 2))
        slot.boot(clean=True)
        slot.send("find")
        for number, first in enumerate((0, 1), start=1):
            await slot.work(lambda number=number: len(asked(slot)) == number, 30)
            answer(slot, first)
        await slot.work(lambda: bool(slot.results), 30)
        assert asked(slot) == [(0, [1]), (1, [2, 3])]
        assert slot.output() == {"n": 0}

    asyncio.run(scene())


def test_batches_are_bounded_by_number_and_by_size() -> None:
    assert [len(batch.items) for batch in batches(range(250))] == [100, 100, 50]
    large = "x" * 100_000
    assert [len(batch.items) for batch in batches([large] * 5)] == [2, 2, 1]
    assert [len(batch.items) for batch in batches(["x" * 1_000_000, 1])] == [1, 1]
    assert list(batches([])) == []


def test_what_is_no_json_is_refused() -> None:
    with pytest.raises(DefinitionError, match="cannot be written as JSON"):
        list(batches([object()]))
