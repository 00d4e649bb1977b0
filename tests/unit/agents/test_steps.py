"""Steps, effects and publications of one handler, and what a resume finds of them."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

import pytest

from holdfast.agents import Agent, Context, EffectNotApplied, Fatal
from holdfast.bus.port import Record
from holdfast.schemas.records import (
    FailureKind,
    Outcome,
    StepKind,
)
from tests.unit.agents.fake_slot import TOPICS, FakeSlot
from tests.unit.agents.virtual import run_virtual
from tests.unit.agents.workers import RELEASE, Number, Text, World, check


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
    assert "- first  [step, attempt 1, build build-1]  <- the first difference" in failure.message


@check
async def test_ownership_is_proven_before_each_body(world: World, slot: FakeSlot) -> None:
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
