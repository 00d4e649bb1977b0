"""Events of one run that stand before what a watch sees: read from the bus, not from the feed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import NamedTuple

from holdfast.bus.port import Bus
from holdfast.client.errors import EventsLost
from holdfast.client.peek import peek_event
from holdfast.client.watch import ENDS, REFUSALS, Watch
from holdfast.schemas import Event, EventType, RunState, decode

__all__ = ["Backlog", "Past"]

FIRST_CHUNK = 5_000
CHUNK_GROWTH = 4
_CLOSED = (RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED)
_ENDS = frozenset(kind.encode() for kind in ENDS)
_STARTED = EventType.RUN_STARTED.encode()


class Past(NamedTuple):
    """What a search has found."""

    end: Event | None
    """The event that ended the run."""
    known: bool
    """Whether anything shows that there is such a run."""


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

    async def search(self, start: int, end: int) -> Past:
        """Return what stands of the run in [start, end): its end, if there is one.

        Backwards in growing chunks: the runs people ask for are young, the partition may be long.
        """
        chunk, known = FIRST_CHUNK, False
        while end > start:
            first = max(start, end - chunk)
            begun = False
            async for _, value in self.forward(first, end):
                _, kind = peek_event(value) or (b"", b"")
                if kind in _ENDS:
                    return Past(decode(Event, value), known=True)
                begun = begun or kind == _STARTED
                known = known or kind not in REFUSALS
            if begun:
                break
            end, chunk = first, chunk * CHUNK_GROWTH
        return Past(None, known)

    @staticmethod
    def check_open(answer: Event) -> None:
        """Raise `EventsLost` if a repeated submission's run has ended, and its end is gone."""
        if answer.run is None or answer.run.state in _CLOSED:
            raise EventsLost(f"{answer.message}, but its events are no longer on the bus")
