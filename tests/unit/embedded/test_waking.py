"""Waiting and waking: nothing is missed, nothing burns."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from holdfast.bus.embedded.waiting import WAIT_S_MAX, Waiter
from holdfast.bus.embedded.wake import Wake, WakeReceiver, WakeSender
from holdfast.bus.port import Record, TopicPartition
from tests.unit.embedded.places import count, make, on_file, publish, started


async def test_news_between_look_and_wait_is_not_missed() -> None:
    waiter = Waiter()
    waiter.look()
    waiter.wake()
    async with asyncio.timeout(0.1):
        await waiter.wait(60.0)


async def test_nobody_waits_longer_than_half_a_second() -> None:
    assert WAIT_S_MAX == 0.5
    waiter = Waiter()
    waiter.look()
    async with asyncio.timeout(5.0):
        await waiter.wait(60.0)


async def test_the_byte_comes_when_the_commit_is_visible(tmp_path: Path) -> None:
    async with started(tmp_path) as here, started(tmp_path) as there:
        await make(here, "topic")
        reader = await there.open_reader({TopicPartition("topic", 0): 0})
        heard: list[int] = []
        assert there._open is not None
        where = TopicPartition("topic", 0)

        def woken(kinds: set[Wake]) -> None:
            if Wake.RECORDS in kinds:
                stream = there._catalog.stream(where)
                heard.append(there._log.ends([stream])[stream].head)

        while await count(here, "listeners") == 0:
            await asyncio.sleep(0.01)
        there._open.news.woken = woken  # type: ignore[method-assign, assignment]
        for n in range(20):
            await publish(here, "topic", [b"v"])
            async with asyncio.timeout(5.0):
                while len(heard) <= n:
                    await asyncio.sleep(0.001)
        assert heard == list(range(1, 21))
        await reader.close()


async def test_only_who_listens_is_woken(tmp_path: Path) -> None:
    async with started(tmp_path) as here, started(tmp_path) as there:
        await make(here, "topic")
        await make(here, "other")
        reader = await there.open_reader({TopicPartition("topic", 0): 0})
        while await count(here, "listeners") == 0:
            await asyncio.sleep(0.01)
        assert there._open is not None
        there._open.loop.remove_reader(there._open.socket.fileno())
        await publish(here, "other", [b"v"])
        assert there._open.socket.drain() == set()
        await publish(here, "topic", [b"v"])
        assert there._open.socket.drain() == {Wake.RECORDS}
        await reader.close()


async def test_a_dead_reader_is_forgotten(tmp_path: Path) -> None:
    async with started(tmp_path) as bus:
        await make(bus, "topic")
        stream = bus._catalog.topic("topic").first_stream

        def list_dead(transaction: object) -> None:
            transaction.db.execute("INSERT INTO listeners VALUES ('dead', ?)", (stream,))  # type: ignore[attr-defined]
            transaction.listeners_changed = True  # type: ignore[attr-defined]

        await on_file(bus, list_dead)
        await publish(bus, "topic", [b"v"])
        async with asyncio.timeout(5.0):
            while await count(bus, "listeners"):
                await asyncio.sleep(0.01)


async def test_a_full_queue_is_a_wake_up_that_is_pending(tmp_path: Path) -> None:
    receiver, sender = WakeReceiver(tmp_path, "one"), WakeSender(tmp_path)
    for _ in range(5_000):
        assert sender.send(["one"], Wake.RECORDS) == []
    assert receiver.drain() == {Wake.RECORDS}
    sender.send(["one"], Wake.GROUP)
    assert receiver.drain() == {Wake.GROUP}
    receiver.close()
    assert sender.send(["one"], Wake.RECORDS) == ["one"]
    sender.close()


async def test_a_long_path_is_no_obstacle(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 40)
    folder.mkdir()
    receiver, sender = WakeReceiver(folder, "one"), WakeSender(folder)
    assert sender.send(["one"], Wake.RECORDS) == []
    assert receiver.drain() == {Wake.RECORDS}
    receiver.close()
    sender.close()


async def test_waiting_burns_no_core(tmp_path: Path) -> None:
    async with started(tmp_path) as bus:
        await make(bus, "topic")
        reader = await bus.open_reader({TopicPartition("topic", 0): 0})
        await reader.poll(0.2)
        before_s = time.process_time()
        assert await reader.poll(1.0) == []
        burnt_s = time.process_time() - before_s
        await reader.close()
    assert burnt_s < 0.02, f"{burnt_s:.3f} s of a core in one second of waiting"


async def test_a_reader_that_lags_lets_others_run(tmp_path: Path) -> None:
    async with started(tmp_path) as bus:
        await make(bus, "topic")
        await bus.publish([Record("topic", b"k", b"v", (), 0)] * 2_000)
        reader = await bus.open_reader({TopicPartition("topic", 0): 0})
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.create_task(other())
        for _ in range(4):
            assert await reader.poll(1.0)
        task.cancel()
        await reader.close()
    assert turns >= 4
