"""The tables of faults: what was asked for, what was reached, and how soon all went on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from tests.reliability.demands import DEMANDS, Demand, bound_of
from tests.reliability.markdown import BUS_NAMES, NOT_RUN, count, seconds, spread, supported, table
from tests.reliability.results import Torture

__all__ = ["faults_table", "points_table", "recovery_table", "short_of"]


@dataclass
class Sum:
    """All results of some faults on one bus."""

    injected: int = 0
    runs: int = 0
    tasks: int = 0
    violations: int = 0
    by_point: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def add(self, one: Torture) -> None:
        """Count one result."""
        self.injected += one.injected
        self.runs += one.runs
        self.tasks += one.tasks
        self.violations += one.violated
        if one.injected:
            self.by_point[one.point] += one.injected


def summed(results: Iterable[Torture], faults: Sequence[str], bus: str) -> Sum:
    """Sum up what was run of these faults on a bus."""
    found = Sum()
    for one in results:
        if one.fault in faults and one.bus == bus:
            found.add(one)
    return found


def short_of(demand: Demand, found: Sum) -> list[str]:
    """Return what is missing from what was asked for; nothing where all is there."""
    short = []
    if found.injected < demand.asked:
        short.append(f"{count(demand.asked - found.injected)} injections")
    if demand.points and len(found.by_point) < demand.points:
        short.append(f"{demand.points - len(found.by_point)} points")
    if demand.each and found.by_point and min(found.by_point.values()) < demand.each:
        few = sum(1 for number in found.by_point.values() if number < demand.each)
        short.append(f"{demand.each} at {few} points")
    for point, asked in demand.at.items():
        if found.by_point.get(point, 0) < asked:
            short.append(f"{count(asked - found.by_point.get(point, 0))} of `{point}`")
    return short


def asked(demand: Demand) -> str:
    """Return what was asked for."""
    if demand.points:
        return f"{demand.points} × {demand.each}"
    if not demand.asked:
        return "some"
    more = [f"{demand.each} for each kind"] if demand.each else []
    more += [f"{number} `{point}`" for point, number in demand.at.items()]
    return ", ".join([count(demand.asked), *more])


def faults_table(results: Sequence[Torture]) -> str:
    """One row for each fault that was asked for, and bus; then those that nobody asked for."""
    rows = []
    for demand in DEMANDS:
        for bus in demand.buses:
            found = summed(results, demand.faults, bus)
            short = short_of(demand, found)
            missing = ", ".join(short) if found.injected else NOT_RUN
            rows.append(_fault_row(demand.what, bus, asked(demand), found, missing))
    known = {fault for demand in DEMANDS for fault in demand.faults}
    for fault in sorted({one.fault for one in results} - known):
        for bus in sorted({one.bus for one in results if one.fault == fault}):
            rows.append(_fault_row(f"`{fault}`", bus, "", summed(results, [fault], bus), ""))
    heads = ["fault", "bus", "asked", "injected", "missing", "runs", "tasks", "violations"]
    return table([*heads, "supports"], rows)


def _fault_row(what: str, bus: str, wanted: str, found: Sum, missing: str) -> list[str]:
    row = [what, BUS_NAMES[bus], wanted, count(found.injected), missing]
    if not found.injected:
        return [*row, "", "", "", ""]
    row += [count(found.runs), count(found.tasks), count(found.violations)]
    return [*row, supported(found.injected, found.violations)]


def points_table(results: Sequence[Torture]) -> str:
    """One row for each fault and point, both buses side by side."""
    found: dict[tuple[str, str], dict[str, Sum]] = defaultdict(lambda: defaultdict(Sum))
    for one in results:
        if one.point and one.injected:
            found[one.fault, one.point][one.bus].add(one)
    rows = [
        [fault, point, *(count(by_bus[bus].injected) if bus in by_bus else "" for bus in BUSES)]
        for (fault, point), by_bus in sorted(found.items())
    ]
    if not rows:
        return f"{NOT_RUN.capitalize()}."
    return table(["fault", "point", *(BUS_NAMES[bus] for bus in BUSES)], rows)


BUSES = ("kafka", "sqlite")


@dataclass
class _Recovery:
    values: list[float] = field(default_factory=list)
    bound_s: float | None = None

    def add(self, one: Torture) -> None:
        self.values += one.recovery_s
        self.bound_s = bound_of(one.bus, one.fault, one.point, one.bound_s)


def recovery_table(results: Sequence[Torture]) -> str:
    """One row for each fault and bus that was measured, over all points; and for each recovery with
    a name of its own where a fault has several."""
    found: dict[tuple[str, str, str], _Recovery] = defaultdict(_Recovery)
    for one in results:
        if one.recovery_s:
            name = "" if one.injected else one.point  # without an injection: a recovery's name
            found[one.fault, name, one.bus].add(one)
    rows = []
    for (fault, name, bus), recovery in sorted(found.items()):
        late = sum(value > recovery.bound_s for value in recovery.values) if recovery.bound_s else 0
        rows.append(
            [
                f"{fault}: {name}" if name else fault,
                BUS_NAMES[bus],
                count(len(recovery.values)),
                spread(recovery.values),
                seconds(recovery.bound_s),
                count(late) if recovery.bound_s is not None else "",
            ]
        )
    if not rows:
        return f"{NOT_RUN.capitalize()}."
    heads = ["fault", "bus", "measured", "p50 / p99 / worst s", "bound s", "over the bound"]
    return table(heads, rows)
