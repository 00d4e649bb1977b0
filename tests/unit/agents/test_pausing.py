"""An agent, or one order key at it, that an operator has paused: what one slot does."""

from __future__ import annotations

import pytest

from holdfast.schemas import encode
from holdfast.schemas.records import AgentPause, ControlAction, ControlEnvelope
from tests.unit.agents.fake_slot import TOPICS, FakeSlot
from tests.unit.agents.workers import CANCEL, Number, World, check, worker


@pytest.fixture
def slot(world: World) -> FakeSlot:
    """A slot of `worker(world)`, not booted."""
    return FakeSlot(worker(world))


def say(slot: FakeSlot, action: ControlAction, order_key: str | None = None) -> None:
    word = ControlEnvelope("", "", 0, action, "because", "", 0)
    word.pause = AgentPause("worker", order_key, "ann", "because", 7)
    key = b"" if order_key is None else b"o:" + order_key.encode()
    slot.append(TOPICS.control, encode(word), key=key)
    slot.deliver()


def pause(slot: FakeSlot, order_key: str | None = None) -> None:
    say(slot, ControlAction.PAUSE, order_key)


def resume(slot: FakeSlot, order_key: str | None = None) -> None:
    say(slot, ControlAction.RESUME, order_key)


def begun(world: World) -> list[str]:
    return [seen[1] for seen in world.seen if seen[0] in ("plain", "waits")]


@check
async def test_a_paused_slot_begins_nothing_and_what_runs_goes_on(
    slot: FakeSlot, world: World
) -> None:
    slot.boot(clean=True)
    slot.send("waits", "a")
    await slot.work()
    pause(slot)
    slot.send("plain", "b")
    await slot.work(seconds=30)
    assert begun(world) == ["a"]
    world.gate.set()
    await slot.work()
    assert slot.result("a")
    assert begun(world) == ["a"]
    resume(slot)
    await slot.work()
    assert slot.result("b")
    assert slot.journal == {}
    assert slot.log.offsets == {TOPICS.tasks: 2, TOPICS.control: 2}


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("clean", [True, False])
@check
async def test_a_pause_outlives_restarts(
    slot: FakeSlot, world: World, keep: bool, clean: bool
) -> None:
    slot.boot(clean=True)
    pause(slot)
    slot.collect()
    slot.crash(keep=keep)
    slot.boot(clean=clean)
    slot.send("plain", "a")
    await slot.work(seconds=30)
    assert begun(world) == []
    assert slot.journal["/paused"].actor == "ann"
    slot.crash()
    slot.boot(clean=clean)
    resume(slot)
    await slot.work()
    assert slot.result("a")
    assert slot.journal == {}


@check
async def test_a_paused_order_key_holds_up_no_other(slot: FakeSlot, world: World) -> None:
    slot.boot(clean=True)
    slot.send("waits", "a1", order_key="a/1")
    slot.send("plain", "a2", order_key="a/1")
    await slot.work()
    pause(slot, "a/1")
    slot.send("plain", "b", order_key="b")
    slot.send("plain", "c")
    world.gate.set()
    await slot.work(seconds=30)
    assert begun(world) == ["a1", "b", "c"]
    assert "/paused/a/1" in slot.journal
    slot.crash()
    slot.boot()
    slot.send("plain", "a3", order_key="a/1")
    await slot.work(seconds=30)
    assert begun(world) == ["a1", "b", "c"]
    resume(slot, "a/1")
    await slot.work()
    assert begun(world) == ["a1", "b", "c", "a2", "a3"]
    assert slot.journal == {}


@check
async def test_a_pause_of_a_key_within_a_pause_of_the_agent(slot: FakeSlot, world: World) -> None:
    slot.boot(clean=True)
    pause(slot)
    pause(slot, "a")
    slot.send("plain", "a", order_key="a")
    slot.send("plain", "b", order_key="b")
    await slot.work(seconds=1)
    resume(slot)
    await slot.work(seconds=1)
    assert begun(world) == ["b"]
    resume(slot, "a")
    resume(slot, "a")  # to say it twice changes nothing
    await slot.work()
    assert begun(world) == ["b", "a"]


@check
async def test_what_a_pause_keeps_back_can_be_cancelled(slot: FakeSlot, world: World) -> None:
    slot.boot(clean=True)
    pause(slot)
    slot.send("plain", "a")
    await slot.work(seconds=1)
    slot.tell(CANCEL, "a")
    await slot.work()
    assert slot.result("a").outcome == "cancelled"
    assert begun(world) == []


@check
async def test_the_next_attempt_waits_for_the_end_of_the_pause(
    slot: FakeSlot, world: World
) -> None:
    slot.boot(clean=True)
    slot.send("fails", "a", value=Number(n=3), order_key="k")
    await slot.work()
    pause(slot, "k")
    slot.send("fails", "a", attempt=2, value=Number(n=3), order_key="k")
    await slot.work(seconds=30)
    assert len(slot.results) == 1
    resume(slot, "k")
    await slot.work()
    assert slot.output("a", 2) == {"n": 3}


@check
async def test_a_word_that_cannot_be_read_is_buried(slot: FakeSlot, world: World) -> None:
    slot.boot(clean=True)
    word = ControlEnvelope("", "", 0, ControlAction.PAUSE, "because", "", 0)
    slot.append(TOPICS.control, encode(word), key=b"")
    word.pause = AgentPause("worker", "a", "ann", "because", 7)
    slot.append(TOPICS.control, encode(word), key=b"o:b")
    slot.deliver()
    await slot.work()
    assert [r.topic for r in slot.log.written] == [TOPICS.dead_letters] * 2
    assert slot.log.offsets[TOPICS.control] == 2
    slot.send("plain", "a")
    await slot.work()
    assert begun(world) == ["a"]


@check
async def test_the_gauges_say_what_is_paused(slot: FakeSlot, world: World) -> None:
    slot.boot(clean=True)
    metrics = slot.machine._setup.metrics
    before = (metrics.halted._value.get(), metrics.halted_keys._value.get())
    pause(slot)
    pause(slot, "a")
    pause(slot, "b")
    await slot.work()
    assert (metrics.halted._value.get(), metrics.halted_keys._value.get()) == (
        before[0] + 1,
        before[1] + 2,
    )
    slot.crash()
    assert (metrics.halted._value.get(), metrics.halted_keys._value.get()) == before
