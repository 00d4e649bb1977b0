"""Members of one file: who notices what, and how soon (ADR 2)."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from pathlib import Path

import pytest

from holdfast.bus.embedded import EmbeddedBus, presence, subscription
from holdfast.bus.embedded.members import Joining, evict, join
from holdfast.bus.embedded.presence import Presence, boot_ns, read_beat, watch
from holdfast.bus.embedded.subscription import EmbeddedSubscription
from holdfast.bus.errors import TopicMismatch
from holdfast.bus.port import Record, Slot, TopicPartition, TopicSpec
from tests.contract.kit import Listener, Timing
from tests.contract.kit_sqlite import SqliteKit
from tests.unit.embedded.places import count, make, on_file, started

GROUP = "group"


async def joined(bus: EmbeddedBus, name: str) -> tuple[EmbeddedSubscription, Listener]:
    listener = Listener()
    found = await bus.subscribe(GROUP, ["topic"], member=name, listener=listener)
    return found, listener


async def topic(bus: EmbeddedBus, partitions: int = 4) -> None:
    await bus.create_topics([TopicSpec("topic", partitions)])


async def test_a_death_is_noticed_by_the_lock_and_not_by_the_clock(tmp_path: Path) -> None:
    kit = SqliteKit(tmp_path)
    async with started(tmp_path, session_timeout_s=600.0, heartbeat_s=100.0) as bus:
        await topic(bus)
        one, listener = await joined(bus, "one")
        child = await kit.spawn_member(GROUP, ["topic"], "two", Timing(session_s=600.0))
        await listener.owns_count(2)
        begun = time.monotonic()
        await child.kill()
        await listener.owns({0, 1, 2, 3})
        print(f"taken over {1000 * (time.monotonic() - begun):.1f} ms after the kill")
        await one.close()
    await kit.close()


async def test_a_clock_that_stands_still_ends_a_membership(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lock is still held: the process exists, and does nothing."""
    async with started(tmp_path, session_timeout_s=1.0, heartbeat_s=0.1) as bus:
        await topic(bus)
        one, listener = await joined(bus, "one")
        still = Presence(tmp_path / "bus.db.d" / "members", "still")
        await on_file(bus, lambda t: join(t, Joining(GROUP, "two", "still", 4, 1.0), boot_ns()))
        begun = time.monotonic()
        await listener.owns_count(2)
        await listener.owns({0, 1, 2, 3})
        assert time.monotonic() - begun > 0.8
        still.close()
        await one.close()


async def test_a_beat_inside_the_last_moment_saves_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with started(tmp_path, session_timeout_s=1.0, heartbeat_s=0.1) as bus:
        await topic(bus)
        one, _ = await joined(bus, "one")
        late = Presence(tmp_path / "bus.db.d" / "members", "late")
        await on_file(bus, lambda t: join(t, Joining(GROUP, "two", "late", 4, 1.0), boot_ns()))
        assert one._keeper is not None
        one._keeper.cancel()
        looks, now = [0], read_beat
        monkeypatch.setattr(
            subscription, "read_beat", lambda f, i: looks.pop() if looks else now(f, i)
        )
        one._awake_since_ns = 0
        assert one._stands_still("late", 1.0), "so it looked from outside"
        late.beat()
        await one._evict("late", 1.0)
        assert await count(bus, "members") == 2, "the transaction looked again"
        looks.append(0)
        await one._evict("late", 1.0)
        assert await count(bus, "members") == 1
        late.close()
        await one.close()


async def test_a_judge_that_slept_itself_does_not_condemn(tmp_path: Path) -> None:
    """After the machine's sleep all clocks are old: who ticks first must not evict the others."""
    async with started(tmp_path, session_timeout_s=6.0, heartbeat_s=0.5) as bus:
        await topic(bus)
        one, _ = await joined(bus, "one")
        other = Presence(tmp_path / "bus.db.d" / "members", "other")
        long_ago = boot_ns() // 2
        os.pwrite(other._fd, presence._BEAT.pack(long_ago), 0)
        one._beat_ns = one._awake_since_ns = long_ago
        assert one._stands_still("other", 6.0)
        one._beat()
        assert not one._stands_still("other", 6.0)
        other.close()
        await one.close()


async def test_the_clock_counts_the_machine_s_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    clocks: list[int] = []

    def clock_gettime_ns(clock: int) -> int:
        clocks.append(clock)
        return 7

    monkeypatch.setattr(time, "clock_gettime_ns", clock_gettime_ns)
    assert boot_ns() == 7
    assert clocks == [time.CLOCK_BOOTTIME]


async def test_an_evicted_member_hears_it_and_joins_again(tmp_path: Path) -> None:
    async with started(tmp_path, heartbeat_s=0.1) as bus:
        await topic(bus)
        one, listener = await joined(bus, "one")
        await listener.owns({0, 1, 2, 3})
        old, group = one._joining.incarnation, one._group
        await on_file(bus, lambda t: evict(t, group, old, boot_ns()))
        async with asyncio.timeout(5):
            while len(listener.history) < 3:
                await asyncio.sleep(0.01)
        assert [len(owned) for owned in listener.history] == [4, 0, 4]
        assert one._joining.incarnation != old
        await one.close()


