"""Whether there is a run of some id at all: asked before anybody waits for ever for its end.

A handle made of an id (`Client.run`) may name a run that was never submitted: a mistake in the id,
or in the order key. Nobody on the bus can deny it: another process may submit it in a moment. So it
is given a moment, and then counted as unknown unless a submission still waits for a coordinator.
"""

from __future__ import annotations

import asyncio

from holdfast.bus.port import Bus, TopicPartition
from holdfast.bus.topics import COORDINATOR_GROUP, Topics
from holdfast.client.backlog import Backlog
from holdfast.client.errors import RunNotFound
from holdfast.client.watch import Watch

__all__ = ["UNKNOWN_GRACE_S", "Existence"]

UNKNOWN_GRACE_S = 5.0
"""How long a run that nothing is known of is given: for a submission that is just under way."""
HEADER_RUN = "holdfast-run"


class Existence:
    """Asks for one run; its `events` and its submission stand at the same partition number."""

    def __init__(self, bus: Bus, topics: Topics, watch: Watch) -> None:
        self._bus = bus
        self._topics = topics
        self._watch = watch

    async def require(self) -> None:
        """Return once the run is known, or nothing more will come (`Watch.error`).

        For a handle whose past was searched in vain. Waits on while a submission stands on
        `coordinator` that no coordinator has taken in. Raises `RunNotFound`, `BusUnavailable`.
        """
        while not await self._shown_in_time():
            # The submission first: one that is taken in meanwhile has its events before the end
            # that is asked for next.
            if not await self._submission_waits() and not await self._in_events():
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

    async def _in_events(self) -> bool:
        place = TopicPartition(self._topics.events, self._watch.partition)
        end = (await self._bus.end_offsets([place]))[place]
        past = await Backlog(self._bus, self._topics.events, self._watch).search(
            self._watch.start, end
        )
        self._watch.known = self._watch.known or past.known
        return past.known
