"""What a client opens around itself: bus, schemas, blobs."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from holdfast.bus.blobs import BlobStore, open_blob_store
from holdfast.bus.connect import open_bus
from holdfast.bus.errors import TopicMismatch, TopicMissing
from holdfast.bus.port import Environment
from holdfast.bus.registry import BusRegistry
from holdfast.bus.topics import Topics
from holdfast.client.settings import ClientSettings

__all__ = ["Surroundings", "open_surroundings"]

LOOK_AGAIN_S = 0.2
"""Between two looks whether the topics are there."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Open, until `close`. A bus that was given stays open."""

    environment: Environment
    schemas: BusRegistry
    blobs: BlobStore
    owns_bus: bool
    partitions: int
    """Of `coordinator`, and so of `events`."""

    async def close(self) -> None:
        """Let go of what was opened here."""
        await self.schemas.close()
        if self.owns_bus:
            await self.environment.bus.close()


async def open_surroundings(
    settings: ClientSettings, environment: Environment | None, wait_s: float
) -> Surroundings:
    """Connect; topics that a coordinator is about to create are waited for, at most `wait_s`.

    Raises `ConfigurationError`, `BusUnavailable`, `TopicMissing`, `TopicMismatch`.
    """
    owns_bus = environment is None
    if environment is None:
        environment = Environment(open_bus(settings.bus))
        await environment.bus.start()
    try:
        blobs = open_blob_store(settings.blobs, environment)
        partitions = await _partitions(environment, settings.topics, wait_s)
        schemas = BusRegistry(environment, settings.topics)
        await schemas.start()
    except BaseException:
        if owns_bus:
            await environment.bus.close()
        raise
    return Surroundings(environment, schemas, blobs, owns_bus, partitions)


async def _partitions(environment: Environment, topics: Topics, wait_s: float) -> int:
    """Return the number of partitions, once all that a client needs is there."""
    bus = environment.bus
    wanted = (topics.coordinator, topics.events, topics.agents, topics.schemas)
    deadline = environment.monotonic() + wait_s
    while True:
        found = await bus.describe_topics(wanted)
        missing = [name for name in wanted if name not in found]
        if not missing:
            break
        if environment.monotonic() >= deadline:
            raise TopicMissing(
                f"topic {missing[0]} does not exist on {bus.url}: start a coordinator (`holdfast "
                "coordinator`, `holdfast dev`), or create the topics with `holdfast topics create`"
            )
        await asyncio.sleep(LOOK_AGAIN_S)
    counts = [found[name].partitions for name in wanted[:2]]
    if counts[0] != counts[1]:
        raise TopicMismatch(
            f"{wanted[0]} has {counts[0]} partitions and {wanted[1]} {counts[1]}: they must be "
            "equal; create the namespace anew"
        )
    return counts[0]
