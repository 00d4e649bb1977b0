"""What a client opens around itself: bus, schemas, blobs."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.bus.blobs import BlobStore, open_blob_store
from holdfast.bus.connect import open_bus
from holdfast.bus.port import Environment
from holdfast.bus.registry import BusRegistry
from holdfast.client.settings import ClientSettings

__all__ = ["Surroundings", "open_surroundings"]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Open, until `close`. A bus that was given stays open."""

    environment: Environment
    schemas: BusRegistry
    blobs: BlobStore
    owns_bus: bool

    async def close(self) -> None:
        """Let go of what was opened here."""
        await self.schemas.close()
        if self.owns_bus:
            await self.environment.bus.close()


async def open_surroundings(
    settings: ClientSettings, environment: Environment | None
) -> Surroundings:
    """Connect. Raises `ConfigurationError`, `BusUnavailable`, `TopicMissing`."""
    owns_bus = environment is None
    if environment is None:
        environment = Environment(open_bus(settings.bus))
        await environment.bus.start()
    try:
        blobs = open_blob_store(settings.blobs, environment)
        schemas = BusRegistry(environment, settings.topics)
        await schemas.start()
    except BaseException:
        if owns_bus:
            await environment.bus.close()
        raise
    return Surroundings(environment, schemas, blobs, owns_bus)
