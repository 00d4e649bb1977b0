"""The recorder: what it collects, what it survives, and what it says it has missed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from holdfast.bus.embedded import EmbeddedBus, EmbeddedSettings
from holdfast.bus.errors import BusUnavailable
from holdfast.bus.port import (
    Bus,
    Cleanup,
    Reader,
    Received,
    Record,
    Slot,
    TopicPartition,
    TopicSpec,
)
from holdfast.testing import Evidence, Recorder, check
from tests.waiting import until

INPUTS = TopicSpec("ns.coordinator", 2)
JOURNAL = TopicSpec("ns.journal.coordinator", 2, Cleanup.COMPACT)
ZERO = TopicPartition("ns.coordinator", 0)


def record(value: bytes, topic: str = "ns.coordinator") -> Record:
    return Record(topic, b"k", value, (), 0)


@pytest.fixture
async def bus(tmp_path: Path) -> AsyncIterator[Bus]:
    bus = EmbeddedBus(EmbeddedSettings(tmp_path / "bus.db"))
    await bus.start()
    await bus.create_topics([INPUTS, JOURNAL, TopicSpec("other.coordinator", 1)])
    yield bus
    await bus.close()


class Flaky:
    """A bus whose readers find nobody while it is away."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self.away = False
        self.refused = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bus, name)

    def refuse(self) -> None:
        if self.away:
            self.refused += 1
            raise BusUnavailable("away, as the test says")

    async def open_reader(self, starts: Mapping[TopicPartition, int]) -> Reader:
        self.refuse()
        return FlakyReader(self, await self._bus.open_reader(starts))


class FlakyReader:
    def __init__(self, bus: Flaky, reader: Reader) -> None:
        self._bus = bus
        self._reader = reader

    async def poll(self, timeout_s: float, max_records: int = 500) -> list[Received]:
        found = await self._reader.poll(0.02, max_records)
        self._bus.refuse()  # also what was read already is lost with the connection
        return found

    def position(self, partition: TopicPartition) -> int:
        return self._reader.position(partition)

    async def close(self) -> None:
        await self._reader.close()


async def test_it_follows_topics_that_come_later_and_reads_to_the_end(bus: Bus) -> None:
    await bus.publish([record(b"1")])
    async with Recorder(bus, "ns") as recorder:
        await bus.create_topics([TopicSpec("ns.tasks.a", 3)])
        await bus.publish([record(b"2"), record(b"3", "ns.tasks.a")])
        writer = await bus.open_writer(Slot("ns.coordinator", 0))
        await writer.commit([record(b"4")], {ZERO: 2})
        history = await recorder.history(10)
        await writer.close()
    assert [r.value for r in history.records[ZERO]] == [b"1", b"2", b"4"]
    assert history.partitions == {
        "ns.coordinator": 2,
        "ns.journal.coordinator": 2,
        "ns.tasks.a": 3,
    }
    assert history.offsets["ns.coordinator"] == {ZERO: 2}
    assert (history.agents, history.groups) == (("a",), ("coordinator",))
    assert not history.gaps


async def test_what_was_purged_after_it_was_read_is_still_there(bus: Bus) -> None:
    async with Recorder(bus, "ns") as recorder:
        await bus.publish([record(b"1"), record(b"2")])
        await until(lambda: len(recorder) == 2)
        await bus.purge({ZERO: 2})
        await bus.publish([record(b"3")])
        history = await recorder.history(10)
    assert [r.value for r in history.records[ZERO]] == [b"1", b"2", b"3"]
    assert history.whole("ns.coordinator")


async def test_what_was_purged_before_it_came_is_a_gap(bus: Bus) -> None:
    await bus.publish([record(b"1"), record(b"2")])
    await bus.purge({ZERO: 1})
    async with Recorder(bus, "ns") as recorder:
        history = await recorder.history(10)
    assert [(g.partition, g.start, g.end) for g in history.gaps] == [(ZERO, 0, 1)]
    assert not history.whole("ns.coordinator")
    assert history.whole("ns.journal.coordinator")
    assert "I3" in check(history, Evidence()).not_checkable


async def test_it_goes_on_where_it_stood_when_the_bus_is_back(bus: Bus) -> None:
    flaky = Flaky(bus)
    async with Recorder(flaky, "ns", dense=True) as recorder:  # type: ignore[arg-type]
        await bus.publish([record(b"1")])
        await until(lambda: len(recorder) == 1)
        flaky.away = True
        await bus.publish([record(b"2")])
        await until(lambda: flaky.refused > 1, "it tried again")
        flaky.away = False
        history = await recorder.history(10)
    assert [r.value for r in history.records[ZERO]] == [b"1", b"2"]
    assert not history.gaps


async def test_a_purge_that_overtakes_it_is_a_gap(bus: Bus) -> None:
    flaky = Flaky(bus)
    async with Recorder(flaky, "ns", dense=True) as recorder:  # type: ignore[arg-type]
        await bus.publish([record(b"1")])
        await until(lambda: len(recorder) == 1)
        flaky.away = True
        await until(lambda: flaky.refused, "it hears that the bus is away")
        await bus.publish([record(b"2"), record(b"3")])
        await bus.purge({ZERO: 2})
        flaky.away = False
        history = await recorder.history(10)
    assert [r.value for r in history.records[ZERO]] == [b"1", b"3"]
    assert (ZERO, 1, 2) in [(g.partition, g.start, g.end) for g in history.gaps]


async def test_holes_of_a_dense_bus_are_gaps_and_nothing_is_taken_twice(bus: Bus) -> None:
    journal = TopicPartition("ns.journal.coordinator", 0)
    async with Recorder(bus, "ns") as recorder:
        await bus.publish([record(b"1", journal.topic)])
        (first,) = (await recorder.history(10)).records[journal]
        recorder.take([first, first._replace(offset=5)])
        history = await recorder.history(10)
    assert [r.offset for r in history.records[journal]] == [0, 5]
    assert [(g.start, g.end) for g in history.gaps] == [(1, 5)]


async def test_a_bus_that_stays_away_is_told(bus: Bus) -> None:
    flaky = Flaky(bus)
    async with Recorder(flaky, "ns", dense=True) as recorder:  # type: ignore[arg-type]
        flaky.away = True
        await bus.publish([record(b"1")])
        with pytest.raises(TimeoutError):
            await recorder.history(0.3)
