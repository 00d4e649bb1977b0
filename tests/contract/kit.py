"""How a contract test gets a bus, and does to it what the world does to buses.

A kit stands for one *place* (a SQLite file, a namespace on a Kafka broker), which many buses of
this process and of child processes share. What differs between the adapters is behind it: the tests
themselves know `holdfast.bus.port` and this class alone.

To write a kit for an adapter: subclass `BusKit`, give `name`, `url`, `build`, `hold_commit`,
`lose_answer`, `cut`, `restore`, `compact`, and enter the class in `KITS` of `kits.py`.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import uuid
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import pytest

from holdfast.bus.port import (
    AssignmentListener,
    Bus,
    Cleanup,
    Received,
    Record,
    Slot,
    TopicPartition,
    TopicSpec,
)

REPOSITORY = Path(__file__).resolve().parents[2]
PATIENCE_S = 30.0
"""The bound of every wait for a condition in the suite: reached only when something is broken."""


@dataclass(frozen=True, slots=True)
class Timing:
    """The short time-outs a test runs with; each adapter maps them to its own settings."""

    connect_s: float = 15.0
    """How long `start` tries before `BusUnavailable`."""
    operation_s: float = 20.0
    """How long any other call tries (`BusUnavailable`; `OutcomeUnknown` from a commit)."""
    session_s: float = 6.0
    """How long a silent member keeps its partitions."""


class HeldCommit(Protocol):
    """One commit that stands still inside: all its records are written, it is not decided."""

    async def reached(self) -> None:
        """Return once a commit of the bus stands there."""
        ...

    def release(self) -> None:
        """Let it go on (again and again is harmless)."""
        ...


class Child(ABC):
    """A process of its own with a bus of its own, that says what it does (`tests.contract.child`).

    A bus that lives in one process alone plays it there, and kills and stops its connection.
    """

    @property
    def pid(self) -> int:
        """The process id, if it is a process."""
        raise NotImplementedError(f"a {type(self).__name__} has no process of its own")

    @abstractmethod
    async def said(self, event: str) -> dict[str, Any]:
        """Return the next thing said whose `event` is this one, dropping others; bounded."""

    @abstractmethod
    async def kill(self) -> None:
        """End it as `kill -9` does, and wait until it is gone."""

    @abstractmethod
    def stop(self) -> None:
        """Make it stand still (SIGSTOP)."""

    @abstractmethod
    def wake(self) -> None:
        """Let it go on (SIGCONT)."""


class ProcessChild(Child):
    """One of the operating system's; it says one JSON document a line."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    async def said(self, event: str) -> dict[str, Any]:
        assert self._process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            while line := await self._process.stdout.readline():
                answer: dict[str, Any] = json.loads(line)
                if answer["event"] == event:
                    return answer
        raise AssertionError(f"child {self.pid} ended without saying {event!r}")

    async def kill(self) -> None:
        with suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()

    def stop(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def wake(self) -> None:
        os.kill(self.pid, signal.SIGCONT)


class BusKit(ABC):
    """One place with any number of buses; opened and closed by the fixture `kit`."""

    name: ClassVar[str]
    """Which kit: the parameter's name."""

    def __init__(self) -> None:
        self.namespace = f"t{uuid.uuid4().hex[:10]}"
        self._buses: list[Bus] = []
        self._children: list[Child] = []

    # -- what an adapter's kit must give ---------------------------------------------------------

    @classmethod
    @abstractmethod
    def create(cls, request: pytest.FixtureRequest, folder: Path) -> BusKit:
        """Make one; `request.getfixturevalue` reaches session fixtures such as a broker."""

    @property
    @abstractmethod
    def url(self) -> str:
        """Where buses of this process *and of children* connect to (through a proxy, say)."""

    @classmethod
    @abstractmethod
    def build(cls, url: str, timing: Timing) -> Bus:
        """Return a bus that is not started. Called in child processes too: no state of the kit."""

    @classmethod
    @abstractmethod
    def hold_commit(cls, bus: Bus) -> AbstractAsyncContextManager[HeldCommit]:
        """While entered, the next `Writer.commit` of `bus` stands still inside (see `HeldCommit`).

        Leaving it releases. Called in child processes too, with what `build` returned.
        """

    @abstractmethod
    def lose_answer(self, bus: Bus, *, committed: bool) -> AbstractAsyncContextManager[None]:
        """While entered, the next `Writer.commit` of `bus` raises `OutcomeUnknown`; in truth it
        has been committed, or will never be, as `committed` says."""

    @abstractmethod
    async def cut(self) -> None:
        """The bus goes away, for all buses there are and any that are yet to start.

        What "away" is depends on the kit: nothing can be written; reads may or may not go on.
        """

    @abstractmethod
    async def restore(self) -> None:
        """It comes back with all it had."""

    @abstractmethod
    async def compact(self, bus: Bus, topic: str) -> bool:
        """Make the bus compact `topic` to its end, if it can be asked to; tell whether it did."""

    async def open(self) -> None:  # noqa: B027 - most kits need nothing here
        """Make the place ready, on the test's event loop."""

    async def dispose(self) -> None:  # noqa: B027
        """Take the place down, after all buses and children are gone."""

    # -- what every test uses --------------------------------------------------------------------

    async def connect(self, timing: Timing | None = None) -> Bus:
        """Return a started bus; the kit closes it at the end of the test."""
        bus = self.build(self.url, timing or Timing())
        self._buses.append(bus)
        await bus.start()
        return bus

    def group(self, name: str = "group") -> str:
        """Return a group's whole name in this test's namespace."""
        return f"{self.namespace}.{name}"

    def topic(self, name: str = "topic") -> str:
        """Return a topic's whole name in this test's namespace."""
        return f"{self.namespace}.{name}"

    async def make_topic(
        self, bus: Bus, name: str, partitions: int = 1, cleanup: Cleanup = Cleanup.CONSUMED
    ) -> str:
        """Create a topic; return its whole name."""
        topic = self.topic(name)
        await bus.create_topics([TopicSpec(topic, partitions, cleanup)])
        return topic

    async def spawn_member(
        self, group: str, topics: Sequence[str], member: str, timing: Timing | None = None
    ) -> Child:
        """Start a process that joins `group` and says `{"event": "assigned", "partitions": [[topic,
        partition], …]}` at each assignment, and `{"event": "polled"}` after each second."""
        request = {"role": "member", "group": group, "topics": list(topics), "member": member}
        return await self._spawn(request, timing or Timing())

    async def kill_inside_commit(
        self, slot: Slot, records: Sequence[Record], offsets: Mapping[TopicPartition, int]
    ) -> None:
        """A process opens a writer of `slot`, begins this commit, and is killed (SIGKILL) inside.

        Every record is written by then; the commit is not decided. Headers are not carried.
        """
        child = await self.spawn_held_commit(slot, records, offsets)
        await child.kill()

    async def spawn_held_commit(
        self, slot: Slot, records: Sequence[Record], offsets: Mapping[TopicPartition, int]
    ) -> Child:
        """The same, still standing inside its commit; for good, unless it is killed."""
        request = {
            "role": "commit",
            "group": slot.group,
            "partition": slot.partition,
            "records": [[r.topic, _hex(r.key), _hex(r.value), r.partition] for r in records],
            "offsets": [[tp.topic, tp.partition, offset] for tp, offset in offsets.items()],
        }
        child = await self._spawn(request, Timing())
        await child.said("inside")
        return child

    async def close(self) -> None:
        """End children, close buses, take the place down."""
        for child in self._children:
            await child.kill()
        for bus in self._buses:
            async with asyncio.timeout(PATIENCE_S):
                await bus.close()
        await self.dispose()

    async def _spawn(self, request: dict[str, Any], timing: Timing) -> Child:
        line = json.dumps({"kit": self.name, "url": self.url, "timing": asdict(timing), **request})
        # A new session, so that a Ctrl-C in the terminal leaves ending it to the kit.
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.contract.child", line,
            cwd=REPOSITORY, stdout=asyncio.subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        child = ProcessChild(process)
        self._children.append(child)
        return child


class Listener(AssignmentListener):
    """Keeps what it hears, and lets tests wait for it. With `start` it also seeks and resumes."""

    def __init__(self) -> None:
        self.current: frozenset[TopicPartition] = frozenset()
        self.history: list[frozenset[TopicPartition]] = []
        self._changed = asyncio.Event()

    def assigned(self, partitions: frozenset[TopicPartition]) -> None:
        """Keep it."""
        self.current = partitions
        self.history.append(partitions)
        self._changed.set()

    def revoked(self) -> None:
        """Work goes on: nothing to do."""

    async def owns(self, partitions: Collection[int], bound_s: float = PATIENCE_S) -> None:
        """Return once exactly these partition numbers are owned."""
        async with asyncio.timeout(bound_s):
            while {tp.partition for tp in self.current} != set(partitions):
                self._changed.clear()
                await self._changed.wait()

    async def owns_count(self, count: int, bound_s: float = PATIENCE_S) -> set[int]:
        """Return the owned partition numbers once there are so many."""
        async with asyncio.timeout(bound_s):
            while len(owned := {tp.partition for tp in self.current}) != count:
                self._changed.clear()
                await self._changed.wait()
        return owned


async def read_all(bus: Bus, topic: str, partition: int = 0, start: int = 0) -> list[Received]:
    """Return every committed record of a partition, up to the high watermark of now."""
    records: list[Received] = []
    async with asyncio.timeout(PATIENCE_S):
        async for batch in bus.read(topic, partition, start):
            records.extend(batch)
    return records


def values(records: Sequence[Received]) -> list[bytes | None]:
    """Return the values alone."""
    return [record.value for record in records]


def _hex(data: bytes | None) -> str | None:
    return None if data is None else data.hex()
