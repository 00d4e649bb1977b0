"""A source's slot in memory: a topic, a control topic, a journal, and commits one at a time.

`collect` and `acknowledge` do each half of a commit, so that a test can crash in between: `crash`
drops the machine, and keeps or loses the commit that was under way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from holdfast.bus.errors import BusUnavailable, Rejected
from holdfast.bus.port import Bus, Environment, Received, Record, Slot
from holdfast.bus.registry import Registry
from holdfast.bus.slot.machine import Commit, Opened
from holdfast.client.directory import Directory
from holdfast.client.payloads import Payloads
from holdfast.client.submission import Submissions
from holdfast.schemas import PayloadCodec, UnknownSchema, decode, encode
from holdfast.schemas.records import (
    BlobReference,
    CoordinatorEnvelope,
    DeadLetter,
    Manifest,
    RetryPolicy,
    RunEnded,
    RunState,
    Submission,
    TaskManifest,
)
from holdfast.sources import Source
from holdfast.sources.machine import SourceMachine, SourceSetup
from holdfast.sources.metrics import SourceMetrics
from holdfast.sources.starting import SourceTools
from holdfast.sources.wire import SourceTopics, SourceWire

TOPICS = SourceTopics(
    "ns.source-orders",
    "orders.v1",
    "ns.control.source-orders",
    "ns.coordinator",
    "ns.dead-letters",
)
SLOT = Slot(TOPICS.group, 3)
START_MS = 1_790_000_000_000
AVRO_ID = 1_500


@dataclass
class FakeRegistry:
    """Schemas by id; `late` are learned by asking. `away`: it cannot be reached so often."""

    schemas: dict[int, Any] = field(default_factory=dict)
    late: dict[int, Any] = field(default_factory=dict)
    away: int = 0

    def known(self, schema_id: int) -> Any | None:
        return self.schemas.get(schema_id)

    async def schema(self, schema_id: int) -> Any:
        if self.away:
            self.away -= 1
            raise BusUnavailable("the registry is away")
        self.schemas |= self.late
        if schema_id not in self.schemas:
            raise UnknownSchema(f"schema id {schema_id} is not in the registry")
        return self.schemas[schema_id]

    async def find(self, schema_id: int, timeout_s: float) -> bool:
        return schema_id in self.schemas


@dataclass
class FakeDirectory:
    """Manifests; `away`: they cannot be read so often."""

    manifests: dict[str, Manifest] = field(default_factory=dict)
    away: int = 0
    wait_s: float = 0.0

    async def find(self, agents: Collection[str]) -> Mapping[str, Manifest]:
        if self.away:
            self.away -= 1
            raise BusUnavailable("the bus is away")
        return self.manifests

    async def read_again(self) -> bool:
        return False


@dataclass
class FakeBlobs:
    blobs: dict[str, bytes] = field(default_factory=dict)
    away: int = 0

    async def put(self, reference: BlobReference, data: bytes) -> None:
        if self.away:
            self.away -= 1
            raise BusUnavailable("the store is away")
        self.blobs[reference.name] = data

    async def get(self, reference: BlobReference) -> bytes | None:
        return self.blobs.get(reference.name)


def manifest(agent: str, task: str, schema_id: int) -> Manifest:
    offered = TaskManifest(task, schema_id, schema_id, RetryPolicy(), None, None, "")
    return Manifest(agent, f"{agent}-1", "p", "1", "b", [offered], 8, START_MS, START_MS)


class FakeControl:
    """What a machine asks of its slot."""

    def __init__(self, refuse: Callable[[Record], bool]) -> None:
        self.refuse = refuse

    @property
    def slot(self) -> Slot:
        return SLOT

    def wake(self) -> None:
        """`work` looks by itself."""

    def journal(self, key: str, value: bytes | None) -> Record:
        return Record("journal", key.encode(), value, (), SLOT.partition)

    def check(self, record: Record) -> None:
        if self.refuse(record):
            raise Rejected(record, "it is too large")

    def misplaced(self, received: Received) -> Record | None:
        raise AssertionError("the topic is not ours to put in order")

    async def confirm(self) -> None:
        raise AssertionError("nothing of a source is an effect")

    async def prove(self) -> None:
        raise AssertionError("nothing of a source is an effect")


class Died(BaseException):
    """What `Environment.die` does in tests."""


class FakeSlot:
    """One slot of one process; `boot` starts it, `crash` ends it, the logs stay."""

    def __init__(self, source: Source[Any], *, max_open: int | None = None) -> None:
        self.source = source
        self.max_open = max_open or source.max_open
        self.logs: dict[str, list[Received]] = {TOPICS.topic: [], TOPICS.control: []}
        self.offsets = {TOPICS.topic: 0, TOPICS.control: 0}
        self.journal: dict[str, bytes | None] = {}
        self.written: list[Record] = []
        self.refuse: Callable[[Record], bool] = lambda record: False
        self.registry = FakeRegistry()
        self.directory = FakeDirectory()
        self.blobs = FakeBlobs()
        self.died: list[str] = []
        self.under_way: Commit | None = None
        self.committing = False
        """The bus has the commit under way in hand."""
        self.machine: SourceMachine
        self._read = dict(self.offsets)

    def offer(self, agent: str, task: str, kind: Any) -> None:
        """Have an agent publish a task that takes `kind`."""
        self.registry.schemas[AVRO_ID] = PayloadCodec(kind).schema
        self.directory.manifests[agent] = manifest(agent, task, AVRO_ID)

    def boot(self) -> None:
        loop = asyncio.get_running_loop()

        def die(reason: str) -> None:
            self.died.append(reason)

        environment = Environment(
            cast(Bus, None),
            now_ms=lambda: START_MS + round(loop.time() * 1_000),
            monotonic=loop.time,
            die=die,  # type: ignore[arg-type]
        )
        payloads = Payloads(self.registry, self.blobs)
        directory = cast(Directory, self.directory)
        tools = SourceTools(
            environment,
            cast(Registry, self.registry),
            directory,
            Submissions(directory, payloads),
            payloads,
        )
        setup = SourceSetup(
            self.source,
            tools,
            TOPICS,
            SourceWire("orders", "source-orders", TOPICS),
            SourceMetrics("orders"),
            self.max_open,
        )
        self.machine = SourceMachine(setup, FakeControl(lambda record: self.refuse(record)))
        for key, value in self.journal.items():
            self.machine.restore(key, value)
        self._read = dict(self.offsets)
        self.machine.opened(Opened(dict(self.offsets), False, environment.now_ms()))
        self.deliver()

    def deliver(self) -> None:
        """Hand over what was written and not read yet, unless the machine wants none of it."""
        for topic, log in self.logs.items():
            fresh = log[self._read[topic] :]
            if fresh and topic not in self.machine.congested():
                self._read[topic] = len(log)
                self.machine.receive(fresh)

    def crash(self, *, keep: bool = False) -> None:
        """The process dies; the commit under way had happened (`keep`), or not."""
        commit, self.under_way = self.under_way, None
        if commit is not None and keep:
            self._write(commit)
        self.machine.lost()

    # --- commits -------------------------------------------------------------------------------

    def collect(self) -> bool:
        assert self.under_way is None
        self.under_way = self.machine.collect(0)
        return self.under_way is not None

    def acknowledge(self) -> None:
        commit, self.under_way = self.under_way, None
        assert commit is not None
        changes = []
        self.committing = True
        for change in commit.changes:
            while culprit := next((r for r in change.records if self.refuse(r)), None):
                change = change.refuse(Rejected(culprit, "it is too large after all"))
            changes.append(change)
        self.committing = False
        self._write(Commit(changes, commit.offsets))
        for change in changes:
            change.apply()

    def _write(self, commit: Commit) -> None:
        for change in commit.changes:
            for record in change.records:
                if record.topic == "journal":
                    self.journal[(record.key or b"").decode()] = record.value
                else:
                    self.written.append(record)
        for topic, offset in commit.offsets.items():
            assert offset >= self.offsets[topic]
            self.offsets[topic] = offset

    async def work(self, rounds: int = 200) -> None:
        """Let the machine settle what it can without time passing, and commit."""
        for _ in range(rounds):
            await asyncio.sleep(0)
            self.deliver()
            if self.under_way is None and self.collect():
                self.acknowledge()

    # --- records -------------------------------------------------------------------------------

    def publish(self, value: bytes | None, *, key: bytes | None = None) -> int:
        return self._append(TOPICS.topic, value, key)

    def end(self, run_id: str, state: RunState | None = RunState.SUCCEEDED) -> None:
        self._append(TOPICS.control, encode(RunEnded(run_id, state, START_MS)), run_id.encode())

    def _append(self, topic: str, value: bytes | None, key: bytes | None) -> int:
        log = self.logs[topic]
        log.append(Received(topic, SLOT.partition, len(log), key, value, (), START_MS))
        return len(log) - 1

    # --- what came of it -----------------------------------------------------------------------

    @property
    def submissions(self) -> list[tuple[str, Submission]]:
        found = []
        for record in self.written:
            if record.topic == TOPICS.coordinator:
                envelope = decode(CoordinatorEnvelope, record.value or b"")
                assert isinstance(envelope.body, Submission)
                found.append((envelope.run_id, envelope.body))
        return found

    @property
    def run_ids(self) -> list[str]:
        return [run_id for run_id, _ in self.submissions]

    @property
    def letters(self) -> list[DeadLetter]:
        return [
            decode(DeadLetter, record.value or b"")
            for record in self.written
            if record.topic == TOPICS.dead_letters
        ]
