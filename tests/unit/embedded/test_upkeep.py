"""Purging, retention, compaction, blobs: bounded steps, and a file that does not grow for ever."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TypeVar

import pytest

from holdfast.bus.embedded import upkeep
from holdfast.bus.embedded.blobs import CHUNK_BYTES
from holdfast.bus.embedded.commit_thread import Transaction
from holdfast.bus.embedded.tail import READ_RECORDS_MAX
from holdfast.bus.embedded.upkeep import compact_step, purge_step
from holdfast.bus.port import Cleanup, Record, TopicPartition
from tests.unit.embedded.places import count, make, on_file, publish, started, thread_of, trace

T = TypeVar("T")
WHERE = TopicPartition("topic", 0)


async def test_purging_takes_at_most_1000_rows_a_transaction(tmp_path: Path) -> None:
    async with started(tmp_path) as bus:
        await make(bus, "topic")
        await publish(bus, "topic", [b"v"] * 2_500)
        stream = bus._catalog.stream(WHERE)
        left = []
        for _ in range(3):
            more = await on_file(bus, lambda t: purge_step(t, stream, 2_400))
            left.append((await count(bus, "log"), more))
            assert (await bus.begin_offsets([WHERE]))[WHERE] == 2_400, "the start moves first"
    assert left == [(1_500, True), (500, True), (100, False)]


async def test_purging_beyond_the_end_keeps_the_offsets(tmp_path: Path) -> None:
    async with started(tmp_path) as bus:
        await make(bus, "topic")
        await publish(bus, "topic", [b"v"] * 3)
        await bus.purge({WHERE: 1_000})
        assert (await bus.begin_offsets([WHERE]))[WHERE] == 3
        await publish(bus, "topic", [b"next"])
        assert [r.offset async for batch in bus.read("topic", 0) for r in batch] == [3]


async def test_the_file_uses_its_pages_again(tmp_path: Path) -> None:
    sizes = []
    async with started(tmp_path) as bus:
        await make(bus, "topic")
        for n in range(1, 7):
            await publish(bus, "topic", [bytes(1_000)] * 1_000)
            await bus.purge({WHERE: n * 1_000})
            sizes.append(await on_file(bus, page_count))
    assert sizes[-1] <= sizes[1] * 1.2, sizes


def page_count(transaction: Transaction) -> int:
    return int(transaction.db.execute("PRAGMA page_count").fetchone()[0])


async def test_old_records_are_let_go_by_age(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with started(tmp_path) as bus:
        await make(bus, "topic", Cleanup.RETAIN, retention_ms=60_000)
        await publish(bus, "topic", [b"old"] * 1_500)
        await on_file(bus, lambda t: t.db.execute("UPDATE log SET at_ms = at_ms - 61000"))
        await publish(bus, "topic", [b"new"])
        await bus.tidy()
        assert [r.value async for batch in bus.read("topic", 0) for r in batch] == [b"new"]
        assert (await bus.begin_offsets([WHERE]))[WHERE] == 1_500


async def test_old_records_are_let_go_by_size(tmp_path: Path) -> None:
    async with started(tmp_path) as bus:
        await make(bus, "topic", Cleanup.RETAIN, retention_bytes=50_000)
        await publish(bus, "topic", [bytes(999)] * 200)
        await bus.tidy()
        found = [r async for batch in bus.read("topic", 0) for r in batch]
    assert len(found) == 50


async def test_until_consumed_means_until_consumed(tmp_path: Path) -> None:
    async with started(tmp_path) as bus:
        await make(bus, "topic")
        await publish(bus, "topic", [b"v"] * 10)
        await on_file(bus, lambda t: t.db.execute("UPDATE log SET at_ms = 0"))
        await bus.tidy(dirty_min=1)
        assert await count(bus, "log") == 10


async def test_compaction_goes_in_bounded_steps_and_keeps_the_newest(tmp_path: Path) -> None:
    async with started(tmp_path) as bus:
        await make(bus, "topic", Cleanup.COMPACT)
        for n in range(10):
            for key in (b"a", b"b", b"c"):
                await publish(bus, "topic", [b"%d" % n] * 120, key)
        stream = bus._catalog.stream(WHERE)
        before = await count(bus, "log")
        assert await on_file(bus, lambda t: compact_step(t, stream, 0, 0, 1))
        assert 900 < before - await count(bus, "log") <= 1_000
        await bus.tidy(dirty_min=1)
        found = [(r.offset, r.key, r.value) async for b in bus.read("topic", 0) for r in b]
    assert found == [(3359, b"a", b"9"), (3479, b"b", b"9"), (3599, b"c", b"9")]


async def test_compaction_takes_few_statements_however_many_records(tmp_path: Path) -> None:
    """Each may cost a busy process 5 ms, in which nobody else writes to the file."""
    statements: list[str] = []
    async with started(tmp_path, tombstone_grace_s=0.0) as bus:
        await make(bus, "topic", Cleanup.COMPACT)
        stream, keys = bus._catalog.stream(WHERE), [b"%d" % n for n in range(500)]
        await trace(bus, statements.append)
        for value in (b"1", b"2", None):
            await bus.publish([Record("topic", key, value, (), 0) for key in keys])
            await on_file(bus, lambda t: compact_step(t, stream, 1_000, 0, 1))
        await on_file(bus, lambda t: compact_step(t, stream, 2_000, 0, 1))
        assert await count(bus, "log") == await count(bus, "newest") == 0
    assert len([s for s in statements if s.startswith("DELETE")]) <= 4 * 3 + 3, statements


async def test_compaction_comes_to_an_end_while_others_write_on(tmp_path: Path) -> None:
    """It went on as long as there was anything new, and never came to the next partition."""
    async with started(tmp_path) as bus:
        await make(bus, "topic", Cleanup.COMPACT)
        await publish(bus, "topic", [b"v"] * 1_500, b"key")

        async def overtaken(run: Callable[[Transaction], T]) -> T:
            done = await on_file(bus, run)
            await publish(bus, "topic", [b"new"] * 3, b"key")
            return done

        keeper = upkeep.Upkeep(overtaken, bus._open.db, 60.0, lambda: 0)
        async with asyncio.timeout(10):
            await keeper.tidy(bus._catalog.topic("topic"))
        assert await count(bus, "log") == 4


async def test_tombstones_go_after_their_grace_and_not_before(tmp_path: Path) -> None:
    async with started(tmp_path, tombstone_grace_s=60.0) as bus:
        await make(bus, "topic", Cleanup.COMPACT)
        await publish(bus, "topic", [b"1", None], b"gone")
        await publish(bus, "topic", [None, b"2"], b"back")
        await bus.tidy(dirty_min=1)
        found = [(r.key, r.value) async for b in bus.read("topic", 0) for r in b]
        assert found == [(b"gone", None), (b"back", b"2")]
        await on_file(bus, lambda t: t.db.execute("UPDATE tombstones SET at_ms = at_ms - 61000"))
        await bus.tidy(dirty_min=1)
        found = [(r.key, r.value) async for b in bus.read("topic", 0) for r in b]
        assert found == [(b"back", b"2")]
        assert await count(bus, "tombstones") == 0
        assert await count(bus, "newest") == 1
        await publish(bus, "topic", [b"again"], b"gone")
        await bus.tidy(dirty_min=1)
        assert await count(bus, "log") == 2


async def test_who_has_read_a_value_finds_its_tombstone_however_old_that_is(tmp_path: Path) -> None:
    """A quiet journal is compacted hours later, perhaps while its slot is being restored: what the
    restore has read before must not come to life again."""
    async with started(tmp_path, tombstone_grace_s=60.0) as bus:
        await make(bus, "topic", Cleanup.COMPACT)
        await publish(bus, "topic", [b"open"], b"finished")
        keys = [b"%d" % n for n in range(READ_RECORDS_MAX)]
        await bus.publish([Record("topic", key, b"v", (), 0) for key in keys])
        await publish(bus, "topic", [None], b"finished")
        await on_file(bus, lambda t: t.db.execute("UPDATE log SET at_ms = at_ms - 3600000"))
        restoring = bus.read("topic", 0)
        state = {r.key: r.value for r in await anext(restoring)}
        assert state[b"finished"] == b"open"
        await bus.tidy(dirty_min=1)
        await bus.tidy(dirty_min=1)
        async for records in restoring:
            state.update((r.key, r.value) for r in records)
    assert state[b"finished"] is None


async def test_a_journal_does_not_grow_for_ever(tmp_path: Path) -> None:
    async with started(tmp_path, tombstone_grace_s=0.0) as bus:
        await make(bus, "topic", Cleanup.COMPACT)
        sizes = []
        for n in range(6):
            for key in range(20):
                await publish(bus, "topic", [b"x" * 500] * 20 + [None], b"%d-%d" % (n, key))
            await bus.tidy()
            await bus.tidy()
            sizes.append(sum([await count(bus, t) for t in ("log", "newest", "tombstones")]))
    assert sizes[-1] <= max(sizes[:2]), sizes


async def test_upkeep_rests_by_what_it_worked_and_not_by_how_long_it_waited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a busy file it waits long for its turns: resting for that too, it would fall behind."""
    queued_s, rests_s = 0.05, list[float]()

    async def rest(delay_s: float) -> None:
        rests_s.append(delay_s)

    async with started(tmp_path) as bus:
        await make(bus, "topic", Cleanup.COMPACT)
        await publish(bus, "topic", [b"v"] * 2_500, b"key")

        async def queued(run: Callable[[Transaction], T]) -> T:
            await asyncio.sleep(queued_s)
            return await on_file(bus, run)

        keeper = upkeep.Upkeep(queued, bus._open.db, 60.0, lambda: 0)
        monkeypatch.setattr(upkeep, "asyncio", SimpleNamespace(sleep=rest))
        await keeper.tidy(bus._catalog.topic("topic"))
        assert await count(bus, "log") == 1
    assert len(rests_s) >= 3
    assert max(rests_s) < 4 * queued_s, rests_s


