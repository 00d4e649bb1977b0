"""What the service of the coordinator asks of its surroundings; composed in `process`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from holdfast.bus.port import Environment
from holdfast.bus.topics import Topics
from holdfast.coordinator.engine import Graphs
from holdfast.coordinator.settings import CoordinatorSettings
from holdfast.schemas.records import BlobReference, Manifest
from holdfast.schemas.resolution import ResolvedTask

__all__ = ["Agents", "Blobs", "CoordinatorContext", "EventEnds", "Schemas"]


class Schemas(Protocol):
    """The schemas on the bus."""

    def known(self, schema_id: int) -> Any | None:
        """Return a schema (parsed JSON) if it is known here. No I/O."""
        ...

    async def find(self, schema_id: int, timeout_s: float) -> bool:
        """Wait until a schema is known here, at most `timeout_s`; tell whether it is."""
        ...


class Blobs(Protocol):
    """The store of large payloads. Both raise `ConfigurationError` where there is no store."""

    async def get(self, reference: BlobReference) -> bytes | None:
        """Return a blob's bytes, None if the store does not have it; raises while it is away."""
        ...

    async def put(self, reference: BlobReference, data: bytes) -> None:
        """Store a blob; storing it twice changes nothing. Raises while the store is away."""
        ...


class Agents(Protocol):
    """The agents that are known."""

    def problem(self, plan: str) -> str | None:
        """Return why a resolved plan (JSON) cannot be run with these agents, or None. No I/O."""
        ...

    def task(self, agent: str, task: str) -> ResolvedTask | str:
        """Return what an agent says of a task of its own, or why there is none. No I/O."""
        ...

    def partitions(self, agent: str) -> int | str:
        """Return how many partitions an agent's topics have, or why they are not known. No I/O."""
        ...

    def manifests(self, agents: Collection[str]) -> Mapping[str, Manifest]:
        """Return the newest manifest of each of these agents that is known. No I/O."""
        ...

    async def refresh(self) -> None:
        """Learn of all agents that have published themselves by now; raises `BusUnavailable`."""
        ...


class EventEnds(Protocol):
    """Where the event topic ends."""

    def lower_bound(self, partition: int) -> int:
        """Return an offset at or before which no event written from now on can stand."""
        ...


@dataclass(frozen=True, slots=True)
class CoordinatorContext:
    """What all slots of one coordinator process share."""

    environment: Environment
    topics: Topics
    settings: CoordinatorSettings
    schemas: Schemas
    blobs: Blobs
    agents: Agents
    events: EventEnds
    graphs: Graphs
