"""An effect whose function raises; a large output without a store: what the next attempt finds."""

from __future__ import annotations

from typing import Any, cast

import pytest

from holdfast.agents import Agent, Context, EffectNotApplied
from holdfast.bus.blobs import ClaimCheck, NoBlobStore
from holdfast.schemas.records import FailureKind, Outcome, StepKind
from tests.unit.agents.fake_slot import FakeSlot
from tests.unit.agents.virtual import run_virtual
from tests.unit.agents.workers import Number, Text, World, check

INTENT = "r/t/step/tell/"


def teller(world: World, error: Exception, **options: Any) -> Agent:
    """An agent whose effect raises in its first call."""
    agent = Agent("worker")

    async def post(what: str, *, idempotency_key: str) -> str:
        world.seen.append(idempotency_key)
        if len(world.seen) == 1:
            raise error
        return what

    @agent.task
    async def notify(ctx: Context) -> Number:
        return Number(n=len(await ctx.effect("tell", post, "hello", **options)))

    return agent


async def attempt(slot: FakeSlot, number: int) -> None:
    slot.send("notify", attempt=number)
    await slot.work(seconds=0.1)


@check
async def test_an_effect_that_raised_is_not_called_again_blindly() -> None:
    world = World()
    slot = FakeSlot(teller(world, ConnectionError("lost on the way")))
    slot.boot(clean=True)
    await attempt(slot, 1)
    assert slot.result().outcome is Outcome.FAILED
    assert slot.journal[INTENT].kind is StepKind.INTENT, "whether it was applied is not known"
    await attempt(slot, 2)
    failure = slot.result(attempt=2).failure
    assert failure is not None
    assert (failure.kind, failure.retryable) == (FailureKind.OUTCOME_UNKNOWN, False)
    assert len(world.seen) == 1


@pytest.mark.parametrize(
    ("error", "options"),
    [
        (ConnectionError("lost on the way"), {"idempotent": True}),
        (EffectNotApplied("refused at the door"), {}),
    ],
    ids=["honours the key", "certainly not applied"],
)
def test_an_effect_that_raised_is_called_again_where_that_is_safe(
    error: Exception, options: dict[str, Any]
) -> None:
    run_virtual(lambda: _called_again(error, options))


async def _called_again(error: Exception, options: dict[str, Any]) -> None:
    world = World()
    slot = FakeSlot(teller(world, error, **options))
    slot.boot(clean=True)
    await attempt(slot, 1)
    assert slot.result().outcome is Outcome.FAILED
    assert (INTENT in slot.journal) == ("idempotent" in options)
    await attempt(slot, 2)
    assert slot.output(attempt=2) == {"n": 5}
    assert len(world.seen) == 2
    assert len(set(world.seen)) == 1, "one key in all attempts"


@check
async def test_a_large_output_without_a_store_fails_its_task_and_says_what_to_set() -> None:
    agent = Agent("worker", concurrency=2)

    @agent.task
    async def write(ctx: Context) -> Text:
        return Text(text="x" * 600_000)

    @agent.task
    async def neighbour(ctx: Context) -> Text:
        return Text(text="small")

    slot = FakeSlot(agent)
    slot.blobs = cast(Any, ClaimCheck(NoBlobStore()))
    slot.boot(clean=True)
    slot.send("write", "large")
    slot.send("neighbour", "small")
    await slot.work()
    failure = slot.result("large").failure
    assert failure is not None
    assert "HOLDFAST_BLOBS" in failure.message
    assert slot.output("small") == {"text": "small"}
