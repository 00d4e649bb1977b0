"""How the command line reads: by a projection of its own, in the user's cache folder.

It is caught up with the bus before each question, so that an answer is as new as the question.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from holdfast.bus.topics import COORDINATOR_GROUP
from holdfast.cli.printing import note

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from holdfast.bus.port import Environment
    from holdfast.cli.invocation import Invocation
    from holdfast.cli.settings import Settings
    from holdfast.coordinator.projection import Projection
    from holdfast.schemas import Payload

__all__ = ["Reading", "projection_file", "reading"]

T = TypeVar("T")

CATCH_UP_S = 30.0
"""How long a read follows the bus; after that it answers with what it has, and says so."""


def projection_file(settings: Settings) -> Path:
    """Return where the projection of a bus and namespace stands."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    path = settings.bus_file
    where = settings.bus.partition("?")[0] if path is None else f"sqlite:///{path.absolute()}"
    name = hashlib.sha256(f"{where} {settings.namespace}".encode()).hexdigest()[:16]
    return Path(cache) / "holdfast" / f"{name}.db"


class Reading:
    """A projection that is caught up, and what decodes the payloads in it."""

    def __init__(
        self, projection: Projection, environment: Environment, settings: Settings
    ) -> None:
        self._projection = projection
        self._environment = environment
        self._settings = settings

    @property
    def now_ms(self) -> int:
        """Wall time."""
        return self._environment.now_ms()

    async def ask(self, question: Callable[[Connection], T]) -> T:
        """Return the answer to a question of the projection, such as `list_runs`."""
        return await self._projection.query(question)

    async def waiting(self) -> int:
        """Return how many records wait for a coordinator: what they cause cannot be read yet."""
        topics = self._settings.topics
        lag = await self._environment.bus.lag(topics.group(COORDINATOR_GROUP), [topics.coordinator])
        return sum(lag.values())

    @asynccontextmanager
    async def decoder(self) -> AsyncIterator[Callable[[Payload], Any]]:
        """What decodes payloads; opens registry and blob store."""
        from holdfast.client import Client

        async with Client(settings=self._settings, environment=self._environment) as client:
            yield client.decode


@asynccontextmanager
async def reading(invocation: Invocation) -> AsyncIterator[Reading]:
    """Open bus and projection, and catch up. Raises `BadInput`, `TopicMissing`."""
    from holdfast.coordinator.projection import Projection

    settings = invocation.settings
    async with invocation.environment() as environment:
        url = f"sqlite:///{projection_file(settings)}"
        projection = Projection(environment, settings.topics, url)
        try:
            await projection.start()
            if not await projection.catch_up(timeout_s=CATCH_UP_S):
                note(f"not caught up with the bus after {CATCH_UP_S:g} s: this is not the newest")
            yield Reading(projection, environment, settings)
        finally:
            await projection.close()