async def test_a_woken_member_hands_out_nothing_before_it_has_asked(tmp_path: Path) -> None:
    """`poll` looks first when the last heartbeat is old: here nothing else does."""
    async with started(tmp_path, heartbeat_s=1_000.0) as bus:
        await topic(bus)
        await bus.publish([Record("topic", b"k", b"v", (), 0)])
        one, listener = await joined(bus, "one")
        await listener.owns({0, 1, 2, 3})
        one.seek(TopicPartition("topic", 0), 0)
        one.resume([TopicPartition("topic", 0)])
        group, incarnation = one._group, one._joining.incarnation
        one._place.news._waiters.discard(one._changes)
        await on_file(bus, lambda t: evict(t, group, incarnation, boot_ns()))
        one._heartbeat_at -= one.session_timeout_s
        assert await one.poll(0.0) == []
        assert listener.current == frozenset()
        await one.close()


async def test_a_heartbeat_counts_only_when_it_was_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with started(tmp_path, heartbeat_s=0.05) as bus:
        await topic(bus)
        one, listener = await joined(bus, "one")
        await listener.owns({0, 1, 2, 3})
        begun: list[float] = []
        loop = asyncio.get_running_loop()
        beat = one._beat

        def beating() -> None:
            begun.append(loop.time())
            beat()

        monkeypatch.setattr(one, "_beat", beating)
        async with asyncio.timeout(5):
            while len(begun) < 2:
                await asyncio.sleep(0.01)
        assert one.heartbeat_at <= begun[-1], "it is the time before the clock was written"

        def unreadable(seen: int) -> bool:
            raise sqlite3.OperationalError("disk I/O error")

        monkeypatch.setattr(one, "_generation_moved", unreadable)
        last, beats = one.heartbeat_at, len(begun)
        async with asyncio.timeout(5):
            while len(begun) < beats + 3:
                await asyncio.sleep(0.01)
        assert one.heartbeat_at == last
        monkeypatch.undo()
        await one.close()


async def test_a_second_process_of_one_name_ends_the_first(tmp_path: Path) -> None:
    async with started(tmp_path) as bus, started(tmp_path) as other:
        await topic(bus)
        one, listener = await joined(bus, "same")
        await listener.owns({0, 1, 2, 3})
        two, taken = await joined(other, "same")
        await taken.owns({0, 1, 2, 3})
        await listener.owns(set())
        assert "another process has joined 'group' as 'same'" in str(one.failure)
        assert two.failure is None
        await one.close()
        await asyncio.sleep(0)
        assert await count(bus, "members") == 1, "leaving takes out the own incarnation alone"
        await two.close()


async def test_a_living_owner_may_finish_before_its_heir_takes_over(tmp_path: Path) -> None:
    async with started(tmp_path, hand_over_s=60.0) as bus, started(tmp_path) as other:
        await topic(bus, 2)
        await make(bus, "out")
        one, listener = await joined(bus, "one")
        await listener.owns({0, 1})
        writers = [await bus.open_writer(Slot(GROUP, n)) for n in range(2)]
        two, heir = await joined(other, "two")
        [kept] = await listener.owns_count(1)
        moving = 1 - kept
        await asyncio.wait_for(two.poll(0.2), 5)
        assert heir.current == frozenset(), "the owner has not let go yet"
        await writers[moving].commit([Record("out", b"k", b"last words", (), 0)], {})
        await writers[moving].close()
        await heir.owns({moving})
        await two.close()
        await one.close()


async def test_an_owner_that_does_not_let_go_is_waited_for_only_so_long(tmp_path: Path) -> None:
    settings = {"hand_over_s": 0.2, "heartbeat_s": 0.1}
    async with started(tmp_path, **settings) as bus, started(tmp_path, **settings) as other:
        await topic(bus, 2)
        one, listener = await joined(bus, "one")
        await listener.owns({0, 1})
        for n in range(2):
            await bus.open_writer(Slot(GROUP, n))
        two, heir = await joined(other, "two")
        await heir.owns_count(1)
        await two.close()
        await one.close()


async def test_members_that_count_other_partitions_are_refused(tmp_path: Path) -> None:
    async with started(tmp_path) as bus:
        await topic(bus, 4)
        await bus.create_topics([TopicSpec("other", 6)])
        one, _ = await joined(bus, "one")
        with pytest.raises(TopicMismatch, match=r"'two'.*6.*'one'.*4"):
            await bus.subscribe(GROUP, ["other"], member="two", listener=Listener())
        assert await count(bus, "members") == 1
        await one.close()


async def test_watching_a_member_that_is_already_gone(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    for name in ("never-was", "was"):
        gone = asyncio.Event()
        if name == "was":
            Presence(tmp_path, name).close()

        def tell(gone: asyncio.Event = gone) -> None:
            loop.call_soon_threadsafe(gone.set)

        watch(tmp_path, name, tell)
        async with asyncio.timeout(5):
            await gone.wait()
        assert read_beat(tmp_path, name) is None
