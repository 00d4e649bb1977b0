"""A disk that is full, and has room again: nothing acknowledged is lost, nothing is half there.

On a file system of four megabytes where this process may mount one; and everywhere by SQLite's own
limit of pages, whose answer is the same SQLITE_FULL.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from holdfast.bus.embedded import EmbeddedBus, EmbeddedSettings
from holdfast.bus.errors import BusUnavailable, OutcomeUnknown
from holdfast.bus.port import Cleanup, Environment, Record, Slot, TopicPartition, TopicSpec
from holdfast.bus.slot import commit as commit_module
from tests.broker import REPOSITORY
from tests.contract.kit import read_all, values
from tests.doubles.sim_place import SimPlace
from tests.unit.embedded.places import make, on_file, started
from tests.unit.slot.conftest import JOURNAL, OUT, WORDS, WORK, World
from tests.waiting import until

DISK_BYTES = 4 * 1024 * 1024
LARGE = b"x" * 400_000
"""More than a database and its WAL find room for in the pages that they have already."""


class Disk(ABC):
    """Where the bus file is; `fill` leaves no room, `free` makes some."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @abstractmethod
    async def fill(self, bus: EmbeddedBus) -> None: ...

    @abstractmethod
    async def free(self, bus: EmbeddedBus) -> None: ...


class SmallDisk(Disk):
    """A file system of its own, filled by a file that is in the way."""

    async def fill(self, bus: EmbeddedBus) -> None:
        fill(self.folder)

    async def free(self, bus: EmbeddedBus) -> None:
        (self.folder / "ballast").unlink()


class FewPages(Disk):
    """A database that may not grow. The disk below has room."""

    async def fill(self, bus: EmbeddedBus) -> None:
        await on_file(bus, lambda t: t.db.execute("PRAGMA max_page_count = 1").fetchall())

    async def free(self, bus: EmbeddedBus) -> None:
        await on_file(bus, lambda t: t.db.execute("PRAGMA max_page_count = 1000000").fetchall())


def fill(folder: Path) -> None:
    with (folder / "ballast").open("wb", buffering=0) as ballast:
        for size in (65_536, 512):
            with contextlib.suppress(OSError):
                while ballast.write(b"b" * size) == size:
                    pass


@contextlib.contextmanager
def mounted(folder: Path) -> Iterator[Path]:
    """Mount a small file system; skips where that is not permitted."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount command here")
    if done.returncode != 0:
        pytest.skip(f"no file system may be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "disk") as folder:
        yield folder


@pytest.fixture(params=[SmallDisk, FewPages])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Disk:
    if request.param is SmallDisk:
        return SmallDisk(request.getfixturevalue("small_disk"))
    return FewPages(tmp_path)


async def test_a_commit_that_finds_no_room_is_not_there_and_the_next_one_is(disk: Disk) -> None:
    async with started(disk.folder) as bus:
        await make(bus, "topic")
        writer = await bus.open_writer(Slot("group", 0))
        kept = Record("topic", b"k", b"kept", (), 0)
        await writer.commit([kept], {TopicPartition("topic", 0): 1})
        await disk.fill(bus)
        lost = [Record("topic", b"k", b"first of two", (), 0), Record("topic", b"k", LARGE, (), 0)]
        with pytest.raises((OutcomeUnknown, BusUnavailable), match="full"):
            await writer.commit(lost, {TopicPartition("topic", 0): 2})
        assert values(await read_all(bus, "topic")) == [b"kept"]
        await disk.free(bus)
        again = await bus.open_writer(Slot("group", 0))
        await again.commit([Record("topic", b"k", LARGE, (), 0)], {})
        assert values(await read_all(bus, "topic")) == [b"kept", LARGE]
        where = TopicPartition("topic", 0)
        assert await bus.committed("group", [where]) == {where: 1}


class FileWorld(World):
    """The slot's world of `tests/unit/slot`, on one file."""

    def __init__(self, bus: EmbeddedBus) -> None:
        super().__init__(SimPlace(), random.randrange(2**32))
        print(f"seed {self.seed}")
        self.embedded = bus

    def bus(self) -> EmbeddedBus:  # type: ignore[override]
        return self.embedded

    def environment(self, bus: object = None) -> Environment:
        return Environment(bus=self.embedded, random=random.Random(self.seed))


@pytest.fixture
async def world(disk: Disk, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FileWorld]:
    monkeypatch.setattr(commit_module, "REOPEN_PAUSE_S", 0.02)
    async with started(disk.folder) as bus:
        await bus.create_topics([
            TopicSpec(WORK, 1), TopicSpec(WORDS, 1), TopicSpec(OUT, 1),
            TopicSpec(JOURNAL, 1, Cleanup.COMPACT),
        ])  # fmt: skip
        world = FileWorld(bus)
        yield world
        for host in world.hosts:
            await host.kill()


async def test_a_slot_tries_its_commit_again_until_there_is_room(
    disk: Disk, world: FileWorld, caplog: pytest.LogCaptureFixture
) -> None:
    host = await world.host()
    await world.send(("before", b"1"))
    await until(lambda: world.applied == ["before"])
    world.holding = True
    await world.send(("x", LARGE), ("y", b"small"))
    (machine,) = world.machines["a"]
    await until(lambda: len(machine.pending) == 2)

    await disk.fill(world.embedded)
    world.holding = False
    machine.control.wake()
    await until(lambda: "full" in caplog.text, "nobody says that the disk is full")
    await asyncio.sleep(0.2)
    assert world.applied == ["before"]
    assert host._failure is not None
    assert not host._failure.done(), host._failure.exception()

    await disk.free(world.embedded)
    await until(lambda: world.applied == ["before", "x", "y"], "it does not go on")
    assert values(await read_all(world.embedded, OUT)) == [b"1", LARGE, b"small"]
    assert world.machines["a"] == [machine], "the slot was lost for want of room"


START = """
import asyncio, sys
from pathlib import Path
from holdfast.bus.embedded import EmbeddedBus, EmbeddedSettings
from holdfast.bus.errors import BusUnavailable

async def main():
    bus = EmbeddedBus(EmbeddedSettings(Path(sys.argv[1])))
    try:
        await bus.start()
    except BusUnavailable as error:
        print(error)
    await bus.close()

asyncio.run(main())
"""


def test_a_start_on_a_full_disk_is_refused_in_words(small_disk: Path) -> None:
    # In a process of its own: a page of mapped memory without room behind it is a SIGBUS.
    fill(small_disk)
    done = subprocess.run(
        [sys.executable, "-c", START, str(small_disk / "bus.db")],
        capture_output=True, text=True, cwd=REPOSITORY, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, f"ended by {done.returncode}: {done.stderr}"
    assert "No space left on device" in done.stdout or "full" in done.stdout
    assert EmbeddedSettings(small_disk / "bus.db").path.name in done.stdout
