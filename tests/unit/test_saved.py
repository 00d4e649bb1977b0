"""Records as lines of a file, and back onto another bus."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.bus.connect import open_bus
from holdfast.bus.port import Bus, Cleanup, Received, Record, TopicPartition, TopicSpec
from holdfast.bus.saved import UnreadableRecords, load_records, save_records


async def opened(path: Path) -> Bus:
    bus = open_bus(f"sqlite:///{path}")
    await bus.start()
    return bus


async def read(bus: Bus, topic: str, partition: int) -> list[Received]:
    return [each async for batch in bus.read(topic, partition) for each in batch]


async def filled(tmp_path: Path) -> Bus:
    bus = await opened(tmp_path / "one.db")
    await bus.create_topics([TopicSpec("a", 2), TopicSpec("b", 1, Cleanup.COMPACT)])
    headers = (("h", b"\xff\x00"),)
    await bus.publish([Record("a", b"k", f"{n}".encode(), headers, n % 2) for n in range(8)])
    await bus.publish([Record("b", b"k", None, (), 0), Record("b", b"j", b"v", (), 0)])
    await bus.purge({TopicPartition("a", 0): 4, TopicPartition("a", 1): 2})
    return bus


async def test_what_is_loaded_stands_where_it_stood(tmp_path: Path) -> None:
    one, two = await filled(tmp_path), await opened(tmp_path / "two.db")
    try:
        lines = [line async for line in save_records(one, ["a", "b"])]
        assert len(lines) == 1 + 2 + 2
        assert await load_records(two, lines, in_place=True) == ["a", "b"]
        places = [TopicPartition("a", 0), TopicPartition("a", 1), TopicPartition("b", 0)]
        for place in places:
            before, after = await read(one, *place), await read(two, *place)
            assert [r._replace(timestamp_ms=0) for r in after] == [
                r._replace(timestamp_ms=0) for r in before
            ]
        assert await two.begin_offsets(places) == await one.begin_offsets(places)
        assert await two.end_offsets(places) == await one.end_offsets(places)
        with pytest.raises(UnreadableRecords, match="stood at"):
            await load_records(two, lines, in_place=True)
    finally:
        await one.close()
        await two.close()


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ([], "line 1"),
        (["{}"], "line 1"),
        (['{"holdfast": "records", "format": 99, "topics": {}}'], "another format"),
        (['{"holdfast": "records", "format": 1, "topics": {}}', "[1]"], "line 2"),
    ],
)
async def test_what_is_no_file_of_records(tmp_path: Path, lines: list[str], told: str) -> None:
    bus = await opened(tmp_path / "bus.db")
    try:
        with pytest.raises(UnreadableRecords, match=told):
            await load_records(bus, lines)
    finally:
        await bus.close()
