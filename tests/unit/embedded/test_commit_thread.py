"""The commit thread: one thread, few statements, groups that do not hurt each other."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
import threading
from pathlib import Path

import pytest

from holdfast.bus.embedded import EmbeddedBus, EmbeddedSettings
from holdfast.bus.embedded.append import Append, Row
from holdfast.bus.embedded.commit_thread import commit
from holdfast.bus.embedded.settings import Synchronous
from holdfast.bus.embedded.store import connect_reader, log_id, split_log_id
from holdfast.bus.errors import BusUnavailable, Fenced, Rejected
from holdfast.bus.port import Record, Slot
from tests.contract.kit_sqlite import SqliteKit
from tests.unit.embedded.places import make, on_file, publish, started, thread_of, trace


async def test_it_says_which_sqlite_it_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with started(tmp_path):
        assert f"SQLite {sqlite3.sqlite_version}" in caplog.text


async def test_one_thread_commits_and_python_switches_often(tmp_path: Path) -> None:
    threads = set()
    before_s = sys.getswitchinterval()
    try:
        sys.setswitchinterval(0.005)
        async with started(tmp_path) as bus:
            assert sys.getswitchinterval() <= 0.0005
            await make(bus, "topic")
            await trace(bus, lambda _: threads.add(threading.get_ident()))
            for _ in range(3):
                await publish(bus, "topic", [b"v"])
            await bus.open_writer(Slot("g", 0))
    finally:
        sys.setswitchinterval(before_s)
    assert len(threads) == 1
    assert threads.isdisjoint({threading.get_ident()})


async def test_connections_have_no_transactions_of_their_own(tmp_path: Path) -> None:
    async with started(tmp_path) as bus:
        assert await on_file(bus, lambda t: t.db.isolation_level) is None
        assert bus._open is not None
        reader = bus._open.db
        assert reader is not None
        assert reader.isolation_level is None
        with pytest.raises(sqlite3.OperationalError, match=r"readonly|read-only|query"):
            reader.execute("DELETE FROM log")
        assert reader.execute("PRAGMA wal_autocheckpoint").fetchone() == (0,)
        pages = await on_file(bus, lambda t: t.db.execute("PRAGMA wal_autocheckpoint").fetchone())
        assert pages == (1000,)
        thread_s_own = thread_of(bus)._db
        assert thread_s_own is not None
        with pytest.raises(sqlite3.ProgrammingError, match="thread"):
            thread_s_own.execute("SELECT 1")


async def test_every_commit_is_synced_to_the_disk(tmp_path: Path) -> None:
    # A power cut cannot be had in a test, and `kill -9` keeps what the kernel has not written yet:
    # what can be held is that SQLite is told to sync the log before it answers.
    assert EmbeddedSettings(tmp_path / "bus.db").synchronous is Synchronous.FULL
    async with started(tmp_path) as bus:
        synchronous = await on_file(bus, lambda t: t.db.execute("PRAGMA synchronous").fetchone())
        mode = await on_file(bus, lambda t: t.db.execute("PRAGMA journal_mode").fetchone())
    assert synchronous == (2,)
    assert mode == ("wal",)


async def test_many_records_are_few_statements(tmp_path: Path) -> None:
    statements: list[str] = []
    async with started(tmp_path) as bus:
        await make(bus, "topic")
        await trace(bus, statements.append)
        await publish(bus, "topic", [b"v"] * 341)
    inserts = [s for s in statements if s.startswith("INSERT INTO log")]
    assert len(inserts) == 5, "256 + 64 + 16 + 4 + 1: a few fixed sizes"


async def test_a_record_s_row_id_is_stream_and_offset(tmp_path: Path) -> None:
    async with started(tmp_path) as bus:
        await make(bus, "first")
        await make(bus, "second")
        await publish(bus, "second", [b"a", b"b"])
        stream = bus._catalog.topic("second").first_stream
        ids = await on_file(bus, lambda t: t.db.execute("SELECT id FROM log").fetchall())
    assert ids == [(stream << 40,), (stream << 40 | 1,)]
    assert split_log_id(log_id(9, 12_345)) == (9, 12_345)


async def test_commits_that_wait_share_the_next_transaction(tmp_path: Path) -> None:
    commits = []
    async with started(tmp_path) as bus:
        await make(bus, "topic")
        writers = [await bus.open_writer(Slot("g", n)) for n in range(8)]
        thread = thread_of(bus)

        def counting(db: sqlite3.Connection) -> None:
            commits.append(1)
            commit(db)

        async with SqliteKit.hold_commit(bus) as held:
            first = asyncio.create_task(publish(bus, "topic", [b"first"]))
            await held.reached()
            record = Record("topic", b"k", b"v", (), 0)
            rest = [asyncio.create_task(w.commit([record], {})) for w in writers]
            await asyncio.sleep(0)
            thread.commit = counting
            held.release()
            await asyncio.gather(first, *rest)
            assert len(commits) == 1


async def test_in_a_group_the_fenced_and_the_refused_do_not_hurt_the_others(
    tmp_path: Path,
) -> None:
    async with started(tmp_path) as bus:
        await make(bus, "topic")
        fenced = await bus.open_writer(Slot("g", 0))
        await bus.open_writer(Slot("g", 0))
        good = await bus.open_writer(Slot("g", 1))
        loop = asyncio.get_running_loop()
        stream = bus._catalog.topic("topic").first_stream
        record = Record("topic", b"k", b"v", (), 0)
        # Past every check: a value that SQLite does not bind.
        bad = Append([Row(stream, b"k", object(), None, 1)], [record], loop.create_future())  # type: ignore[arg-type]
        async with SqliteKit.hold_commit(bus) as held:
            first = asyncio.create_task(publish(bus, "topic", [b"first"]))
            await held.reached()
            tasks = [
                asyncio.create_task(fenced.commit([record], {})),
                asyncio.create_task(good.commit([record._replace(value=b"good")], {})),
            ]
            await asyncio.sleep(0)
            thread_of(bus).append(bad)
            held.release()
            outcomes = await asyncio.gather(first, *tasks, bad.future, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [type(None), Fenced, type(None), Rejected]
        found = [r.value async for batch in bus.read("topic", 0) for r in batch]
        assert found == [b"first", b"good"]


async def test_a_publish_whose_answer_is_lost_is_settled(tmp_path: Path) -> None:
    """Idempotent: whoever publishes again after an error writes nothing twice."""
    kit = SqliteKit(tmp_path)
    async with started(tmp_path) as bus:
        await make(bus, "topic")
        async with kit.lose_answer(bus, committed=True):
            await publish(bus, "topic", [b"committed"])
        async with kit.lose_answer(bus, committed=False):
            with pytest.raises(BusUnavailable):
                await publish(bus, "topic", [b"not"])
        await publish(bus, "topic", [b"after"])
        found = [r.value async for batch in bus.read("topic", 0) for r in batch]
    assert found == [b"committed", b"after"]


async def test_what_waited_too_long_never_begins(tmp_path: Path) -> None:
    kit = SqliteKit(tmp_path)
    async with started(tmp_path, operation_timeout_s=0.5) as bus:
        await make(bus, "topic")
        await kit.cut()
        with pytest.raises(BusUnavailable, match="never begun"):
            await publish(bus, "topic", [b"late"])
        await kit.restore()
        await publish(bus, "topic", [b"next"])
        found = [r.value async for batch in bus.read("topic", 0) for r in batch]
    assert found == [b"next"]


async def test_the_wal_is_cut_back_when_it_has_grown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast.bus.embedded.commit_thread.WAL_LOOK_S", 0.0)
    wal = tmp_path / "bus.db-wal"
    async with started(tmp_path) as bus:
        await make(bus, "topic")
        for _ in range(3):
            await publish(bus, "topic", [bytes(100_000)])
        assert wal.stat().st_size > 200_000
        monkeypatch.setattr("holdfast.bus.embedded.commit_thread.WAL_BYTES_MAX", 200_000)
        await publish(bus, "topic", [b"v"])
        assert wal.stat().st_size < 200_000


async def test_a_reader_in_the_way_costs_20_ms_at_most_once_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast.bus.embedded.commit_thread.WAL_BYTES_MAX", 1)
    monkeypatch.setattr("holdfast.bus.embedded.commit_thread.WAL_LOOK_S", 0.0)
    statements: list[str] = []
    async with started(tmp_path) as bus:
        await make(bus, "topic")
        reader = connect_reader(tmp_path / "bus.db")
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM log").fetchone()
        thread_of(bus)._truncate_after = 0.0
        await trace(bus, statements.append)
        for _ in range(5):
            await publish(bus, "topic", [b"v"])
        reader.close()
        assert statements.count("PRAGMA wal_checkpoint(TRUNCATE)") == 1
        waits = [s for s in statements if s.startswith("PRAGMA busy_timeout=")]
        assert waits[:1] == ["PRAGMA busy_timeout=20"]


async def test_the_file_is_never_opened_but_through_sqlite(tmp_path: Path) -> None:
    """Closing any descriptor of it would drop SQLite's locks (POSIX)."""
    opened: list[str] = []
    listening = True

    def audit(event: str, args: tuple[object, ...]) -> None:
        if listening and event == "open" and isinstance(args[0], str | bytes | os.PathLike):
            opened.append(os.fsdecode(args[0]))

    sys.addaudithook(audit)
    try:
        async with started(tmp_path) as bus:
            await make(bus, "topic")
            await publish(bus, "topic", [b"v"])
            await bus.put_blob("b", b"data")
            await bus.tidy(dirty_min=1)
            assert [r async for batch in bus.read("topic", 0) for r in batch]
    finally:
        listening = False
    inside = [path for path in opened if path.startswith(str(tmp_path))]
    assert inside, "the hook hears nothing"
    assert [path for path in inside if not path.startswith(f"{tmp_path}/bus.db.d/")] == []


async def test_nothing_is_used_after_a_fork(tmp_path: Path) -> None:
    async with started(tmp_path) as bus:
        await make(bus, "topic")
        thread = thread_of(bus)
        operation = Append([], [], asyncio.get_running_loop().create_future())
        pid = os.fork()
        if pid == 0:
            try:
                thread.append(operation)
            except RuntimeError as error:
                os._exit(0 if "spawn" in str(error) else 1)
            os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


async def test_a_file_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bus.db"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE mine(id)")
    db.close()
    with pytest.raises(BusUnavailable, match="not a Holdfast bus"):
        await EmbeddedBus(EmbeddedSettings(path)).start()
    path.write_bytes(b"not a database at all, but long enough to be read as one" * 50)
    with pytest.raises(BusUnavailable, match=str(path)):
        await EmbeddedBus(EmbeddedSettings(path)).start()
    with pytest.raises(BusUnavailable, match="cannot be opened"):
        await EmbeddedBus(EmbeddedSettings(path / "below" / "bus.db")).start()
