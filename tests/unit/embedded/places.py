"""A started embedded bus in a folder, for unit tests."""

from __future__ import annotations

import fcntl
import os
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from holdfast.bus.embedded import EmbeddedBus, EmbeddedSettings
from holdfast.bus.embedded.commit_thread import CommitThread, Transaction
from holdfast.bus.port import Cleanup, Record, TopicSpec

T = TypeVar("T")


@asynccontextmanager
async def started(folder: Path, **settings: Any) -> AsyncIterator[EmbeddedBus]:
    bus = EmbeddedBus(EmbeddedSettings(folder / "bus.db", **settings))
    await bus.start()
    try:
        yield bus
    finally:
        await bus.close()


def thread_of(bus: EmbeddedBus) -> CommitThread:
    assert bus._open is not None
    return bus._open.thread


async def on_file(bus: EmbeddedBus, run: Callable[[Transaction], T]) -> T:
    return await thread_of(bus).transact(run)


async def count(bus: EmbeddedBus, table: str) -> int:
    sql = f"SELECT count(*) FROM {table}"
    return int(await on_file(bus, lambda t: t.db.execute(sql).fetchone()[0]))


async def make(
    bus: EmbeddedBus, name: str, cleanup: Cleanup = Cleanup.CONSUMED, **kept: int
) -> None:
    await bus.create_topics([TopicSpec(name, 1, cleanup, **kept)])


async def publish(
    bus: EmbeddedBus, topic: str, values: Iterable[bytes | None], key: bytes = b"k"
) -> None:
    await bus.publish([Record(topic, key, value, (), 0) for value in values])


def lock_is_held(folder: Path, name: str = "lock") -> bool:
    """Ask as another process would."""
    descriptor = os.open(folder / "bus.db.d" / name, os.O_RDWR)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)


async def trace(bus: EmbeddedBus, heard: Callable[[str], None]) -> None:
    """Hear of every statement of the writing connection, in its thread."""
    await on_file(bus, lambda t: t.db.set_trace_callback(heard))
