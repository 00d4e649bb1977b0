"""The table of planted bugs: `@bug` adds to it, `plant` takes from it."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

from tests.planted.patching import Patch, PlantingError

__all__ = ["BUGS", "Area", "Bug", "Bus", "Suite", "bug", "plant"]

Area = Literal["bus", "slot", "agent", "coordinator", "client"]
Suite = Literal["simulation", "torture"]
Bus = Literal["sim", "sqlite", "kafka"]

INVARIANTS = frozenset(f"I{number}" for number in range(1, 14))
EVERY_BUS: tuple[Bus, ...] = ("sim", "sqlite", "kafka")


@dataclass(frozen=True, slots=True)
class Bug:
    """One planted bug. `breaks`: invariants that should see it, the likeliest first. `suites`: who
    can find it, `buses`: where it can show. `needs`: what the workload must hold for it to show,
    beside plain chains and crashes. `fault`: the fault of torture that is likeliest to show it.
    `story`: what is wrong, and what a user would suffer.
    """

    name: str
    area: Area
    breaks: tuple[str, ...]
    suites: tuple[Suite, ...]
    buses: tuple[Bus, ...]
    needs: str
    fault: str
    story: str
    apply: Callable[[Patch], None]


BUGS: dict[str, Bug] = {}
"""All bugs, by name."""


def bug(
    name: str,
    *,
    area: Area,
    breaks: tuple[str, ...],
    suites: tuple[Suite, ...] = ("simulation", "torture"),
    buses: tuple[Bus, ...] = EVERY_BUS,
    needs: str = "",
    fault: str = "mixed",
) -> Callable[[Callable[[Patch], None]], Callable[[Patch], None]]:
    """Add the decorated function, which applies the bug to a `Patch`, to the table."""

    def add(apply: Callable[[Patch], None]) -> Callable[[Patch], None]:
        story = inspect.getdoc(apply)
        if name in BUGS or not story or not breaks or not INVARIANTS.issuperset(breaks):
            raise ValueError(f"bug {name!r} needs a name of its own, a story and known invariants")
        BUGS[name] = Bug(name, area, breaks, suites, buses, needs, fault, story, apply)
        return apply

    return add


def plant(name: str) -> AbstractContextManager[Bug]:
    """Have the bug in this process for as long as the context lasts; one that is entered and never
    left, also if nobody holds it any more, lasts as long as the process.

    What already runs keeps the code it has begun with: plant before anything is started. Raises
    `KeyError` for a name that is not in the table; on entering, `PlantingError` when the code has
    changed since the bug was written, and then nothing is planted.
    """
    if name not in BUGS:
        near = difflib.get_close_matches(name, BUGS, n=3)
        raise KeyError(f"no planted bug {name!r}; near: {', '.join(near) or 'none'}")
    return _Planting(BUGS[name])


class _Planting(AbstractContextManager[Bug]):
    """Not a generator: one that is dropped would take its bug out again, unseen."""

    def __init__(self, planted: Bug) -> None:
        self._bug = planted
        self._patch = Patch(planted.name)

    def __enter__(self) -> Bug:
        try:
            self._bug.apply(self._patch)
            if not self._patch.places:
                raise PlantingError(f"bug {self._bug.name!r} changes nothing")
        except BaseException:
            self._patch.undo()
            raise
        return self._bug

    def __exit__(self, *_: object) -> None:
        self._patch.undo()
