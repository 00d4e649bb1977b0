"""A registry that can be away, slow or wrong, as the harness says."""

from __future__ import annotations

import asyncio
from typing import Any

from holdfast.bus.errors import BusUnavailable
from holdfast.bus.port import Environment
from holdfast.bus.registry import BusRegistry, RegisteredSchema
from holdfast.bus.topics import Topics
from holdfast.schemas.compatibility import Compatibility
from holdfast.schemas.errors import UnknownSchema
from tests.torture.points import Control, RegistryMode

__all__ = ["HurtRegistry"]

SLOW_S = 1.0


class HurtRegistry:
    """The registry on the bus, hurt. It starts with its first use, and is never closed."""

    def __init__(self, environment: Environment, topics: Topics, control: Control) -> None:
        self._inner = BusRegistry(environment, topics)
        self._control = control
        self._starting = asyncio.Lock()
        self._started = False

    def known(self, schema_id: int) -> Any | None:
        """See `Registry`."""
        return None if self._wrong() else self._inner.known(schema_id)

    async def find(self, schema_id: int, timeout_s: float) -> bool:
        """See `Registry`."""
        await self._pass()
        return not self._wrong() and await self._inner.find(schema_id, timeout_s)

    async def schema(self, schema_id: int) -> Any:
        """See `Registry`."""
        await self._pass()
        if self._wrong():
            raise UnknownSchema(f"schema {schema_id} is not known, says a registry that is wrong")
        return await self._inner.schema(schema_id)

    async def register(
        self, subject: str, schema: Any, mode: Compatibility = Compatibility.BACKWARD
    ) -> int:
        """See `Registry`."""
        await self._pass()
        return await self._inner.register(subject, schema, mode)

    async def latest(self, subject: str) -> RegisteredSchema | None:
        """See `Registry`."""
        await self._pass()
        return None if self._wrong() else await self._inner.latest(subject)

    async def subjects(self) -> list[str]:
        """See `Registry`."""
        await self._pass()
        return [] if self._wrong() else await self._inner.subjects()

    async def versions(self, subject: str) -> list[RegisteredSchema]:
        """See `Registry`."""
        await self._pass()
        return [] if self._wrong() else await self._inner.versions(subject)

    def _wrong(self) -> bool:
        return self._control.registry is RegistryMode.WRONG

    async def _pass(self) -> None:
        mode = self._control.registry
        if mode is RegistryMode.AWAY:
            raise BusUnavailable("the registry is away")
        if mode is RegistryMode.SLOW:
            await asyncio.sleep(SLOW_S)
        async with self._starting:
            if not self._started:
                await self._inner.start()
                self._started = True
