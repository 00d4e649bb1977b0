"""Reading in bounds, without a transaction or an unfinished cursor left behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.bus.embedded import EmbeddedBus
from holdfast.bus.embedded.tail import READ_BYTES_MAX, READ_RECORDS_MAX, Tail
from holdfast.bus.errors import OffsetOutOfRange
from holdfast.bus.port import Cleanup, Record, TopicPartition, TopicSpec
from tests.unit.embedded.places import make, on_file, publish, started

WHERE = TopicPartition("topic", 0)


def tail_of(bus: EmbeddedBus, start: int = 0) -> Tail:
    tail = Tail(bus._log, bus._catalog)
    tail.seek(WHERE, start)
    return tail


async def test_at_most_500_records(tmp_path: Path) -> None:
    async with started(tmp_path) as bus:
        await make(bus, "topic")
        await publish(bus, "topic", [b"v"] * 1_201)
        tail = tail_of(bus)
        taken = [len(tail.take([WHERE], 10_000)) for _ in range(4)]
    assert READ_RECORDS_MAX == 500
    assert taken == [500, 500, 201, 0]


@pytest.mark.parametrize("cleanup", [Cleanup.CONSUMED, Cleanup.COMPACT])
@pytest.mark.parametrize("start", [0, 3])
async def test_at_most_1_mib_but_always_one(tmp_path: Path, cleanup: Cleanup, start: int) -> None:
    sizes = [400_000, 400_000, 400_000, 1_000_000, 10, 600_000, 10, 1_048_575, 1, 300_000]
    async with started(tmp_path) as bus:
        await make(bus, "topic", cleanup)
        await bus.publish(
            [Record("topic", b"%d" % n, bytes(size), (), 0) for n, size in enumerate(sizes)]
        )
        tail, taken = tail_of(bus, start), []
        while records := tail.take([WHERE], 500):
            taken.append([len(record.value or b"") for record in records])
    assert [size for batch in taken for size in batch] == sizes[start:]
    assert all(len(batch) == 1 or sum(batch) <= READ_BYTES_MAX for batch in taken)
    assert len(taken) < len(sizes) - start, "not one by one"


async def test_no_transaction_or_cursor_stays_open(tmp_path: Path) -> None:
    async with started(tmp_path) as bus:
        await make(bus, "topic")
        await publish(bus, "topic", [bytes(5_000)] * 400)
        tail = tail_of(bus)
        assert len(tail.take([WHERE], 1)) == 1
        reading = bus.read("topic", 0)
        await anext(reading)
        assert bus._open is not None
        assert bus._open.db is not None
        assert not bus._open.db.in_transaction
        # With a reader inside, TRUNCATE answers busy = 1 and leaves the WAL as it is.
        await publish(bus, "topic", [b"v"])
        busy = await on_file(bus, _truncate)
        assert busy == 0


def _truncate(transaction: object) -> int:
    db = transaction.db  # type: ignore[attr-defined]
    db.execute("COMMIT")
    (busy, _, _) = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    db.execute("BEGIN")
    return int(busy)


async def test_partitions_take_turns(tmp_path: Path) -> None:
    async with started(tmp_path) as bus:
        await bus.create_topics([TopicSpec("topic", 3)])
        for partition in range(3):
            await bus.publish([Record("topic", b"k", b"v", (), partition)] * 600)
        tail = Tail(bus._log, bus._catalog)
        partitions = [TopicPartition("topic", partition) for partition in range(3)]
        tail.seek_all(dict.fromkeys(partitions, 0))
        first = {tail.take(partitions, 500)[0].partition for _ in range(3)}
    assert first == {0, 1, 2}


async def test_a_purge_between_two_looks_is_not_a_gap_to_skip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ends are read, then the rows: what is purged in between must be noticed all the same."""
    async with started(tmp_path) as bus:
        await make(bus, "topic")
        await publish(bus, "topic", [b"v"] * 10)
        stale = bus._log.ends([bus._catalog.stream(WHERE)])
        await bus.purge({WHERE: 5})
        tail, looks = tail_of(bus), [stale]
        fresh = bus._log.ends
        monkeypatch.setattr(bus._log, "ends", lambda s: looks.pop() if looks else fresh(s))
        with pytest.raises(OffsetOutOfRange, match=r"topic\[0\] begins at offset 5; 0 was"):
            tail.take([WHERE], 500)
        assert tail.position(WHERE) == 0
