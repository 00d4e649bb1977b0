"""What all handles of one client share, and the one way in which they write to coordinators."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.bus.port import Bus, Environment, Position, Record
from holdfast.bus.topics import Topics
from holdfast.client.feed import EventFeed
from holdfast.client.outbox import Outbox
from holdfast.client.payloads import Payloads
from holdfast.schemas import (
    Command,
    CoordinatorEnvelope,
    ScheduleCommand,
    Signal,
    Submission,
    encode,
)

__all__ = ["Connection"]


@dataclass(frozen=True, slots=True)
class Connection:
    """What all runs of one client share."""

    environment: Environment
    topics: Topics
    feed: EventFeed
    outbox: Outbox
    payloads: Payloads
    actor: str

    @property
    def bus(self) -> Bus:
        """The bus."""
        return self.environment.bus

    async def send(
        self, run_id: str, key: str, body: Submission | Command | Signal | ScheduleCommand
    ) -> Position:
        """Write to the coordinators; return where it stands once it is kept."""
        envelope = CoordinatorEnvelope(run_id, self.environment.now_ms(), body)
        headers = (("holdfast-run", run_id.encode()), ("holdfast-reply-key", key.encode()))
        record = Record(self.topics.coordinator, key.encode(), encode(envelope), headers)
        return await self.outbox.send(record)
