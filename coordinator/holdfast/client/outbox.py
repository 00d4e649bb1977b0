"""Publishing that batches by itself: what arrives while a publish is under way goes out with the
next one. So a single record waits for nobody, and hundreds a second cost a handful of publishes.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from holdfast.bus.errors import Rejected
from holdfast.bus.port import Bus, Position, Record
from holdfast.client.errors import ClientClosed

__all__ = ["Outbox"]

BATCH_RECORDS = 500
"""The most records of one publish."""


@dataclass(slots=True, eq=False)
class _Waiting:
    record: Record
    written: asyncio.Future[Position]


class Outbox:
    """Used on one event loop."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._waiting: list[_Waiting] = []
        self._sender: asyncio.Task[None] | None = None
        self._closed = False

    async def send(self, record: Record) -> Position:
        """Return where it stands, once it is kept.

        A cancelled call may still send. Raises `Rejected`, `TopicMissing`, `BusUnavailable`.
        """
        if self._closed:
            raise ClientClosed("this client was closed: open another")
        waiting = _Waiting(record, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        if self._sender is None or self._sender.done():
            # Runs after this turn of the loop: who sends in the same turn is in the same batch.
            self._sender = asyncio.create_task(self._send_all(), name="holdfast-outbox")
        return await waiting.written

    async def close(self) -> None:
        """Send what waits, then refuse everything."""
        self._closed = True
        if self._sender is not None:
            await self._sender

    async def _send_all(self) -> None:
        while self._waiting:
            batch = self._waiting[:BATCH_RECORDS]
            del self._waiting[:BATCH_RECORDS]
            await self._send(batch)

    async def _send(self, batch: list[_Waiting]) -> None:
        try:
            positions = await self._bus.publish([waiting.record for waiting in batch])
        except Rejected as refused:
            # Before anything was written: the others go on without the culprit.
            kept = [waiting for waiting in batch if waiting.record is not refused.record]
            for waiting in batch:
                if waiting.record is refused.record or len(kept) == len(batch):
                    _fail(waiting, refused)
            if 0 < len(kept) < len(batch):
                await self._send(kept)
        except Exception as error:  # noqa: BLE001 - handed to those who wait
            for waiting in batch:
                _fail(waiting, error)
        else:
            for waiting, position in zip(batch, positions, strict=True):
                if not waiting.written.done():
                    waiting.written.set_result(position)


def _fail(waiting: _Waiting, error: Exception) -> None:
    if not waiting.written.done():
        waiting.written.set_exception(error)
