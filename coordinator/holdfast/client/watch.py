"""What one client knows of one run, from the events that pass by.

A watch is fed by `EventFeed` from `start` on, without gaps. It decodes only what decides something;
whoever wants all events subscribes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeAlias

from holdfast.client.errors import ClientError
from holdfast.schemas import Event, EventType, decode

__all__ = ["ENDS", "REFUSALS", "Watch"]

ENDS = frozenset({EventType.RUN_SUCCEEDED, EventType.RUN_FAILED, EventType.RUN_CANCELLED})
ANSWERS = frozenset(
    {
        EventType.RUN_REFUSED,
        EventType.RUN_REPEATED,
        EventType.RUN_CONFLICTED,
        EventType.COMMAND_ACCEPTED,
        EventType.COMMAND_REFUSED,
        EventType.SIGNAL_KEPT,
        EventType.SIGNAL_REPEATED,
        EventType.SIGNAL_REFUSED,
        EventType.TASK_ANSWERED,
        EventType.SCHEDULE_CREATED,
        EventType.SCHEDULE_UPDATED,
        EventType.SCHEDULE_REPEATED,
        EventType.SCHEDULE_PAUSED,
        EventType.SCHEDULE_RESUMED,
        EventType.SCHEDULE_TRIGGERED,
        EventType.SCHEDULE_BACKFILLED,
        EventType.SCHEDULE_DELETED,
        EventType.SCHEDULE_REFUSED,
        EventType.AGENT_PAUSED,
        EventType.AGENT_RESUMED,
    }
)
_ENDS = frozenset(kind.encode() for kind in ENDS)
_ANSWERS = frozenset(kind.encode() for kind in ANSWERS)
REFUSALS = frozenset(
    kind.encode()
    for kind in (EventType.RUN_REFUSED, EventType.COMMAND_REFUSED, EventType.SIGNAL_REFUSED)
)
"""Events that name a run and do not show that there is one."""
_STARTED = EventType.RUN_STARTED.encode()

Raw: TypeAlias = tuple[int, bytes]
"""Offset in the run's partition of `events`, and the framed event."""


class Watch:
    """Belongs to one `Run`; the feed knows it only as long as that lives."""

    __slots__ = (
        "__weakref__",
        "_changed",
        "_subscribers",
        "answers",
        "end",
        "error",
        "known",
        "partition",
        "run_id",
        "start",
        "started",
    )

    def __init__(self, run_id: str, partition: int) -> None:
        self.run_id = run_id
        self.partition = partition
        self.start = 0
        """Offset in `events` from which on this watch sees everything."""
        self.started: bytes | None = None
        """The event of the run's start, once it passed by."""
        self.end: Event | None = None
        self.answers: dict[int, tuple[int, Event]] = {}
        """By the offset of the record that asked: (offset of the answer, answer)."""
        self.known = False
        """Whether an event has shown that there is such a run."""
        self.error: ClientError | None = None
        self._changed: asyncio.Event | None = None
        self._subscribers: list[asyncio.Queue[Raw | None]] = []

    def deliver(self, offset: int, kind: bytes, value: bytes) -> None:
        """Take an event of this run."""
        if not self.known and kind not in REFUSALS:
            self.known = True
            self._wake()
        if kind in _ENDS:
            self.end = decode(Event, value)
            self._wake()
        elif kind in _ANSWERS:
            answer = decode(Event, value)
            if answer.cause is not None and (answer.ask is None or answer.signal is not None):
                self.answers[answer.cause.offset] = (offset, answer)
            self._wake()
        elif kind == _STARTED:
            self.started = value
            self._wake()
        for queue in self._subscribers:
            queue.put_nowait((offset, value))

    def fail(self, error: ClientError) -> None:
        """Nothing more will come."""
        self.error = error
        self._wake()
        for queue in self._subscribers:
            queue.put_nowait(None)

    async def changed(self) -> None:
        """Return at the next end, answer or failure. Ask what there is before, without awaiting."""
        if self._changed is None:  # made late: most watches are never waited on twice
            self._changed = asyncio.Event()
        event = self._changed
        await event.wait()

    @contextmanager
    def subscribed(self) -> Iterator[asyncio.Queue[Raw | None]]:
        """Get every event from here on; None is the end, for the reason in `error`."""
        queue: asyncio.Queue[Raw | None] = asyncio.Queue()
        self._subscribers.append(queue)
        try:
            yield queue
        finally:
            self._subscribers.remove(queue)

    def _wake(self) -> None:
        # One event per change: who waits next waits for the next one.
        event, self._changed = self._changed, None
        if event is not None:
            event.set()
