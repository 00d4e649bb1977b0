"""All faults by name, and what the slice of CI takes of them."""

from __future__ import annotations

from collections.abc import Callable

from tests.torture.faults.base import Fault
from tests.torture.faults.disk import DiskFull
from tests.torture.faults.kills import KillAtPoint, KillPair, KillRandom, KillRecovering
from tests.torture.faults.mixed import Mixed
from tests.torture.faults.poison import Poison
from tests.torture.faults.projection import KillProjection
from tests.torture.faults.records import MutatedRecords
from tests.torture.faults.schemas import BadSchemas
from tests.torture.faults.stops import ClockJump, Freeze, Storm
from tests.torture.faults.transactions import OpenTransaction
from tests.torture.points import AGENT_POINTS, COORDINATOR_POINTS
from tests.torture.wire.faults import WIRE_FAULTS

__all__ = ["FAULTS", "SLICE", "fault_named"]

RESTART_BOUND_S = 2.0

FAULTS: dict[str, Callable[[], Fault]] = {
    "kill-agent": lambda: KillAtPoint("kill-agent", "agent", AGENT_POINTS, RESTART_BOUND_S),
    "kill-coordinator": lambda: KillAtPoint(
        "kill-coordinator", "coordinator", COORDINATOR_POINTS, RESTART_BOUND_S
    ),
    "kill-projection": KillProjection,
    "kill-random": KillRandom,
    "kill-pair": KillPair,
    "kill-recovering": KillRecovering,
    "freeze": Freeze,
    "storm": Storm,
    "clock": ClockJump,
    "poison": Poison,
    "disk-full": DiskFull,
    "mutated-records": MutatedRecords,
    "schemas": BadSchemas,
    "open-transaction": OpenTransaction,
    "mixed": lambda: Mixed(
        [
            KillAtPoint("kill-agent", "agent", AGENT_POINTS),
            KillAtPoint("kill-coordinator", "coordinator", COORDINATOR_POINTS),
            KillRandom(),
            KillRecovering(),
            Freeze(),
            Storm(),
            MutatedRecords(batch=1),
        ]
    ),
    **WIRE_FAULTS,
}

SLICE: tuple[tuple[str, int, float], ...] = (
    ("kill-agent", 2, 30.0),
    ("kill-coordinator", 2, 30.0),
    ("mixed", 60, 25.0),
    ("poison", 8, 15.0),
    ("mutated-records", 2_000, 8.0),
    ("disk-full", 3, 12.0),
)
"""Fault, injections for each point, seconds at most; on each bus that it can strike."""


def fault_named(name: str) -> Fault:
    """Return a new fault; `NAME:POINT+POINT` strikes at these points only.

    Raises `KeyError` naming those that there are.
    """
    kind, _, points = name.partition(":")
    if kind not in FAULTS:
        raise KeyError(f"no fault {kind!r}; there are {', '.join(FAULTS)}")
    fault = FAULTS[kind]()
    if points:
        if not isinstance(fault, KillAtPoint):
            raise KeyError(f"fault {kind!r} has no points")
        fault.restrict(points.split("+"))
    return fault
