"""The topics that handlers publish to: known to exist before a commit depends on it."""

from __future__ import annotations

from collections.abc import Collection

from holdfast.agents.payloads import patiently
from holdfast.bus.errors import TopicMissing
from holdfast.bus.port import Bus

__all__ = ["PublishedTopics"]


class PublishedTopics:
    """Remembers which topics exist. A missing one fails its task, not the commit of all others."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._known: set[str] = set()

    async def require(self, names: Collection[str]) -> None:
        """Raise `TopicMissing` unless all of `names` exist; waits while the bus is away."""
        unknown = set(names) - self._known
        if not unknown:
            return
        found = await patiently("bus", lambda: self._bus.describe_topics(unknown))
        self._known |= found.keys()
        if missing := sorted(unknown - found.keys()):
            raise TopicMissing(
                f"published to topic {missing[0]!r}, which does not exist on {self._bus.url}: "
                "create it first; Holdfast creates only its own topics"
            )
