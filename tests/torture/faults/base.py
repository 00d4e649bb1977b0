"""What a fault is: something that is done to one victim, and what recovery from it means."""

from __future__ import annotations

import asyncio
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from holdfast.testing import History
from tests.torture.watch import Recovery

if TYPE_CHECKING:
    from tests.torture.arena import Arena, ArenaSettings

__all__ = ["RECOVERY_MAX_S", "Fault", "Injection", "NotRecovered", "recovery_of"]

RECOVERY_MAX_S = 60.0
"""A slot that has work, and makes no progress for so long, hangs."""
IDLE_LOOK_S = 2.0
"""So often it is looked at whether the slots that are waited for have anything to do."""


class NotRecovered(Exception):
    """What a fault has hit did not come back within `RECOVERY_MAX_S`."""


@dataclass(frozen=True, slots=True)
class Injection:
    """One fault that came about, or `count` at once. `point`: "" where there is none.

    `awaited`: what recovery is, by the name under which its seconds are told.
    """

    victim: str
    point: str = ""
    awaited: Mapping[str, Recovery] = field(default_factory=dict)
    count: int = 1


class Fault(ABC):
    """One kind of fault. The victims are hurt side by side, each in a lane of its own."""

    name: str
    points: tuple[str, ...] = ("",)
    """The named points at which it strikes."""
    bound_s: float | None = None
    """The promised bound of recovery, if there is one."""
    buses: tuple[str, ...] = ("sqlite", "kafka")
    """Where it can strike."""
    exits: frozenset[int] = frozenset()
    """Exit codes of services that it explains, beside those of what it kills itself."""
    unjudged: Mapping[str, str] = MappingProxyType({})
    """Invariants that cannot be judged under it, with the reason; told in the results."""

    def arrange(self, settings: ArenaSettings) -> ArenaSettings:
        """Return the arena that it needs; what it makes for that, `clear` takes away."""
        return settings

    def clear(self, settings: ArenaSettings) -> None:  # noqa: B027 - most make nothing
        """Take away what `arrange` made; the arena is closed."""

    @abstractmethod
    def victims(self, arena: Arena) -> list[str]:
        """Return whom to hurt."""

    @abstractmethod
    async def inject(self, arena: Arena, victim: str, chance: random.Random) -> Injection | None:
        """Do it once; None if it did not come about."""

    async def recovered(self, arena: Arena, injection: Injection) -> dict[str, float]:
        """Return once what was hit has made progress, with the seconds that took since the fault,
        by name; nothing where nothing was hit. Raises `NotRecovered`."""
        found = {}
        for name, recovery in injection.awaited.items():
            seconds = await recovery_of(arena, recovery)
            if seconds is not None:
                found[name] = seconds
        return found

    async def over(self, arena: Arena) -> None:  # noqa: B027 - most leave nothing behind
        """All injections are over: undo what still hurts."""

    async def judge(self, arena: Arena, history: History) -> list[tuple[str, str]]:
        """Return what breaks an invariant (its name, and what) where only this fault can see it."""
        del arena, history
        return []


async def recovery_of(arena: Arena, recovery: Recovery) -> float | None:
    """Wait for a recovery; return its seconds. A slot that has nothing to do is not waited for:
    those before it may be hurt just now.

    Raises `NotRecovered`.
    """
    deadline = time.monotonic() + RECOVERY_MAX_S
    while not await _done_within(recovery, IDLE_LOOK_S):
        lagging = arena.watch.lagging(recovery.waiting)
        if recovery.waiting and not lagging:
            arena.watch.give_up(recovery)
            return recovery.seconds_so_far
        if time.monotonic() > deadline:
            arena.watch.give_up(recovery)
            if not lagging:
                return None
            shown = ", ".join(f"{topic}/{partition}" for topic, partition in sorted(lagging))
            raise NotRecovered(f"no progress within {RECOVERY_MAX_S:g} s in {shown}")
    return recovery.seconds


async def _done_within(recovery: Recovery, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await recovery.done.wait()
    except TimeoutError:
        return False
    return True
