"""What a process uses, and what a bus takes on disk."""

from __future__ import annotations

import asyncio
from pathlib import Path

from holdfast.bus.embedded import EmbeddedBus, EmbeddedSettings
from holdfast.bus.port import Cleanup, Record, TopicPartition, TopicSpec
from holdfast.bus.topics import Topics
from holdfast.testing import Evidence, Usage
from tests.soak.usage import Sampler, disk_of, own_usage
from tests.waiting import until

TOPICS = Topics("ns")
MIB = 2**20


async def test_a_process_tells_what_it_uses() -> None:
    before = own_usage("a-1")
    waiting = asyncio.create_task(asyncio.sleep(60))
    held = bytearray(b"x" * 32 * MIB)
    with Path("/dev/null").open() as _:
        after = own_usage("a-1")
    waiting.cancel()
    assert len(held) == 32 * MIB
    assert before.memory_bytes is not None
    assert after.memory_bytes is not None
    assert after.memory_bytes - before.memory_bytes > 16 * MIB
    assert (before.descriptors or 0) + 1 == after.descriptors
    assert (before.tasks or 0) + 1 == after.tasks


async def test_samples_are_appended_as_they_come(tmp_path: Path) -> None:
    path = tmp_path / "usage.jsonl"
    sampler = Sampler(path, "a-1", 0.01)
    await until(lambda: len(Evidence.load(path)) >= 3)
    sampler._task.cancel()
    rows = Evidence.load(path).of(Usage)
    assert {row.instance for row in rows} == {"a-1"}
    assert [row.at_s for row in rows] == sorted(row.at_s for row in rows)


async def test_of_a_file_what_shrinks_and_what_is_kept_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "bus.db"
    bus = EmbeddedBus(EmbeddedSettings(path))
    await bus.start()
    events = TopicSpec(TOPICS.events, 2, Cleanup.RETAIN, retention_ms=10**9)
    await bus.create_topics([events, TopicSpec(TOPICS.coordinator, 2)])
    await bus.publish([Record(TOPICS.events, b"k", b"e" * 1_000, (), 1)] * 20)
    await bus.publish([Record(TOPICS.coordinator, b"k", b"c" * 1_000, (), 1)] * 10)
    full = disk_of(f"sqlite:///{path}", TOPICS, None)
    await bus.purge({TopicPartition(TOPICS.coordinator, 1): 10})
    purged = disk_of(f"sqlite:///{path}", TOPICS, None)
    await bus.close()
    assert full is not None
    assert purged is not None
    assert full.bounded >= 10_000
    assert full.kept >= 20_000
    assert full.whole >= full.bounded + full.kept
    assert purged.bounded < 1_000
    assert purged.kept == full.kept


def test_of_a_brokers_logs_too(tmp_path: Path) -> None:
    for name, size in (
        ("ns.events-0", 8_192),
        ("ns.tasks.a-0", 4_096),
        ("ns.tasks.a-1", 4_096),
        ("__consumer_offsets-3", 4_096),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.log").write_bytes(b"x" * size)
    disk = disk_of("kafka://127.0.0.1:1", TOPICS, tmp_path)
    assert disk is not None
    assert (disk.bounded, disk.kept, disk.whole) == (8_192, 8_192, 20_480)
    assert disk_of("kafka://127.0.0.1:1", TOPICS, None) is None
