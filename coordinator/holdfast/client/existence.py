"""Whether there is a run of some id at all: asked before anybody waits for ever for its end.

A handle made of an id (`Client.run`) may name a run that was never submitted: a mistake in the id,
or in the order key. Nobody on the bus can deny it: another process may submit it in a moment. So it
is given a moment, and then counted as unknown unless a submission still waits: on `coordinator`, or
in the coordinator's journal, where one stands whose offset was passed while it had to wait (for a
blob, a schema, an agent). An open run stands there too, also when its events are older than what
the bus keeps.
"""

from __future__ import annotations

import asyncio

from holdfast.bus.port import Bus, TopicPartition
from holdfast.bus.topics import COORDINATOR_GROUP, Topics
from holdfast.client.backlog import Backlog
from holdfast.client.errors import RunNotFound
from holdfast.client.watch import Watch
from holdfast.schemas import HoldfastError, decode
from holdfast.schemas.records import CoordinatorJournal, Parked

__all__ = ["UNKNOWN_GRACE_S", "Existence"]

UNKNOWN_GRACE_S = 5.0
"""How long a run that nothing is known of is given: for a submission that is just under way."""
HEADER_RUN = "holdfast-run"
PARKED_PREFIX = b"parked/"
"""Of the journal keys under which records stand that wait (see `Parked`)."""


class Existence:
    """Asks for one run; its `events` and its submission stand at the same partition number."""

    def __init__(self, bus: Bus, topics: Topics, watch: Watch) -> None:
        self._bus = bus
        self._topics = topics
        self._watch = watch

    async def require(self) -> None:
        """Return once the run is known, or nothing more will come (`Watch.error`).

        For a handle whose past was searched in vain. Waits on while a submission waits that no
        coordinator has taken in. Raises `RunNotFound`, `BusUnavailable`.
        """
        while not await self._shown_in_time():
            # In the order that a submission goes: one that goes on meanwhile stands before the end
            # of what is read next.
            if await self._submission_waits() or await self._in_journal():
                continue
            if not await self._in_events():
                raise RunNotFound(self._watch.run_id)

    async def _shown_in_time(self) -> bool:
        watch = self._watch
        try:
            async with asyncio.timeout(UNKNOWN_GRACE_S):
                while not watch.known and watch.error is None:
                    await watch.changed()
        except TimeoutError:
            return False
        return True

    async def _submission_waits(self) -> bool:
        place = TopicPartition(self._topics.coordinator, self._watch.partition)
        group = self._topics.group(COORDINATOR_GROUP)
        wanted = (HEADER_RUN, self._watch.run_id.encode())
        first = (await self._bus.committed(group, [place])).get(place, 0)
        async for records in self._bus.read(*place, first):
            if any(wanted in record.headers for record in records):
                return True
        return False

    async def _in_journal(self) -> bool:
        """Whether a submission stands parked there, or the run is open (then it is known)."""
        journal = self._topics.journal(COORDINATOR_GROUP)
        own_key = f"run/{self._watch.run_id}".encode()
        parked: dict[bytes, bytes] = {}
        is_open = False
        async for records in self._bus.read(journal, self._watch.partition):
            for record in records:
                if record.key == own_key:
                    is_open = record.value is not None
                elif record.key is not None and record.key.startswith(PARKED_PREFIX):
                    parked.pop(record.key, None)
                    if record.value is not None:
                        parked[record.key] = record.value
        self._watch.known = self._watch.known or is_open
        return is_open or any(map(self._is_ours, parked.values()))

    def _is_ours(self, value: bytes) -> bool:
        try:
            body = decode(CoordinatorJournal, value).body
        except HoldfastError:
            return True  # of a newer build: nobody can say that it is not
        if not isinstance(body, Parked):
            return False
        wanted = self._watch.run_id.encode()
        return any(h.name == HEADER_RUN and h.value == wanted for h in body.headers)

    async def _in_events(self) -> bool:
        place = TopicPartition(self._topics.events, self._watch.partition)
        end = (await self._bus.end_offsets([place]))[place]
        past = await Backlog(self._bus, self._topics.events, self._watch).search(
            self._watch.start, end
        )
        self._watch.known = self._watch.known or past.known
        return past.known
