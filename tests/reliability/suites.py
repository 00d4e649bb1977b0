"""The other tables: simulation, planted bugs, endurance, start-up, and where it all came from."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from holdfast.testing import INVARIANTS
from tests.planted import BUGS
from tests.reliability.demands import PLANTED_MINUTES, SIMULATION_SEEDS, SOAK_MINUTES, STARTUP_RUNS
from tests.reliability.markdown import BUS_NAMES, NOT_RUN, count, seconds, spread, supported, table
from tests.reliability.results import Benchmark, Planted, Result, Simulation, Soak, SoakFault

__all__ = [
    "growth_table",
    "invariants_table",
    "planted_counts",
    "planted_table",
    "simulation_text",
    "soak_faults_table",
    "soak_table",
    "sources_table",
    "startup_table",
    "violations_list",
]

BUSES = ("kafka", "sqlite")
MEASURES = ("memory_bytes", "descriptors", "tasks", "disk_bytes", "startup_s")
MIB = 2**20
LOAD = "load"
"""In a result's `machine`: the load average."""


def invariants_table() -> str:
    """What is checked."""
    return table(["", "holds"], [[one.name, one.statement] for one in INVARIANTS.values()])


def simulation_text(results: Sequence[Simulation]) -> str:
    """One row, the sum of all runs."""
    seeds = sum(one.seeds for one in results)
    if not seeds:
        return f"{NOT_RUN.capitalize()}: {count(SIMULATION_SEEDS)} seeds are asked for."
    violations = sum(one.violated for one in results)
    row = [
        count(SIMULATION_SEEDS),
        count(seeds),
        count(sum(one.runs for one in results)),
        count(sum(one.tasks for one in results)),
        count(sum(one.injected for one in results)),
        count(sum(one.deaths for one in results)),
        count(sum(one.takeovers for one in results)),
        f"{sum(one.virtual_s for one in results) / 3_600:,.1f}",
        count(violations),
        supported(seeds, violations),
    ]
    heads = ["asked", "seeds", "runs", "tasks", "faults", "deaths", "takeovers", "virtual hours"]
    return table([*heads, "violations", "supports"], [row])


# --- planted bugs --------------------------------------------------------------------------------


def planted_counts(results: Sequence[Planted]) -> tuple[int, int, int]:
    """Return how many bugs there are, how many were hunted, how many were found by any suite."""
    hunted = {one.point for one in results} & BUGS.keys()
    found = {one.point for one in results if one.invariant is not None} & BUGS.keys()
    return len(BUGS), len(hunted), len(found)


def planted_table(results: Sequence[Planted]) -> str:
    """One row for each planted bug, by area; a column for each suite and bus."""
    newest: dict[tuple[str, str], Planted] = {}
    for one in sorted(results, key=lambda one: one.started):
        newest[one.point, one.bus] = one
    rows = []
    for bug in sorted(BUGS.values(), key=lambda bug: (bug.area, bug.name)):
        cells = []
        for bus, suite in (("sim", "simulation"), ("sqlite", "torture"), ("kafka", "torture")):
            if bus not in bug.buses or suite not in bug.suites:
                cells.append("cannot show")
            else:
                cells.append(_hunted(newest.get((bug.name, bus))))
        rows.append([bug.area, bug.name, ", ".join(bug.breaks), *cells])
    heads = ["area", "bug", "breaks", "simulation", "torture, SQLite", "torture, Kafka"]
    return table(heads, rows)


def _hunted(one: Planted | None) -> str:
    if one is None:
        return NOT_RUN
    if one.found_after_s is not None:
        late = "" if one.found_after_s <= PLANTED_MINUTES * 60 else ", late"
        return f"{one.invariant}, {seconds(one.found_after_s)} s{late}"
    return f"**not found** in {one.seconds / 60:.1f} min"


# --- endurance -----------------------------------------------------------------------------------


def soak_table(results: Sequence[Soak]) -> str:
    """One row for each soak; one that says so for each bus without a long one."""
    rows = []
    for bus in BUSES:
        mine = [one for one in results if one.bus == bus]
        if not any(one.seconds >= SOAK_MINUTES * 60 for one in mine):
            rows.append([BUS_NAMES[bus], f"{NOT_RUN}: {SOAK_MINUTES} min", *[""] * 7])
        for one in mine:
            growing = sum(growth.grows for growth in one.growths)
            rows.append(
                [
                    BUS_NAMES[bus],
                    f"{one.seconds / 60:,.0f} min, {one.windows} windows",
                    f"{one.peak_per_s:.1f} / {one.rate_per_s:.1f}",
                    count(one.runs),
                    count(one.tasks),
                    count(one.records),
                    count(one.injected),
                    f"{growing} of {sum(growth.enough for growth in one.growths)}",
                    count(one.violated),
                ]
            )
    heads = ["bus", "duration", "peak / load, runs/s", "runs", "tasks", "records", "faults"]
    return table([*heads, "series that grow", "violations"], rows)


