"""The writers' queue: gate, lock, who holds them, and what happens to one that stands still."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from holdfast.bus.embedded import EmbeddedBus, queue_lock
from holdfast.bus.embedded.queue_lock import CommitQueue, Holder, HolderWatch, end_process
from holdfast.bus.port import Record, Slot, TopicSpec
from tests.contract.kit_sqlite import SqliteKit
from tests.unit.embedded.places import lock_is_held, make, started, thread_of, trace


def enter_in_thread(queue: CommitQueue, name: str, order: list[str]) -> threading.Thread:
    def run() -> None:
        queue.enter()
        order.append(name)
        queue.leave()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def wait_until(condition: object) -> None:
    for _ in range(2_000):
        if condition():  # type: ignore[operator]
            return
        threading.Event().wait(0.005)
    raise AssertionError("it never came")


def at(folder: Path, name: str) -> bool:
    try:
        return lock_is_held(folder, name)
    except FileNotFoundError:
        return False


def test_who_stands_at_the_gate_is_next(tmp_path: Path) -> None:
    folder = tmp_path / "bus.db.d"
    folder.mkdir()
    first, second, third = (CommitQueue(folder) for _ in range(3))
    order: list[str] = []
    first.enter()
    assert at(tmp_path, "lock")
    assert not at(tmp_path, "gate"), "the gate is left as soon as the lock is held"
    waiting = [enter_in_thread(second, "second", order)]
    wait_until(lambda: at(tmp_path, "gate"))
    waiting.append(enter_in_thread(third, "third", order))
    wait_until(lambda: third.waiting)
    assert order == []
    first.leave()
    for thread in waiting:
        thread.join(10)
    assert order == ["second", "third"]
    for queue in (first, second, third):
        queue.close()


WRITER = """
import sys, time
from pathlib import Path
from holdfast.bus.embedded.queue_lock import CommitQueue
queue = CommitQueue(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
turns, until = 0, time.monotonic() + 0.5
while time.monotonic() < until:
    queue.enter()
    time.sleep(0.0005)
    queue.leave()
    turns += 1
print(turns, flush=True)
"""


def test_no_writer_starves(tmp_path: Path) -> None:
    # By SQLite's own busy handler one of three made a single commit in 2 s.
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    writers = [subprocess.Popen(command, **pipes) for _ in range(3)]  # type: ignore[call-overload]
    try:
        for writer in writers:
            assert writer.stdout.readline() == "ready\n"
        for writer in writers:
            writer.stdin.write("go\n")
            writer.stdin.flush()
        turns = [int(writer.communicate(timeout=30)[0]) for writer in writers]
    finally:
        for writer in writers:
            writer.kill()
    assert sum(turns) > 30
    assert min(turns) > max(turns) / 2, turns


def test_a_holder_is_noted_and_cleared_before_it_lets_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = CommitQueue(tmp_path)
    assert queue.holders() == (None, None)
    queue.enter()
    gate, lock = queue.holders()
    assert gate is None
    assert lock is not None
    assert lock.pid == os.getpid()
    assert queue.mine(lock)

    seen_at_unlock = []
    flock = fcntl.flock

    def spy(descriptor: int, operation: int) -> None:
        if operation == fcntl.LOCK_UN:
            seen_at_unlock.append(queue.holders()[1])
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", spy)
    queue.leave()
    assert seen_at_unlock == [None]
    queue.close()


class FakeQueue:
    def __init__(self) -> None:
        self.waiting = True
        self.at_gate: Holder | None = None
        self.at_lock: Holder | None = None

    def holders(self) -> tuple[Holder | None, Holder | None]:
        return self.at_gate, self.at_lock

    def mine(self, holder: Holder) -> bool:
        return holder.pid == 1


def watching(queue: FakeQueue) -> tuple[HolderWatch, list[float], list[Holder]]:
    now, ended = [0.0], []

    def end(holder: Holder) -> bool:
        ended.append(holder)
        return True

    return HolderWatch(queue, end, lambda: now[0]), now, ended  # type: ignore[arg-type]


def test_it_says_so_after_10_s_and_ends_it_after_30(caplog: pytest.LogCaptureFixture) -> None:
    queue = FakeQueue()
    queue.at_lock = Holder(77, 5, 9, 1)
    watch, now, ended = watching(queue)
    for second in range(10):
        now[0] = second
        watch.step()
    assert not caplog.records
    for second in range(10, 30):
        now[0] = second
        watch.step()
    assert [r.levelno for r in caplog.records] == [logging.WARNING], "said once"
    assert "process 77" in caplog.text
    assert ended == []
    now[0] = 30.0
    watch.step()
    assert ended == [Holder(77, 5, 9, 1)]


def test_many_short_turns_are_a_queue_and_not_a_fault() -> None:
    queue = FakeQueue()
    watch, now, ended = watching(queue)
    for second in range(100):
        now[0] = second
        queue.at_lock = Holder(77, 5, 9, second // 5)
        watch.step()
    assert ended == []


def test_one_that_stands_at_the_gate_is_found_and_oneself_never_is() -> None:
    queue = FakeQueue()
    queue.at_gate, queue.at_lock = Holder(78, 5, 9, 1), Holder(1, 1, 1, 1)
    watch, now, ended = watching(queue)
    for second in (0.0, 31.0):
        now[0] = second
        watch.step()
    assert [holder.pid for holder in ended] == [78]
    queue.at_gate = None
    for second in (40.0, 80.0):
        now[0] = second
        watch.step()
    assert len(ended) == 1
    queue.waiting = False
    queue.at_gate = Holder(79, 5, 9, 1)
    for second in (100.0, 140.0):
        now[0] = second
        watch.step()
    assert len(ended) == 1, "who does not wait does not judge"


def test_only_the_very_process_is_ended(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started_at, namespace = queue_lock._started(child.pid), queue_lock._pid_namespace()
    assert started_at is not None
    assert not end_process(Holder(child.pid, started_at + 1, namespace, 1)), "a reused process id"
    assert not end_process(Holder(child.pid, started_at, namespace + 1, 1)), "another container"
    assert child.poll() is None
    assert end_process(Holder(child.pid, started_at, namespace, 1))
    assert child.wait(10) == -signal.SIGKILL
    assert not end_process(Holder(child.pid, started_at, namespace, 1))


async def test_a_process_stopped_inside_a_commit_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(queue_lock, "SAY_AFTER_S", 0.2)
    monkeypatch.setattr(queue_lock, "END_AFTER_S", 0.6)
    kit = SqliteKit(tmp_path)
    bus = await kit.connect()
    try:
        await bus.create_topics([TopicSpec("topic", 1)])
        record = Record("topic", b"k", b"stopped", (), 0)
        child = await kit.spawn_held_commit(Slot("group", 0), [record], {})
        child.stop()
        async with asyncio.timeout(20):
            await bus.publish([Record("topic", b"k", b"on", (), 0)])
        assert [r.value async for batch in bus.read("topic", 0) for r in batch] == [b"on"]
        assert f"process {child.pid} has been inside a commit" in caplog.text
        assert f"process {child.pid} ended" in caplog.text
    finally:
        await kit.close()


async def test_every_write_checkpoint_and_closing_happens_under_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast.bus.embedded.commit_thread.WAL_BYTES_MAX", 1)
    heard: list[tuple[str, bool]] = []
    async with started(tmp_path) as bus:
        await trace(bus, lambda statement: heard.append((statement, lock_is_held(tmp_path))))
        await make(bus, "topic")
        await bus.publish([Record("topic", b"k", b"v", (), 0)])
        await bus.tidy()
        closing = _watch_closing(bus, tmp_path)
    statements = [statement for statement, _ in heard]
    assert any(statement.startswith("INSERT INTO log") for statement in statements)
    assert "PRAGMA wal_checkpoint(TRUNCATE)" in statements
    assert [statement for statement, held in heard if not held] == []
    assert closing == [("reader", False), ("writer", True)], "the last one to close checkpoints"


class Closing:
    """A connection whose closing is noted, with whether the lock was held then."""

    def __init__(self, db: object, name: str, closed: list[tuple[str, bool]], folder: Path) -> None:
        self._db = db
        self._name, self._closed, self._folder = name, closed, folder

    def __getattr__(self, name: str) -> object:
        return getattr(self._db, name)

    def close(self) -> None:
        self._closed.append((self._name, lock_is_held(self._folder)))
        self._db.close()  # type: ignore[attr-defined]


def _watch_closing(bus: EmbeddedBus, folder: Path) -> list[tuple[str, bool]]:
    closed: list[tuple[str, bool]] = []
    thread = thread_of(bus)
    assert bus._open is not None
    thread._db = Closing(thread._db, "writer", closed, folder)  # type: ignore[assignment]
    bus._open.db = Closing(bus._open.db, "reader", closed, folder)  # type: ignore[assignment]
    return closed
