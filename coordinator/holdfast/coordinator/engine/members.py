"""Groups of names, so that a few values are found without a look at all others of their entity."""

from __future__ import annotations

from collections.abc import ItemsView, Iterable
from typing import TypeAlias

__all__ = ["Listing", "Members"]

Listing: TypeAlias = Iterable[tuple[tuple[str, str], int]]
"""The groups that a value belongs to, each with what orders it there."""


class Members:
    """Names by group, each with what orders it. Derived from the values, never journaled."""

    __slots__ = ("_groups",)

    def __init__(self) -> None:
        self._groups: dict[tuple[str, str], dict[str, int]] = {}

    def of(self, group: str, what: str) -> ItemsView[str, int]:
        """Return the names in a group with what orders them; nothing may be changed meanwhile."""
        return self._groups.get((group, what), {}).items()

    def move(self, name: str, before: Listing, after: Listing) -> None:
        """A value has changed: take its name out of some groups, and put it into others."""
        for key, _ in before:
            group = self._groups.get(key)
            if group is not None:
                group.pop(name, None)
                if not group:
                    del self._groups[key]
        for key, order in after:
            self._groups.setdefault(key, {})[name] = order

    def clear(self) -> None:
        """Forget all."""
        self._groups.clear()
