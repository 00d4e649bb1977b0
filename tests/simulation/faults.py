"""What is done to a simulated world: each fault is drawn from its own seed and armed at once.

Dropping one fault leaves the others as they were drawn, so that a failing seed can be shrunk.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from holdfast.bus.port import Slot
from holdfast.testing.sim import Fate, Process, Request, RequestKind, World

KINDS = (RequestKind.PRODUCE, RequestKind.END, RequestKind.OPEN_WRITER)
OTHERS = (RequestKind.PUBLISH, RequestKind.READ, RequestKind.HEARTBEAT, RequestKind.JOIN)


ARMED_S = 3.0
"""By then every fault is armed, in virtual time."""


class Place(Protocol):
    """What faults need of a scenario."""

    world: World
    services: tuple[str, ...]
    """The instances that a supervisor keeps."""
    groups: tuple[str, ...]
    inboxes: tuple[str, ...]
    """The topics that somebody consumes."""

    def supervise(self, name: str, after_s: float) -> None:
        """Start a dead service again after so long."""

    def retire(self, name: str) -> None:
        """Stop a service as SIGTERM does; its supervisor starts it again."""

    def echo(self, pick: float) -> None:
        """Let a record of the coordinator's topic arrive once more."""

    def damage(self, topic: str, partition: int, value: bytes) -> None:
        """Write a record that nobody can read."""

    def halt(self, name: str, seconds: float) -> None:
        """Make a service stand still for so long (SIGSTOP, SIGCONT)."""

    def join(self, name: str, stay_s: float) -> None:
        """Start one more instance beside `name`'s; it leaves, by a crash or in peace."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: what it is called, when it is armed (virtual seconds), and how."""

    name: str
    at_s: float
    arm: Callable[[Place], None]

    def __str__(self) -> str:
        return f"{self.name}@{self.at_s:.3f}"


Maker = Callable[[random.Random], tuple[str, Callable[[Place], None]]]


def draw_faults(drawn: random.Random, count: int) -> list[Fault]:
    """Draw `count` faults, the first of them a takeover."""
    makers: list[Maker] = [drawn.choice((takeover, zombie))]
    makers += [drawn.choice(MAKERS) for _ in range(count - 1)]
    faults = []
    for make in makers:
        own = random.Random(drawn.getrandbits(64))
        name, arm = make(own)
        faults.append(Fault(name, own.uniform(0.0, ARMED_S), arm))
    return faults


def crash(drawn: random.Random) -> tuple[str, Callable[[Place], None]]:
    """Kill a service after some of its callbacks; its supervisor starts it again."""
    steps, back_s = int(drawn.expovariate(1 / 150)), drawn.uniform(0.0, 1.0)
    pick = drawn.random()

    def arm(place: Place) -> None:
        name = chosen(place, pick)
        first = place.world.processes[name].steps + steps

        def look(process: Process) -> None:
            if process.name == name and process.steps >= first:
                place.world.watchers.remove(look)
                place.world.crash(process)
                place.supervise(name, back_s)

        place.world.watchers.append(look)

    return f"crash after {steps} callbacks", arm


def crash_at_request(drawn: random.Random) -> tuple[str, Callable[[Place], None]]:
    """Kill a service when a request of it has arrived, was applied, or was answered."""
    kind, moment = drawn.choice(KINDS), drawn.choice(("arrived", "applied", "answered"))
    nth, pick, back_s = drawn.randint(1, 12), drawn.random(), drawn.uniform(0.0, 1.0)

    def arm(place: Place) -> None:
        name, left = chosen(place, pick), nth
        network = place.world.broker.network

        def look(request: Request, happened: str) -> None:
            nonlocal left
            process = place.world.processes[name]
            if request.kind is kind and happened == moment and request.link is process.bus.link:
                left -= 1
                if left == 0:
                    place.world.crash(process)
                    place.supervise(name, back_s)

        network.watchers.append(look)

    return f"crash when {kind.value} number {nth} is {moment}", arm


def takeover(drawn: random.Random) -> tuple[str, Callable[[Place], None]]:
    """Kill a service, and start it again only after others have taken its slots."""
    pick, away_s = drawn.random(), drawn.uniform(3.5, 6.0)

    def arm(place: Place) -> None:
        name = chosen(place, pick)
        place.join(name, stay_s=away_s + 1.0)
        place.world.crash(place.world.processes[name])
        place.supervise(name, away_s)

    return "takeover", arm


def zombie(drawn: random.Random) -> tuple[str, Callable[[Place], None]]:
    """Stop a service for longer than every time-out; others own its work when it goes on."""
    pick, stopped_s = drawn.random(), drawn.uniform(3.2, 8.0)

    def arm(place: Place) -> None:
        name = chosen(place, pick)
        place.join(name, stay_s=stopped_s + 1.0)
        place.halt(name, stopped_s)

    return f"zombie for {stopped_s:.1f} s", arm


def pause(drawn: random.Random) -> tuple[str, Callable[[Place], None]]:
    """Stop a service for less than the session time-out."""
    pick, stopped_s = drawn.random(), drawn.uniform(0.1, 2.9)

    def arm(place: Place) -> None:
        place.halt(chosen(place, pick), stopped_s)

    return f"pause of {stopped_s:.1f} s", arm


def fates(drawn: random.Random) -> tuple[str, Callable[[Place], None]]:
    """Lose, hang or delay some of the next requests of a kind, whoever sends them."""
    kind = drawn.choice(KINDS if drawn.random() < 0.7 else OTHERS)
    bad = [fate for fate in Fate if fate is not Fate.PASS]
    plan = [drawn.choice(bad) if drawn.random() < 0.4 else Fate.PASS for _ in range(8)]

    def arm(place: Place) -> None:
        left = list(plan)

        def decide(request: Request) -> Fate | None:
            if request.kind is not kind or not left:
                return None
            return left.pop()

        place.world.broker.network.fates.append(decide)

    hurt = ", ".join(f.name.lower() for f in reversed(plan) if f is not Fate.PASS)
    return f"{kind.value}: {hurt or 'nothing'}", arm


