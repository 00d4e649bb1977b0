"""Maps over lists that still arrive: tasks that hand out items while they work, see ADR 19.

Some tasks of runs that live become two: one that hands out, and a map over what it does, which
takes the task's place in the plan. Drawn from a part of the seed of their own.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel

from holdfast.agents import Context, SyncContext
from holdfast.coordinator import CoordinatorSettings
from holdfast.coordinator.engine import EngineLimits
from holdfast.schemas import Plan
from holdfast.schemas.plan import OnFailure
from tests.simulation.living import FOR_EVER

__all__ = [
    "EMITTER",
    "Arrival",
    "Arrived",
    "Doing",
    "Item",
    "NarrowLimits",
    "Seek",
    "add_arrival",
    "doings",
    "draw_arrival",
    "text_of",
]

EMITTER = "-from"
"""Behind a map's id: that of the task over whose items it goes."""
BURSTS_MAX = 4
LARGE = 130
"""Items of one burst that stands in two batches."""


class Item(BaseModel):
    """What is handed out. `fails`: so many attempts at it raise."""

    source: str
    number: int
    text: str
    fails: int = 0
    sleep_ms: int = 0


class Seek(BaseModel):
    """What a task hands out: `bursts` of so many items, `singly` or many at once.

    `pause_ms`: how long it rests between two, in a wait of its own where it `naps`. Before item
    number `cut_at` its first `kills` executions end their process, and its first `cuts` attempts
    raise. `item_fails`: so many attempts at each item raise, by its number, from the first on.
    """

    bursts: list[int] = []
    singly: bool = False
    pause_ms: int = 0
    naps: bool = False
    cut_at: int = 0
    cuts: int = 0
    kills: int = 0
    item_fails: list[int] = []
    item_ms: int = 0

    def items(self, source: str, numbers: Sequence[int]) -> list[Item]:
        """Return the items of these numbers; the same in each execution."""
        fails = dict(enumerate(self.item_fails))
        return [
            Item(
                source=source,
                number=number,
                text=text_of(source, number),
                fails=fails.get(number, 0),
                sleep_ms=self.item_ms,
            )
            for number in numbers
        ]


class Doing(NamedTuple):
    """One thing that a handler does next: with these numbers, of the burst of this number."""

    kind: Literal["list", "cut", "emit", "rest"]
    burst: int
    numbers: list[int]


def text_of(source: str, number: int) -> str:
    """Return what an item says."""
    return f"{source} #{number}" + "." * (number % 7)


def doings(seek: Seek) -> Iterator[Doing]:
    """Yield what a handler does, one after the other, whichever way it is written."""
    first = 0
    for burst, size in enumerate(seek.bursts):
        numbers = list(range(first, first + size))
        first += size
        yield Doing("list", burst, numbers)
        for part in [[number] for number in numbers] if seek.singly else [numbers]:
            if seek.cut_at in part:
                yield Doing("cut", burst, part)
            yield Doing("emit", burst, part)
        if seek.pause_ms:
            yield Doing("rest", burst, [])
    if seek.cut_at >= first:
        yield Doing("cut", len(seek.bursts), [])


@dataclass
class Arrived:
    """What was seen of items from outside: who handed out which, and who worked them."""

    surprises: list[str]
    handed: dict[tuple[str, str], int] = field(default_factory=dict)
    """How many items a task has handed out, of a run and a task."""
    taken: dict[tuple[str, str], int] = field(default_factory=dict)
    """How many of them are known to be taken, by their task."""
    worked: dict[tuple[str, str], Item] = field(default_factory=dict)
    """What a task of a map was given."""

    def hands_out(self, ctx: Context | SyncContext, numbers: Sequence[int]) -> None:
        """A handler is about to hand these out, perhaps not for the first time."""
        self._count(self.handed, ctx, numbers)

    def took(self, ctx: Context | SyncContext, numbers: Sequence[int]) -> None:
        """It was told that they are taken."""
        self._count(self.taken, ctx, numbers)

    def _count(
        self,
        counts: dict[tuple[str, str], int],
        ctx: Context | SyncContext,
        numbers: Sequence[int],
    ) -> None:
        where = (ctx.run_id, ctx.task_id)
        counts[where] = max(counts.get(where, 0), *(number + 1 for number in numbers))

    def works(self, ctx: Context, item: Item) -> None:
        """An item is worked: the one of its place in the list, whole, that was handed out."""
        where = (ctx.run_id, ctx.task_id)
        if ctx.task_id.rpartition(".")[2] != str(item.number):
            self.surprises.append(f"I7 at {where}: works item number {item.number}")
        if item.number >= self.handed.get((ctx.run_id, item.source), 0):
            self.surprises.append(f"I7 at {where}: item {item.number} was never handed out")
        if item.text != text_of(item.source, item.number):
            self.surprises.append(f"I7 at {where}: its item says {item.text!r}")
        if self.worked.setdefault(where, item) != item:
            self.surprises.append(f"I7 at {where}: another item than before")


