"""What was asked for before anything was run: the counts that the page is held against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = [
    "DEMANDS",
    "PLANTED_BUGS",
    "PLANTED_MINUTES",
    "RECOVERY_BOUNDS_S",
    "SIMULATION_SEEDS",
    "SOAK_MINUTES",
    "STARTUP_RUNS",
    "Demand",
    "bound_of",
]

EITHER = ("kafka", "sqlite")
KAFKA = ("kafka",)


@dataclass(frozen=True, slots=True)
class Demand:
    """One row of the table of faults. `faults`: the names under which results tell of it.

    `asked`: injections on each bus, 0 for "some"; `points` and `each`: at so many named points, at
    least so often at each; `at`: at least so often at this point.
    """

    what: str
    faults: tuple[str, ...]
    buses: tuple[str, ...]
    asked: int
    points: int = 0
    each: int = 0
    at: Mapping[str, int] = field(default_factory=dict)


DEMANDS: tuple[Demand, ...] = (
    Demand("`kill -9` of an agent at each named point", ("kill-agent",), EITHER, 600, 12, 50),
    Demand(
        "`kill -9` of a coordinator, or a projection, at each named point",
        ("kill-coordinator", "kill-projection"),
        EITHER,
        700,
        14,
        50,
    ),
    Demand(
        "`kill -9` at random times; of two at once; again during recovery",
        ("kill-random", "kill-pair", "kill-recovering"),
        EITHER,
        500,
    ),
    Demand("SIGSTOP for longer than the session, then SIGCONT", ("freeze",), EITHER, 100),
    Demand("`kill -9` and restart of the only broker", ("kill-broker",), KAFKA, 60),
    Demand(
        "`kill -9` and restart of one of three brokers, the transaction coordinator",
        ("kill-broker-of-three",),
        KAFKA,
        30,
    ),
    Demand(
        "connections cut before and after each kind of request",
        ("cut-before", "cut-sent", "cut-answered"),
        KAFKA,
        500,
        each=20,
    ),
    Demand(
        "delay, trickle, half-open connections; answers to commits swallowed",
        ("delay", "trickle", "lose-request", "lose-answer"),
        KAFKA,
        0,
    ),
    Demand("a delayed request of an old transaction, after the next began", ("torn",), KAFKA, 300),
    Demand("rebalance storm: a member joins or leaves every 2 s", ("storm",), EITHER, 100),
    Demand(
        "poison: raises, hangs, ends the process, recurses, allocates 2 GB",
        ("poison",),
        EITHER,
        2_000,
        at={"exits": 200},
    ),
    Demand("mutated record bytes", ("mutated-records",), EITHER, 20_000),
    Demand("incompatible schemas; registry away, slow, wrong", ("schemas",), EITHER, 50),
    Demand("disk full and freed again", ("disk-full",), ("sqlite",), 20),
    Demand("clock jumps of an hour", ("clock",), EITHER, 20),
    Demand("a transaction left open by a dead client", ("open-transaction",), KAFKA, 50),
)

SIMULATION_SEEDS = 2_000
PLANTED_BUGS = 24
PLANTED_MINUTES = 10
SOAK_MINUTES = 90
STARTUP_RUNS = 1_000_000

RECOVERY_BOUNDS_S: Mapping[tuple[str, str], float] = {
    ("kafka", "freeze/takeover"): 9.0,
    ("kafka", "freeze/woken"): 5.0,
    ("sqlite", "freeze/woken"): 5.0,
    ("kafka", "storm/stopped"): 2.0,
    ("sqlite", "storm/stopped"): 2.0,
    ("kafka", "broker-restart/killed"): 10.0,
    ("kafka", "broker-restart/stopped"): 10.0,
}
"""By bus, and fault with the name of the recovery: where the results do not tell the bound."""


def bound_of(bus: str, fault: str, point: str, told: float | None) -> float | None:
    """Return the bound that was promised, in seconds; None where none was."""
    return told if told is not None else RECOVERY_BOUNDS_S.get((bus, f"{fault}/{point}"))