def outage(drawn: random.Random) -> tuple[str, Callable[[Place], None]]:
    """The broker answers nobody for a while."""
    away_s = drawn.choice((drawn.uniform(0.05, 1.0), drawn.uniform(1.0, 10.0)))

    def arm(place: Place) -> None:
        world = place.world
        if not world.broker.network.away:
            world.broker.away()
            world.at(world.clock.now + away_s, world.broker.comes_back)

    return f"outage of {away_s:.1f} s", arm


def stray_opener(drawn: random.Random) -> tuple[str, Callable[[Place], None]]:
    """Somebody opens a slot's writer, and does nothing with it."""
    pick, partition, again = drawn.random(), drawn.randrange(2), drawn.randint(1, 3)

    def arm(place: Place) -> None:
        group = place.groups[int(pick * len(place.groups))]
        for number in range(again):
            place.world.at(
                place.world.clock.now + number * 0.2,
                lambda: void(place.world.broker.open_writer(Slot(group, partition))),
            )

    return f"stray opener, {again} times", arm


def storm(drawn: random.Random) -> tuple[str, Callable[[Place], None]]:
    """Further instances come and go."""
    pick, stays = drawn.random(), [drawn.uniform(0.2, 2.5) for _ in range(drawn.randint(1, 3))]

    def arm(place: Place) -> None:
        world, at = place.world, 0.0
        for stay_s in stays:
            world.at(
                world.clock.now + at,
                lambda stay_s=stay_s: place.join(chosen(place, pick), stay_s),  # type: ignore[misc]
            )
            at += stay_s

    return f"rebalance storm of {len(stays)}", arm


def clock_jump(drawn: random.Random) -> tuple[str, Callable[[Place], None]]:
    """A process's wall clock jumps by an hour, and jumps back."""
    pick, skew_ms = drawn.random(), drawn.choice((-3_600_000, 3_600_000, -5_000, 5_000))
    back_s = drawn.uniform(0.5, 5.0)

    def arm(place: Place) -> None:
        world, process = place.world, place.world.processes[chosen(place, pick)]
        process.skew_ms = skew_ms
        world.at(world.clock.now + back_s, lambda: setattr(process, "skew_ms", 0))

    return f"clock jump of {skew_ms / 1000:g} s", arm


def stale_offsets(drawn: random.Random) -> tuple[str, Callable[[Place], None]]:
    """For a while the broker answers with a group's offsets of one commit before."""
    times = drawn.randint(1, 6)

    def arm(place: Place) -> None:
        left = times

        def stale() -> bool:
            nonlocal left
            left -= 1
            return left >= 0

        place.world.broker.stale_offsets = stale

    return f"stale offsets, {times} times", arm


def rolling(drawn: random.Random) -> tuple[str, Callable[[Place], None]]:
    """Services are stopped in peace and started again, one after the other."""
    picks, gap_s = [drawn.random() for _ in range(drawn.randint(1, 3))], drawn.uniform(0.1, 1.0)

    def arm(place: Place) -> None:
        for number, pick in enumerate(picks):
            name = chosen(place, pick)
            place.world.at(
                place.world.clock.now + number * gap_s,
                lambda name=name: place.retire(name),  # type: ignore[misc]
            )

    return f"rolling restart of {len(picks)}", arm


def damaged(drawn: random.Random) -> tuple[str, Callable[[Place], None]]:
    """Records that nobody can read stand in somebody's topic."""
    pick, values = drawn.random(), [drawn.randbytes(drawn.randint(0, 40)) for _ in range(3)]

    def arm(place: Place) -> None:
        topic = place.inboxes[int(pick * len(place.inboxes))]
        for number, value in enumerate(values):
            place.damage(topic, number % 2, value)

    return "damaged records", arm


def echoes(drawn: random.Random) -> tuple[str, Callable[[Place], None]]:
    """What was said to the coordinator is heard again, much later."""
    picks, gap_s = [drawn.random() for _ in range(drawn.randint(1, 4))], drawn.uniform(0.1, 1.0)

    def arm(place: Place) -> None:
        for number, pick in enumerate(picks):
            place.world.at(
                place.world.clock.now + number * gap_s,
                lambda pick=pick: place.echo(pick),  # type: ignore[misc]
            )

    return f"{len(picks)} echoes", arm


def both(drawn: random.Random) -> tuple[str, Callable[[Place], None]]:
    """Two services die at once, and once more while they recover."""
    pick, again_s = drawn.random(), drawn.uniform(0.05, 0.6)

    def arm(place: Place) -> None:
        world = place.world
        names = {chosen(place, pick), chosen(place, (pick + 0.37) % 1.0)}

        def kill() -> None:
            for name in sorted(names):
                world.crash(world.processes[name])
                place.supervise(name, 0.1)

        kill()
        world.at(world.clock.now + again_s, kill)

    return f"two at once, and again after {again_s:.2f} s", arm


MAKERS: tuple[Maker, ...] = (
    crash,
    crash,
    crash_at_request,
    crash_at_request,
    crash_at_request,
    takeover,
    zombie,
    pause,
    fates,
    fates,
    fates,
    outage,
    stray_opener,
    storm,
    clock_jump,
    stale_offsets,
    both,
    rolling,
    damaged,
    echoes,
)


def chosen(place: Place, pick: float) -> str:
    """Return the service that a draw stands for."""
    return place.services[int(pick * len(place.services))]


def void(_: object) -> None:
    """Take a value and give none."""