async def test_upkeep_is_done_by_one_of_many(tmp_path: Path) -> None:
    async with started(tmp_path) as bus:
        answers = [
            await on_file(bus, partial(upkeep.due, now_ms=now_ms, every_ms=5_000))
            for now_ms in (9_000, 9_001, 14_000, 100)
        ]
    assert answers == [True, False, True, True], "the last one: a clock that was set back"


async def test_20_mb_go_in_and_out_in_small_transactions(tmp_path: Path) -> None:
    data = os.urandom(20_000_000)
    statements: list[str] = []
    async with started(tmp_path) as bus:
        await trace(bus, lambda s: statements.append(s[:30]))
        await bus.put_blob("run/sha", data)
        assert await bus.get_blob("run/sha") == data
        chunks = [s for s in statements if s.startswith("INSERT INTO blob_chunks")]
        assert len(chunks) == -(-len(data) // CHUNK_BYTES)
        between = statements[statements.index(chunks[0]) :]
        assert between[1].startswith("COMMIT"), "one piece, one transaction"
        await bus.put_blob("run/sha", b"")
        assert await bus.get_blob("run/sha") == b""
        assert await bus.get_blob("missing") is None
        await bus.tidy()
        assert await count(bus, "blob_chunks") == 0, "what was replaced is swept"


async def test_a_blob_is_there_wholly_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with started(tmp_path) as bus:
        monkeypatch.setattr("holdfast.bus.embedded.blobs._name", None)
        with pytest.raises(TypeError):
            await bus.put_blob("half", bytes(3 * CHUNK_BYTES))
        monkeypatch.undo()
        assert await bus.get_blob("half") is None
        assert await count(bus, "blob_chunks") == 3
        await bus.tidy()
        assert await count(bus, "blob_chunks") == 3, "its writer may still be at it"
        await on_file(bus, lambda t: t.db.execute("UPDATE blob_contents SET at_ms = 5"))
        await bus.tidy()
        assert await count(bus, "blob_chunks") == 0


async def test_blobs_are_listed_in_order_and_deleted(tmp_path: Path) -> None:
    async with started(tmp_path) as bus:
        for name in ("run-2/a", "run-1/b", "run-1/a", "run_1/c"):
            await bus.put_blob(name, name.encode())
        listed = await bus.list_blobs("run-1/")
        assert [(blob.name, blob.size) for blob in listed] == [("run-1/a", 7), ("run-1/b", 7)]
        assert [b.name for b in await bus.list_blobs(after="run-1/b", limit=1)] == ["run-2/a"]
        await bus.delete_blobs(["run-1/a", "run-1/b", "missing"])
        assert [b.name for b in await bus.list_blobs()] == ["run-2/a", "run_1/c"]
        assert await count(bus, "blob_chunks") == 2
        assert thread_of(bus).failure is None
