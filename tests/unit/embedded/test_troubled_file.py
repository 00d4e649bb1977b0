"""A file that cannot be read or written for a moment costs a moment, and never a foreign error."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest

from holdfast.bus.embedded import EmbeddedBus
from holdfast.bus.embedded.presence import Presence
from holdfast.bus.errors import BusUnavailable
from holdfast.bus.port import TopicPartition
from tests.contract.kit import Listener
from tests.unit.embedded.places import make, publish, started
from tests.waiting import until

WHERE = TopicPartition("topic", 0)


async def read_all(bus: EmbeddedBus) -> int:
    return sum([len(batch) async for batch in bus.read(*WHERE)])


async def test_what_sqlite_says_is_mapped_wherever_a_slot_is_restored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with started(tmp_path) as bus:
        await make(bus, "topic")
        await publish(bus, "topic", [b"1"])
        await bus.committed("group", [WHERE])

        def broken(*_: Any) -> Any:
            raise sqlite3.OperationalError("disk I/O error")

        with monkeypatch.context() as patch:
            patch.setattr(bus._log, "counters", broken)
            for call in (
                bus.begin_offsets([WHERE]),
                bus.end_offsets([WHERE]),
                bus.lag("group", ["topic"]),
                read_all(bus),
            ):
                with pytest.raises(BusUnavailable, match="disk I/O error"):
                    await call
        assert await read_all(bus) == 1


async def test_a_full_disk_costs_heartbeats_and_not_the_member(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with started(tmp_path, session_timeout_s=60.0, heartbeat_s=0.02) as bus:
        await make(bus, "topic")
        member = await bus.subscribe("group", ["topic"], member="one", listener=Listener())
        tries = []

        def full(self: Presence) -> None:
            tries.append(member.heartbeat_at)
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(Presence, "beat", full)
            await until(lambda: len(tries) > 3)
            assert tries[-1] == tries[1], "a heartbeat that nobody can see was counted"
        assert member.failure is None
        await until(lambda: member.heartbeat_at > tries[-1])
        await member.close()
