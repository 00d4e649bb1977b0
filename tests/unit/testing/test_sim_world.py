"""Processes of a simulated world: crashed, stopped, woken, in an order that the seed decides."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys

import pytest

from holdfast.bus.port import EXIT_RESTART, Environment, Record, Slot, TopicPartition, TopicSpec
from holdfast.testing.sim import Process, StandStill, World
from holdfast.testing.sim.world import EPOCH_MS, Main
from tests.broker import REPOSITORY
from tests.unit.testing import small_system

TOPIC = "topic"
SLOT = Slot("group", 0)


@pytest.fixture
def world() -> World:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    world = World(seed)
    world.broker.create_topics([TopicSpec(TOPIC, 2)])
    return world


def values(world: World, partition: int = 0) -> list[bytes | None]:
    return [r.value for r in world.broker.logs[TopicPartition(TOPIC, partition)].history()]


async def idle(environment: Environment) -> None:
    await asyncio.sleep(1_000_000.0)


def test_no_finally_of_a_process_that_was_killed_reaches_the_world(world: World) -> None:
    unwound: list[str] = []

    async def main(environment: Environment) -> None:
        try:
            await environment.bus.publish([Record(TOPIC, b"k", b"before", (), 0)])
            await asyncio.sleep(1_000.0)
        finally:
            unwound.append("ran")
            asyncio.get_running_loop().call_soon(unwound.append, "said")
            await environment.bus.publish([Record(TOPIC, b"k", b"after", (), 0)])
            unwound.append("published")

    process = world.start("one", main)
    world.run(lambda: values(world) == [b"before"], 10.0)
    world.run_for(1.0)
    world.crash(process)
    world.run_for(100.0)
    assert unwound == [], "dead code runs"
    world.close()
    assert unwound in ([], ["ran"])
    assert values(world) == [b"before"]


def test_a_crash_between_any_two_awaits_leaves_a_commit_whole_or_not_at_all(world: World) -> None:
    async def main(environment: Environment) -> None:
        writer = await environment.bus.open_writer(SLOT)
        records = [Record(TOPIC, b"k", b"%d" % process.incarnation, (), n) for n in range(2)]
        await writer.commit(records, {TopicPartition(TOPIC, 0): process.incarnation})

    def kill_at(steps: int) -> None:
        world.run(lambda: process.steps >= steps or not process.alive, 60.0)
        world.crash(process)

    steps = 0
    process = world.start("one", main)
    while process.reason != "ended":
        if not process.alive:
            process = world.restart("one")
        steps += 1
        kill_at(steps)
        world.run_for(world.broker.timing.transaction_timeout_s + 1.0)
        assert world.broker.open_transactions() == []
        assert values(world, 0) == values(world, 1)
    assert 5 < steps < 100
    newest = values(world)[-1]
    assert newest is not None
    assert world.broker.group("group").offsets == {TopicPartition(TOPIC, 0): int(newest)}
    world.close()


def test_a_watcher_may_kill_before_any_callback(world: World) -> None:
    seen: list[int] = []

    async def main(environment: Environment) -> None:
        while True:
            seen.append(len(seen))
            await asyncio.sleep(0)

    def kill(process: Process) -> None:
        if process.steps == 10:
            world.crash(process, "now")

    world.watchers.append(kill)
    process = world.start("one", main)
    world.run(lambda: not process.alive, 10.0)
    done = len(seen)
    world.run_for(10.0)
    assert (process.reason, process.steps, len(seen)) == ("now", 10, done)


def test_one_that_is_stopped_stands_still_while_time_goes_on(world: World) -> None:
    ticks: list[float] = []

    async def main(environment: Environment) -> None:
        while True:
            await asyncio.sleep(1.0)
            ticks.append(round(environment.monotonic(), 1))

    process = world.start("one", main)
    world.run_for(3.5)
    world.stop(process)
    world.run_for(6.0)
    world.wake(process)
    world.run_for(1.5)
    assert ticks == [1.0, 2.0, 3.0, 9.5, 10.5], "the one due at 4 comes when it is woken"


def test_what_was_sent_to_one_that_is_stopped_waits_for_it(world: World) -> None:
    heard: list[float] = []

    async def main(environment: Environment) -> None:
        await environment.bus.publish([Record(TOPIC, b"k", b"v", (), 0)])
        heard.append(world.clock.now)

    process = world.start("one", main)
    world.run(lambda: values(world) == [b"v"], 10.0)
    world.stop(process)
    world.run_for(10.0)
    assert heard == []
    world.wake(process)
    world.run(lambda: bool(heard), 1.0)


def order(seed: int) -> list[str]:
    """Return in which order two processes that are always busy get their turns."""
    world = World(seed)
    turns: list[str] = []

    def main_of(name: str) -> Main:
        async def main(environment: Environment) -> None:
            together = asyncio.Event()
            asyncio.get_running_loop().call_at(1.0, together.set)
            await together.wait()
            for _ in range(20):
                turns.append(name)
                await asyncio.sleep(0)

        return main

    for name in ("one", "two"):
        world.start(name, main_of(name))
    world.run(lambda: len(turns) == 40, 10.0)
    world.close()
    return turns


def test_processes_interleave_as_the_seed_says() -> None:
    orders = [order(seed) for seed in range(10)]
    assert [order(seed) for seed in range(10)] == orders
    assert len({tuple(each) for each in orders}) > 8
    for each in orders:
        assert sorted(each) == ["one"] * 20 + ["two"] * 20


def test_one_name_is_one_process_at_a_time(world: World) -> None:
    first = world.start("one", idle)
    with pytest.raises(AssertionError, match="alive"):
        world.start("one", idle)
    died: list[str] = []
    world.on_death.append(lambda process: died.append(f"{process.name}-{process.incarnation}"))
    world.crash(first)
    world.crash(first)
    again = world.restart("one")
    assert died == ["one-1"]
    assert (again.incarnation, again.alive, first.alive) == (2, True, False)
    assert again.environment.new_id() != first.environment.new_id()


def test_how_a_process_ends(world: World) -> None:
    async def failing(environment: Environment) -> None:
        raise ValueError("odd")

    async def dying(environment: Environment) -> None:
        try:
            environment.die("it stood still")
        finally:
            await environment.bus.publish([Record(TOPIC, b"k", b"last words", (), 0)])

    async def ending(environment: Environment) -> None:
        return None

    mains = {"failing": failing, "dying": dying, "ending": ending}
    processes = {name: world.start(name, main) for name, main in mains.items()}
    world.run(lambda: not any(p.alive for p in processes.values()), 10.0)
    assert {name: p.reason for name, p in processes.items()} == {
        "failing": "ValueError: odd",
        "dying": "it stood still",
        "ending": "ended",
    }
    world.run_for(10.0)
    assert values(world) == []
    assert EXIT_RESTART == 75


def test_what_a_callback_raises_is_not_lost(world: World) -> None:
    async def main(environment: Environment) -> None:
        asyncio.get_running_loop().call_soon(lambda: 1 / 0)
        await asyncio.sleep(1.0)

    world.start("one", main)
    world.run_for(2.0)
    assert len(world.errors) == 1
    assert "ZeroDivisionError" in world.errors[0]


def test_a_wall_clock_may_be_wrong_and_no_other_is(world: World) -> None:
    one, two = world.start("one", idle), world.start("two", idle)
    world.run_for(2.0)
    one.skew_ms = -3_600_000
    assert one.environment.now_ms() == EPOCH_MS + 2_000 - 3_600_000
    assert two.environment.now_ms() == EPOCH_MS + 2_000
    assert one.environment.monotonic() == 2.0


def test_what_never_comes_is_said(world: World) -> None:
    world.start("one", idle)
    with pytest.raises(StandStill, match="the moon: not after 5 s"):
        world.run(lambda: False, 5.0, "the moon")
    assert world.clock.now == 5.0


def trace_of(seed: int, **variables: str) -> str:
    """Run the small system in an interpreter of its own; return the digest of all that happened."""
    done = subprocess.run(
        [sys.executable, "-m", small_system.__name__, str(seed)],
        capture_output=True, text=True, cwd=REPOSITORY, timeout=60, check=True,
        env={**os.environ, "PYTHONHASHSEED": "0", **variables},
    )  # fmt: skip
    return done.stdout


def test_a_seed_is_one_history_in_every_process() -> None:
    seed = random.randrange(1_000)
    print(f"seed {seed}")
    # Another allocator puts every object elsewhere: who goes by addresses is found out.
    first, second = trace_of(seed), trace_of(seed, PYTHONMALLOC="malloc")
    assert first == second
    assert int(first.split()[0]) > 1_000
    assert trace_of(seed + 1) != first