def growth_table(results: Sequence[Soak]) -> str:
    """The steepest series of each measure, of each soak."""
    rows = []
    for one in results:
        for measure in MEASURES:
            series = [g for g in one.growths if g.measure == measure and g.enough]
            for growth in sorted(series, key=lambda g: -g.per_hour / g.allowed_per_hour)[:2]:
                rows.append(
                    [
                        BUS_NAMES[one.bus],
                        f"{one.seconds / 60:,.0f} min",
                        _measure(measure),
                        growth.instance,
                        count(growth.samples),
                        _amount(measure, growth.level),
                        _amount(measure, growth.per_hour),
                        _amount(measure, growth.allowed_per_hour),
                        f"{growth.per_hour / growth.level:+.1%}" if growth.level else "",
                        "**grows**" if growth.grows else "no",
                    ]
                )
    if not rows:
        return f"{NOT_RUN.capitalize()}."
    heads = ["bus", "soak", "measure", "of", "samples", "level", "slope an hour", "allowed"]
    return table([*heads, "of the level", "grows"], rows)


def _measure(measure: str) -> str:
    if measure.endswith("_bytes"):
        return f"{measure.removesuffix('_bytes')}, MiB"
    return f"{measure.removesuffix('_s')}, s" if measure.endswith("_s") else measure


def _amount(measure: str, value: float) -> str:
    return f"{value / MIB:,.2f}" if measure.endswith("_bytes") else f"{value:,.2f}"


def soak_faults_table(results: Sequence[SoakFault]) -> str:
    """One row for each fault within soaks, and bus."""
    injected: Counter[tuple[str, str]] = Counter()
    values: dict[tuple[str, str], list[float]] = defaultdict(list)
    for one in results:
        injected[one.fault, one.bus] += one.injected
        values[one.fault, one.bus] += one.recovery_s
    rows = [
        [fault, BUS_NAMES[bus], count(number), spread(values[fault, bus])]
        for (fault, bus), number in sorted(injected.items())
    ]
    if not rows:
        return f"{NOT_RUN.capitalize()}."
    return table(["fault within a soak", "bus", "injected", "p50 / p99 / worst s"], rows)


# --- the rest ------------------------------------------------------------------------------------


def startup_table(results: Sequence[Benchmark]) -> str:
    """One row for each milestone."""
    largest = max((row.get("runs", 0) for one in results for row in one.figures), default=0)
    told = []
    if largest < STARTUP_RUNS:
        told.append(
            f"{NOT_RUN.capitalize()}: a start after {count(STARTUP_RUNS)} finished runs is asked"
            " for."
        )
    if results:
        heads = list(results[0].figures[0])
        rows = [
            [BUS_NAMES[one.bus], *(_figure(row[head]) if head in row else "" for head in heads)]
            for one in results
            for row in one.figures
        ]
        told.append(table(["bus", *(head.replace("_", " ") for head in heads)], rows))
        told.append(
            "`journal`: the coordinator's records when it was killed at full load: what the last"
            " minute finished, and what compaction had not reached."
        )
    return "\n\n".join(told)


def _figure(value: float) -> str:
    return count(int(value)) if value == int(value) else f"{value:,.6g}"


def violations_list(results: Sequence[Result]) -> str:
    """All violations of unplanted runs, whole, as far as the results tell them."""
    if all(isinstance(one, Planted) for one in results):
        return f"{NOT_RUN.capitalize()}."
    told = [
        f"- {one.suite}, {BUS_NAMES[one.bus]}, {one.fault} {one.point} (seed {one.seed}, commit "
        f"{one.commit[:9]}): {found.invariant} at {found.where}: {found.what}"
        for one in results
        if not isinstance(one, Planted)
        for found in one.violations
    ]
    more = sum(one.violated - len(one.violations) for one in results)
    if more:
        told.append(f"- and {count(more)} more, which the results only count")
    return "\n".join(told) or "None."


def sources_table(results: Iterable[Result]) -> str:
    """One row for each suite, bus and commit: when, on what, with which seeds."""
    groups: dict[tuple[str, str, str, str], list[Result]] = defaultdict(list)
    for one in results:
        lasting = {k: v for k, v in one.machine.items() if k != LOAD}
        machine = ", ".join(f"{name} {value}" for name, value in lasting.items())
        groups[one.suite, one.bus, one.commit, machine].append(one)
    rows = []
    for (suite, bus, commit, machine), group in sorted(groups.items()):
        seeds = sorted({one.seed for one in group})
        told = ", ".join(map(str, seeds[:8])) + (f" … ({len(seeds)})" if len(seeds) > 8 else "")
        days = sorted({one.started[:10] for one in group})
        dates = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
        changed = " with changes" if commit.endswith("+") else ""
        rows.append([suite, BUS_NAMES[bus], f"`{commit[:9]}`{changed}", dates, told, machine])
        rows[-1].append(_loads(group))
    if not rows:
        return f"{NOT_RUN.capitalize()}."
    return table(["suite", "bus", "commit", "day", "seeds", "machine", "load"], rows)


def _loads(group: Iterable[Result]) -> str:
    """How busy the machine was with other things: recovery times are longer on a busy one."""
    loads = [float(one.machine[LOAD]) for one in group if LOAD in one.machine]
    if not loads:
        return ""
    low, high = min(loads), max(loads)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"
