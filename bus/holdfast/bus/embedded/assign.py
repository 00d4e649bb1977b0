"""Who gets which partition: pure, the same answer for everyone who asks.

Uses: nothing. Must never: do I/O.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

__all__ = ["assign"]


def assign(
    partitions: int,
    members: Collection[str],
    holders: Mapping[int, str | None],
    homes: Mapping[int, str | None],
) -> dict[int, str]:
    """Return partition to member: equal quotas, moving no more than they demand.

    A partition goes to its home (who had it when all were well) if that lives and has room; else it
    stays with its holder; else it goes to who has fewest. {} without members.
    """
    if not members:
        return {}
    room = _quotas(partitions, members, holders, homes)
    result: dict[int, str] = {}

    def place(wishes: Mapping[int, str | None], first: Collection[int]) -> None:
        for partition in first:
            member = wishes.get(partition)
            if partition not in result and member is not None and room.get(member, 0) > 0:
                result[partition] = member
                room[member] -= 1

    everything = range(partitions)
    # Those already at home first: they need not move, and must not lose their room to ones that do.
    at_home = [p for p in everything if homes.get(p) is not None and homes[p] == holders.get(p)]
    place(homes, at_home)
    place(homes, everything)
    place(holders, everything)
    for partition in everything:
        if partition not in result:
            member = max(sorted(members), key=lambda name: room[name])
            result[partition] = member
            room[member] -= 1
    return result


def _quotas(
    partitions: int,
    members: Collection[str],
    holders: Mapping[int, str | None],
    homes: Mapping[int, str | None],
) -> dict[str, int]:
    """The odd ones go to who had most when all were well, then to who has most now."""

    def claims(member: str, of: Mapping[int, str | None]) -> int:
        return sum(of.get(partition) == member for partition in range(partitions))

    each, odd = divmod(partitions, len(members))
    by_claims = sorted(
        members, key=lambda name: (-claims(name, homes), -claims(name, holders), name)
    )
    return {name: each + (place < odd) for place, name in enumerate(by_claims)}
