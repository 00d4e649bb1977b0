"""Records of topics as lines of text: to be put into a file, and onto another bus.

    {"holdfast": "records", "format": 1, "topics": {"<name>": [[<end offset>, …], "<cleanup>"]}}
    ["<name>", <partition>, <offset>, <timestamp ms>, <key>, <value>, [[<header>, <value>], …]]

Keys and values are base64, or null. A file of these is a fixture of an older version's log, or
what journals are replayed from where their bus is out of reach (`holdfast journals export`).
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Collection, Iterable
from typing import Any

from holdfast.bus.port import Bus, Cleanup, Received, Record, TopicPartition, TopicSpec
from holdfast.schemas.errors import HoldfastError

__all__ = ["UnreadableRecords", "load_records", "save_records"]

FORMAT = 1
BATCH_RECORDS = 500


class UnreadableRecords(HoldfastError):
    """A file does not hold saved records, or they cannot be put where they stood."""


async def save_records(bus: Bus, topics: Collection[str]) -> AsyncIterator[str]:
    """Yield the lines of all records that stand on `topics` now; raises `TopicMissing`."""
    infos = await bus.describe_topics(topics)
    places = [TopicPartition(n, p) for n in sorted(topics) for p in range(infos[n].partitions)]
    ends = await bus.end_offsets(places)
    told = {
        name: [
            [ends[TopicPartition(name, p)] for p in range(infos[name].partitions)],
            infos[name].cleanup.value,
        ]
        for name in sorted(topics)
    }
    yield json.dumps({"holdfast": "records", "format": FORMAT, "topics": told})
    for name in sorted(topics):
        for partition in range(infos[name].partitions):
            end = ends[TopicPartition(name, partition)]
            async for batch in bus.read(name, partition, 0, end):
                for received in batch:
                    yield json.dumps(_line(received), separators=(",", ":"))


async def load_records(bus: Bus, lines: Iterable[str], *, in_place: bool = False) -> list[str]:
    """Create the topics that saved records are of, and write them; return the topics' names.

    `in_place`: every record gets the offset that it had, as those who have consumed up to it need
    it; what had been purged before is purged again. The topics must be new, and the records without
    gaps. Raises `UnreadableRecords`, `TopicMismatch`.
    """
    given = iter(lines)
    topics = _topics(next(given, ""))
    await bus.create_topics(
        [TopicSpec(name, len(ends), Cleanup(kind)) for name, (ends, kind) in topics.items()]
    )
    records = [_record(line, number) for number, line in enumerate(given, start=2)]
    if in_place:
        await _purged(bus, topics, records)
    for start in range(0, len(records), BATCH_RECORDS):
        batch = records[start : start + BATCH_RECORDS]
        positions = await bus.publish([record for _, record in batch])
        for (offset, _), position in zip(batch, positions, strict=True):
            if in_place and position.offset != offset:
                raise UnreadableRecords(
                    f"a record of {position.topic}/{position.partition} stood at {offset}, and came"
                    f" to stand at {position.offset}"
                )
    return sorted(topics)


async def _purged(
    bus: Bus, topics: dict[str, tuple[list[int], str]], records: list[tuple[int, Record]]
) -> None:
    """Let each log begin where it began: with what was purged written, and purged."""
    begin = {
        TopicPartition(name, partition): end
        for name, (ends, _) in topics.items()
        for partition, end in enumerate(ends)
    }
    for offset, record in reversed(records):
        begin[TopicPartition(record.topic, record.partition or 0)] = offset
    for place, offset in begin.items():
        filling = [Record(place.topic, b"purged", b"", (), place.partition)] * offset
        for start in range(0, offset, BATCH_RECORDS):
            await bus.publish(filling[start : start + BATCH_RECORDS])
    if gone := {place: offset for place, offset in begin.items() if offset}:
        await bus.purge(gone)


def _line(received: Received) -> list[Any]:
    headers = [[name, _text(value)] for name, value in received.headers]
    where = [received.topic, received.partition, received.offset, received.timestamp_ms]
    return [*where, _text(received.key), _text(received.value), headers]


def _topics(line: str) -> dict[str, tuple[list[int], str]]:
    try:
        head = json.loads(line)
        if (head["holdfast"], head["format"]) != ("records", FORMAT):
            raise ValueError("another format")
        return {name: (list(ends), kind) for name, (ends, kind) in head["topics"].items()}
    except (ValueError, LookupError, TypeError) as error:
        raise UnreadableRecords(f"line 1 does not begin saved records: {error}") from None


def _record(line: str, number: int) -> tuple[int, Record]:
    try:
        topic, partition, offset, _, key, value, headers = json.loads(line)
        told = tuple((name, _bytes(held) or b"") for name, held in headers)
        return int(offset), Record(topic, _bytes(key), _bytes(value), told, int(partition))
    except (ValueError, TypeError) as error:
        raise UnreadableRecords(f"line {number} is no saved record: {error}") from None


def _text(data: bytes | None) -> str | None:
    return None if data is None else base64.b64encode(data).decode()


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text, validate=True)
