"""What surrounds a coordinator's machine, in memory: schemas, blobs, agents, the slot."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from holdfast.bus.errors import Rejected
from holdfast.bus.port import Received, Record, Slot
from holdfast.bus.topics import Topics
from holdfast.schemas.ids import OwnSchema
from holdfast.schemas.records import BlobReference, Manifest, RetryPolicy, TaskManifest
from holdfast.schemas.resolution import ResolvedTask

TOPICS = Topics("test")
PARTITION = 3
START_MS = 1_700_000_000_000
NO_JITTER = RetryPolicy(attempts=3, initial_ms=1_000, factor=2.0, max_ms=60_000, jitter=0.0)

EMPTY = 2_000
"""The id of the schema of an input without fields."""


class FakeSchemas:
    """Schemas that are known, and those that come when they are waited for."""

    def __init__(self) -> None:
        self.schemas: dict[int, Any] = {
            OwnSchema.Json: "string",
            EMPTY: {"type": "record", "name": "Empty", "fields": []},
        }
        self.coming: dict[int, Any] = {}
        self.waited: list[int] = []

    def known(self, schema_id: int) -> Any | None:
        return self.schemas.get(schema_id)

    async def find(self, schema_id: int, timeout_s: float) -> bool:
        self.waited.append(schema_id)
        if schema_id in self.coming:
            self.schemas[schema_id] = self.coming.pop(schema_id)
        return schema_id in self.schemas


class FakeBlobs:
    """A store that lives on when the machine does not."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.away = 0
        self.error: Exception | None = None

    def _reach(self) -> None:
        if self.error is not None:
            raise self.error
        if self.away:
            self.away -= 1
            raise ConnectionError("the store is away")

    async def get(self, reference: BlobReference) -> bytes | None:
        self._reach()
        return self.blobs.get(reference.name)

    async def put(self, reference: BlobReference, data: bytes) -> None:
        self._reach()
        self.blobs[reference.name] = data


AGENT_PARTITIONS = 3


class FakeAgents:
    """Answers what the test says of a plan."""

    trouble: str | None = None

    started: bool = False
    """Whether looking again finds the agent that was missing."""

    def problem(self, plan: str) -> str | None:
        return self.trouble

    def task(self, agent: str, task: str) -> ResolvedTask | str:
        return self.trouble or ResolvedTask(
            agent=agent,
            task=task,
            input_schema_id=OwnSchema.Json,
            output_schema_id=OwnSchema.Json,
            retry=NO_JITTER,
        )

    def partitions(self, agent: str) -> int | str:
        return self.trouble or AGENT_PARTITIONS

    def manifests(self, agents: Collection[str]) -> Mapping[str, Manifest]:
        """Every agent there is has the task `work`."""
        task = TaskManifest("work", EMPTY, OwnSchema.Json, NO_JITTER, None, None, "")
        return {
            name: Manifest(name, "i", "p", "1", "b", [task], 1, START_MS, START_MS)
            for name in agents
        }

    async def refresh(self) -> None:
        if self.started:
            self.trouble = None


class FakeEnds:
    """Says that the event topic ends where the host has written to."""

    def __init__(self) -> None:
        self.end = 0

    def lower_bound(self, partition: int) -> int:
        return self.end


@dataclass
class Control:
    """The slot, as the machine sees it. Refuses records above `limit` bytes."""

    limit: int = 1_000_000
    refused_topics: set[str] = field(default_factory=set)
    misplaced_keys: set[bytes] = field(default_factory=set)
    woken: int = 0
    slot: Slot = field(default_factory=lambda: Slot("test.coordinator", PARTITION))

    def wake(self) -> None:
        self.woken += 1

    def journal(self, key: str, value: bytes | None) -> Record:
        return Record("test.journal.coordinator", key.encode(), value, (), PARTITION)

    def check(self, record: Record) -> None:
        size = len(record.key or b"") + len(record.value or b"")
        if size > self.limit:
            raise Rejected(record, f"{size} bytes are more than {self.limit}")
        if record.topic in self.refused_topics:
            raise Rejected(record, "no such topic")

    def misplaced(self, received: Received) -> Record | None:
        if received.key in self.misplaced_keys:
            return Record(received.topic, received.key, received.value, received.headers)
        return None

    async def confirm(self) -> None:
        return

    async def prove(self) -> None:
        return
