"""Events of one run that stand before what a watch sees: read from the bus, not from the feed."""

from __future__ import annotations

from collections.abc import AsyncIterator

from holdfast.bus.port import Bus
from holdfast.client.errors import EventsLost
from holdfast.client.peek import peek_event
from holdfast.client.watch import ENDS, Watch
from holdfast.schemas import Event, EventType, RunState, decode

__all__ = ["Backlog"]

FIRST_CHUNK = 5_000
CHUNK_GROWTH = 4
_CLOSED = (RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED)
_ENDS = frozenset(kind.encode() for kind in ENDS)
_STARTED = EventType.RUN_STARTED.encode()


class Backlog:
    """Reads one partition of `events`."""

    def __init__(self, bus: Bus, events: str, watch: Watch) -> None:
        self._bus = bus
        self._events = events
        self._watch = watch

    async def forward(self, start: int, end: int) -> AsyncIterator[tuple[int, bytes]]:
        """Yield (offset, framed event) of the run in [start, end)."""
        if start >= end:
            return
        run_id = self._watch.run_id.encode()
        async for records in self._bus.read(self._events, self._watch.partition, start, end):
            for received in records:
                peeked = peek_event(received.value)
                if peeked is not None and peeked[0] == run_id and received.value is not None:
                    yield received.offset, received.value

    async def find_end(self, start: int, end: int) -> Event | None:
        """Return the event that ended the run, if it stands in [start, end).

        Backwards in growing chunks: the runs people ask for are young, the partition may be long.
        """
        chunk = FIRST_CHUNK
        while end > start:
            first = max(start, end - chunk)
            begun = False
            async for _, value in self.forward(first, end):
                peeked = peek_event(value)
                if peeked is not None and peeked[1] in _ENDS:
                    return decode(Event, value)
                begun = begun or (peeked is not None and peeked[1] == _STARTED)
            if begun:
                return None
            end, chunk = first, chunk * CHUNK_GROWTH
        return None

    @staticmethod
    def check_open(answer: Event) -> None:
        """Raise `EventsLost` if a repeated submission's run has ended, and its end is gone."""
        if answer.run is None or answer.run.state in _CLOSED:
            raise EventsLost(f"{answer.message}, but its events are no longer on the bus")
