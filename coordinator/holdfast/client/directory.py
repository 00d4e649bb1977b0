"""What the agents publish of themselves, as one client knows it.

Read from `agents` at the first question, and again from where it had got to: beside a submission
once what is known is older than `FRESH_S`, before it while a manifest is missing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping

from holdfast.bus.port import Environment, Received
from holdfast.schemas import HoldfastError, Manifest, decode

__all__ = ["MANIFEST_WAIT_S", "Directory"]

logger = logging.getLogger(__name__)

MANIFEST_WAIT_S = 10.0
"""How long a submission waits for the manifest of an agent that is about to come."""
FRESH_S = 5.0
LOOK_AGAIN_S = 0.1


class Directory:
    """Used on one event loop."""

    def __init__(self, environment: Environment, agents_topic: str) -> None:
        self._environment = environment
        self.wait_s = MANIFEST_WAIT_S
        self._topic = agents_topic
        self._next = 0
        self._newest: dict[str, Manifest] = {}
        self._read_at: float | None = None
        self._reading = asyncio.Lock()
        self._refresh: asyncio.Task[None] | None = None

    @property
    def manifests(self) -> Mapping[str, Manifest]:
        """Of each agent the newest manifest; an agent seen once stays known while it is down."""
        return self._newest

    async def find(self, agents: Collection[str]) -> Mapping[str, Manifest]:
        """Return the manifests, once all of `agents` are there or `wait_s` have passed."""
        monotonic = self._environment.monotonic
        deadline = monotonic() + self.wait_s
        while any(agent not in self._newest for agent in agents):
            await self._read()
            if all(agent in self._newest for agent in agents) or monotonic() >= deadline:
                return self._newest
            await asyncio.sleep(LOOK_AGAIN_S)
        if self._read_at is None or monotonic() - self._read_at > FRESH_S:
            self._read_aside()
        return self._newest

    async def read_again(self) -> bool:
        """Read what was published since; tell whether that changed anything."""
        before = dict(self._newest)
        await self._read()
        return before != self._newest

    async def close(self) -> None:
        """End a reading that is under way."""
        if self._refresh is not None:
            self._refresh.cancel()
            await asyncio.gather(self._refresh, return_exceptions=True)

    def _read_aside(self) -> None:
        # Nobody waits for it: what is known is good enough for the submission at hand.
        if self._refresh is None or self._refresh.done():
            self._refresh = asyncio.create_task(self._read_quietly(), name="holdfast-directory")

    async def _read_quietly(self) -> None:
        try:
            await self._read()
        except HoldfastError as error:
            logger.warning("cannot read the agents' manifests again: %s", error)

    async def _read(self) -> None:
        async with self._reading:
            async for records in self._environment.bus.read(self._topic, 0, self._next):
                for received in records:
                    self._take(received)
                self._next = records[-1].offset + 1
            self._read_at = self._environment.monotonic()

    def _take(self, received: Received) -> None:
        if received.value is None or received.key is None:
            return
        try:
            manifest = decode(Manifest, received.value)
        except HoldfastError as error:
            logger.warning("%s is no manifest: %s", received.position, error)
            return
        known = self._newest.get(manifest.agent)
        # Of two builds that run side by side the one started last counts, whoever spoke last.
        if known is None or manifest.started_ms >= known.started_ms:
            self._newest[manifest.agent] = manifest
