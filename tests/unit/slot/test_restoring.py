"""What a slot reads of its journal: all when it opens, next to nothing when an answer is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from typing import Any

import pytest

from holdfast.bus.errors import BusError, BusUnavailable, TopicMissing
from holdfast.bus.partition import partition_for
from holdfast.bus.port import Received, TopicPartition
from holdfast.bus.slot import commit as commit_module
from holdfast.schemas.codec import decode
from holdfast.schemas.records import SlotOffset
from holdfast.testing.sim import SimBus
from tests.doubles.sim_place import LOST_ANSWERS, Fate
from tests.unit.slot.conftest import JOURNAL, World
from tests.waiting import until

NUMBER = partition_for(b"x", 2)


class Reads:
    """Notes from where the journal of the slot of key "x" is read, and hands on what it holds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.starts: list[int] = []
        real = SimBus.read

        async def read(
            bus: SimBus, topic: str, partition: int, start: int = 0, end: int | None = None
        ) -> AsyncIterator[list[Received]]:
            if (topic, partition) == (JOURNAL, NUMBER):
                self.starts.append(start)
            async for batch in real(bus, topic, partition, start, end):
                yield batch

        monkeypatch.setattr(SimBus, "read", read)


async def send_one_by_one(world: World, count: int) -> None:
    for _ in range(count):
        applied = len(world.applied)
        await world.send(("x", b"v"))
        await until(lambda applied=applied: len(world.applied) > applied)  # type: ignore[misc]


@pytest.mark.parametrize("fault", LOST_ANSWERS)
async def test_after_a_lost_answer_only_what_lies_behind_the_last_commits_is_read(
    world: World, monkeypatch: pytest.MonkeyPatch, fault: Fate
) -> None:
    """... also where the broker writes a marker, which nobody here counts, after each of them."""
    monkeypatch.setattr(commit_module, "FLOOR_EVERY", 4)
    reads = Reads(monkeypatch)
    await world.host()
    await send_one_by_one(world, 40)
    log = world.place.broker.logs[TopicPartition(JOURNAL, NUMBER)]
    assert log.end > 100, "two records and a marker each"
    assert reads.starts == [0], "it was read once, to open the slot"
    end = log.end
    world.place.faults.append(fault)
    await send_one_by_one(world, 1)
    (start,) = reads.starts[1:]
    assert end - 2 * 4 <= start <= end


@pytest.mark.parametrize("error", [BusUnavailable("away"), TopicMissing("not known yet")])
async def test_a_slot_that_cannot_look_at_its_journals_end_commits_all_the_same(
    world: World, monkeypatch: pytest.MonkeyPatch, error: BusError
) -> None:
    monkeypatch.setattr(commit_module, "FLOOR_EVERY", 4)
    host = await world.host()
    await until(lambda: host.running_slots == 2)
    asked = 0

    async def refuse(bus: SimBus, partitions: Collection[TopicPartition]) -> dict[Any, int]:
        nonlocal asked
        asked += TopicPartition(JOURNAL, NUMBER) in partitions
        raise error

    monkeypatch.setattr(SimBus, "end_offsets", refuse)
    await send_one_by_one(world, 9)
    assert asked >= 2


async def test_a_long_restore_lets_others_have_their_turn(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Heartbeats and the watchdog's too: a fetch may bring 100,000 records at once."""
    host = await world.host()
    await send_one_by_one(world, 50)
    await host.kill()
    turns, longest, looked = 0, 0, set[int]()

    async def turn() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def read(
        bus: SimBus, topic: str, partition: int, start: int = 0, end: int | None = None
    ) -> AsyncIterator[list[Received]]:
        nonlocal longest
        if partition not in looked:
            looked.add(partition)  # at its end, for an owner who lets go
            return
        for record in world.place.records(topic, partition):
            before = turns
            yield [record]
            longest = max(longest, turns - before)
            assert turns > before, "the loop did not turn between two batches"

    monkeypatch.setattr(SimBus, "read", read)
    turning = asyncio.create_task(turn())
    again = await world.host()
    await until(lambda: again.running_slots == 2)
    turning.cancel()
    assert longest, "nothing was restored"


async def test_the_time_that_a_machine_told_comes_back_and_never_goes_backwards(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = await world.host()
    await until(lambda: host.running_slots == 2)
    machine = next(m for m in world.machines["a"] if m.control.slot.partition == NUMBER)
    real = machine.collect
    far_ms = 5_000_000_000_000

    def collect(now_ms: int):  # type: ignore[no-untyped-def]
        commit = real(now_ms)
        if commit is not None:
            commit.told_ms = far_ms
        return commit

    monkeypatch.setattr(machine, "collect", collect)
    await send_one_by_one(world, 1)
    await host.stop()  # its last commit is the slot's own: it repeats what the machine told
    again = await world.host()
    await until(lambda: again.running_slots == 2)
    opened = [m for m in world.machines["a"] if m.control.slot.partition == NUMBER][-1].opened_with
    assert opened is not None
    assert opened.clean
    assert opened.told_ms == far_ms
    newest = [r for r in world.place.records(JOURNAL, NUMBER) if r.key == b"offset"][-1]
    assert decode(SlotOffset, newest.value or b"").at_ms == far_ms, "the mark is no earlier"
