"""A consumer group as a broker keeps it: static members, heartbeats, eager rebalances.

Who joins, leaves or is silent for the session time-out begins a new generation. Every member hears
`revoked` and comes back (`rejoin`); when all have, or those that are silent were taken out, each
hears `assigned` at its own time. Nobody is given anything before all others know that they may have
lost it: the barrier of JoinGroup. Partitions are shared range by range among the members in the
order of their names, so that a name that comes back gets what it had (KIP-345), and the same number
of every topic goes to one member.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from holdfast.bus.port import TopicPartition

__all__ = ["Generation", "Group", "Membership"]


@dataclass(eq=False)
class Membership:
    """One member as the broker sees it. `incarnation` tells processes of one name apart."""

    name: str
    incarnation: str
    topics: tuple[str, ...]
    session_s: float
    tell: Callable[[Generation], None]
    """Sends word to the member: it hears it as soon as the network lets it."""
    seen_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Generation:
    """What a member is told: `owned` None while everything is under negotiation."""

    number: int
    owned: frozenset[TopicPartition] | None


@dataclass(eq=False)
class Group:
    """One group. `settle_s` draws how long a rebalance takes to reach one member."""

    name: str
    partitions: Callable[[str], int]
    later: Callable[[float, Callable[[], None]], None]
    settle_s: Callable[[], float]
    offsets: dict[TopicPartition, int] = field(default_factory=dict)
    members: dict[str, Membership] = field(default_factory=dict)
    generation: int = 0
    awaited: set[str] = field(default_factory=set)
    """Members that have not come back for this generation yet."""

    def join(self, member: Membership, now: float) -> None:
        """Take a member in. One of the same name is replaced, and nobody else hears of it."""
        member.seen_at = now
        before = self.members.get(member.name)
        self.members[member.name] = member
        if before is None or before.topics != member.topics:
            self.rebalance()
        elif self.awaited:
            self.rejoin(member.name, member.incarnation, self.generation)
        else:
            self._assign(member, self.generation)

    def rejoin(self, name: str, incarnation: str, number: int) -> None:
        """Take note that a member has heard of generation `number`, and waits for its share."""
        member = self.members.get(name)
        if member is None or member.incarnation != incarnation or number != self.generation:
            return
        self.awaited.discard(name)
        if not self.awaited:
            for each in self.members.values():
                self.later(self.settle_s(), lambda m=each: self._assign(m, number))  # type: ignore[misc]

    def leave(self, name: str, incarnation: str) -> None:
        """Take a member out, if it is still this one."""
        member = self.members.get(name)
        if member is not None and member.incarnation == incarnation:
            del self.members[name]
            self.rebalance()

    def heartbeat(self, name: str, incarnation: str, now: float) -> str:
        """Note a sign of life; answer "ok", "rebalancing", "unknown" (join again), "fenced"."""
        member = self.members.get(name)
        if member is None:
            return "unknown"
        if member.incarnation != incarnation:
            return "fenced"
        member.seen_at = now
        return "rebalancing" if name in self.awaited else "ok"

    def expire(self, now: float) -> None:
        """Take out members that were silent for too long."""
        silent = [m for m in self.members.values() if now - m.seen_at > m.session_s]
        for member in silent:
            del self.members[member.name]
        if silent:
            self.rebalance()

    def rebalance(self) -> None:
        """Begin a new generation."""
        self.generation += 1
        self.awaited = set(self.members)
        number = self.generation
        for member in self.members.values():
            self.later(self.settle_s(), lambda m=member: self._revoke(m, number))  # type: ignore[misc]

    def owner(self, topic: str, partition: int) -> str | None:
        """Return who the newest generation gives a partition to."""
        where = TopicPartition(topic, partition)
        return next((n for n, m in self.members.items() if where in self._share(m)), None)

    def _revoke(self, member: Membership, number: int) -> None:
        if number == self.generation and self.members.get(member.name) is member:
            member.tell(Generation(number, None))

    def _assign(self, member: Membership, number: int) -> None:
        newest = number == self.generation and not self.awaited
        if newest and self.members.get(member.name) is member:
            member.tell(Generation(number, self._share(member)))

    def _share(self, member: Membership) -> frozenset[TopicPartition]:
        names = sorted(self.members)
        index = names.index(member.name)
        count = self.partitions(member.topics[0])
        each, extra = divmod(count, len(names))
        first = index * each + min(index, extra)
        numbers = range(first, first + each + (index < extra))
        return frozenset(TopicPartition(t, n) for t in member.topics for n in numbers)