class NarrowLimits(CoordinatorSettings):
    """A coordinator whose maps take few items ahead, in short chunks: so back-pressure and
    chunks are met with lists that are cheap."""

    ahead_items: int = 1
    chunk_items: int = 3

    def limits(self) -> EngineLimits:
        """Return the bounds of the engine."""
        return replace(super().limits(), ahead_items=self.ahead_items, chunk_items=self.chunk_items)


@dataclass(frozen=True, slots=True)
class Arrival:
    """How one task of a drawn plan becomes two.

    `map_agent`, `settings`: of the map; `sync`: the handler that hands out is no coroutine;
    `also`: there is a second map; `inner`: both stand in a plan of their own.
    """

    seek: Seek
    map_agent: str
    settings: dict[str, Any]
    sync: bool
    also: bool
    inner: bool


def draw_arrival(drawn: random.Random, agents: Sequence[str], before: Sequence[str]) -> Arrival:
    """Draw for one task; its map may wait for some of the tasks `before` as well."""
    settings: dict[str, Any] = {
        "max_parallel": drawn.randint(1, 3),
        "on_failure": _draw_failure(drawn),
        "reduce": f"{drawn.choice(agents)}.fold" if drawn.random() < 0.4 else None,
        "after": drawn.sample(before, k=1) if before and drawn.random() < 0.3 else [],
        "order_key": drawn.choice(("k1", "k2")) if drawn.random() < 0.1 else None,
        "order": "loose" if drawn.random() < 0.2 else "strict",
        "timeout_s": drawn.uniform(0.1, 1.0) if drawn.random() < 0.05 else None,
    }
    return Arrival(
        seek=_draw_seek(drawn),
        map_agent=drawn.choice(agents),
        settings=settings,
        sync=drawn.random() < 0.3,
        also=drawn.random() < 0.15,
        inner=drawn.random() < 0.15,
    )


def _draw_failure(drawn: random.Random) -> OnFailure | dict[str, float]:
    choices: tuple[OnFailure | dict[str, float], ...]
    choices = ("fail", "collect", "collect", {"at_most": 1}, {"at_most": 0.4})
    return drawn.choice(choices)


def _draw_seek(drawn: random.Random) -> Seek:
    bursts = [drawn.choice((1, 1, 2, 3, 5)) for _ in range(drawn.randint(0, BURSTS_MAX))]
    if bursts and drawn.random() < 0.02:
        bursts[0] = LARGE
    count = sum(bursts)
    cuts = drawn.choice((1, 1, 2)) if drawn.random() < 0.4 else 0
    failing = (drawn.random() for _ in range(min(count, LARGE)))
    return Seek(
        bursts=bursts,
        singly=drawn.random() < 0.4,
        pause_ms=int(drawn.expovariate(1 / 200)) if drawn.random() < 0.5 else 0,
        naps=drawn.random() < 0.4,
        cut_at=drawn.randint(0, count),
        cuts=FOR_EVER if drawn.random() < 0.05 else cuts,
        kills=1 if drawn.random() < 0.1 else 0,
        item_fails=[1 if luck < 0.1 else FOR_EVER if luck > 0.97 else 0 for luck in failing],
        item_ms=int(drawn.expovariate(1 / 60)) if drawn.random() < 0.6 else 0,
    )


def add_arrival(
    plan: Plan, name: str, agent: str, arrival: Arrival, common: dict[str, Any]
) -> None:
    """Add a task of `agent` that hands out, with the settings `common`, and the map over that."""
    task = f"{agent}.{'seek-sync' if arrival.sync else 'seek'}"
    given = arrival.seek.model_dump()
    found = plan.task(f"{name}{EMITTER}", task, **common, **given)
    held = common.get("order_key") or plan.order_key
    for map_id in [name, f"{name}-too"][: 1 + arrival.also]:
        settings = dict(arrival.settings)
        key = settings["order_key"] or plan.order_key
        if key is not None and arrival.map_agent <= agent:
            # Items wait behind who holds their key, perhaps behind who hands out to others, and so
            # on: as they go from agents to later ones only, never in a circle.
            settings["order_key"] = "items"
        if held is not None:
            settings["after"] = []  # that could wait for the key too
        if map_id != name:
            settings["reduce"] = None
        plan.map(map_id, f"{arrival.map_agent}.look", over=found.emitted, **settings)
