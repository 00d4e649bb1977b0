"""The page, and the lines of README, from results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from tests.reliability.demands import DEMANDS, PLANTED_BUGS, PLANTED_MINUTES, SOAK_MINUTES
from tests.reliability.faults import faults_table, points_table, recovery_table, short_of, summed
from tests.reliability.markdown import NOT_RUN, count
from tests.reliability.results import (
    Benchmark,
    Planted,
    Result,
    Simulation,
    Soak,
    SoakFault,
    Torture,
)
from tests.reliability.suites import (
    growth_table,
    invariants_table,
    planted_counts,
    planted_table,
    simulation_text,
    soak_faults_table,
    soak_table,
    sources_table,
    startup_table,
    violations_list,
)

__all__ = ["BEGIN", "END", "lines_of_readme", "page", "with_lines"]

R = TypeVar("R", bound=Result)

BEGIN = "<!-- reliability: written by `make reliability` -->"
END = "<!-- end of reliability -->"

INTRODUCTION = """\
# Reliability, in numbers

<!-- Written by `make reliability` from the files in docs/reliability/results: change those. -->

What was done to Holdfast, how often, and what the invariants below said: the statements behind
[what is guaranteed](guarantees.md). Every figure is
the sum of real runs, whose JSON files stand in [reliability/results](reliability/results) with
their seeds and commits. What was asked for before anything was run stands beside what was reached.

"Supports" is the rule of three: no violation in N injections supports, with 95 % confidence, that
fewer than 3/N of such injections violate anything. It is no more than that."""

RECOVERY = """\
From the fault to the first committed progress of the work that it hit. Where the machine below is
said to start services by fork, they come from a process that has imported everything: figures hold
no imports then, some 0.5 s on an idle machine. Endurance starts a new interpreter each time."""

NOT_COVERED = """\
- **Power loss.** `kill -9` keeps the page cache of the kernel: what a process had written is there
  after it. A machine that loses power may lose what was not synced. That each commit is synced is a
  setting of the bus (SQLite: `synchronous`; Kafka: replication, `flush.messages`).
- **Several machines.** All ran on one: no network between machines was cut, delayed or split.
  Connections were, by a proxy on the loopback interface.
- **Brokers that lie**: that answer "committed" and forget, or serve other bytes than were written.
- **Corrupt disks**: flipped bits below the file system. Records with flipped bits are covered.
- **Clocks** beyond jumps of an hour of the wall clock of single processes; the monotonic clock was
  never touched.
- **The outside world**: a ledger that does not honour idempotency keys can be paid twice; see
  [what is guaranteed](guarantees.md).
- **Other systems** than Linux, other file systems than the local one of the machine below, other
  versions of Kafka than the one in `deploy/kafka`.
- **What the invariants do not say.** They were held against planted bugs (below); a bug that
  breaks none of them is not seen here."""


def page(results: Sequence[Result]) -> str:
    """Return the whole page."""
    torture = _of(results, Torture)
    bugs, hunted, found = planted_counts(_of(results, Planted))
    soaks = _of(results, Soak)
    parts = [
        INTRODUCTION,
        "## What is checked",
        invariants_table(),
        "## Faults on real processes",
        _reached(torture),
        faults_table(torture),
        "### At each point",
        points_table(torture),
        "### Recovery",
        RECOVERY,
        recovery_table(torture),
        "## Simulation",
        "The real runtime, coordinator and engine on one thread, under a virtual clock and a seed.",
        simulation_text(_of(results, Simulation)),
        "## Planted bugs: do the checkers see?",
        f"{bugs} bugs are planted ({PLANTED_BUGS} were asked for), {hunted} were hunted, {found} "
        f"of these were found by at least one suite. A cell tells which invariant saw it, and after"
        f" how long; {PLANTED_MINUTES} minutes are allowed.",
        planted_table(_of(results, Planted)),
        "## Endurance",
        f"Mixed load at half of the measured peak, with faults, for at least {SOAK_MINUTES} minutes"
        " on each bus; judged in windows, and at the end by the slopes of memory, descriptors, "
        "asyncio tasks, disk and start-up time (Theil–Sen; the first quarter is left out; a series "
        "grows if its slope is above what is allowed with 99 % confidence). Processes named "
        "`beta-2` and `c2` are never hurt, so that what grows can show.",
        soak_table(soaks),
        "The two steepest series of each measure:",
        growth_table(soaks),
        soak_faults_table(_of(results, SoakFault)),
        *(f"{one.bus}, seed {one.seed}: {one.notes}." for one in soaks),
        "## Start-up after many finished runs",
        startup_table(_of(results, Benchmark)),
        "## Violations",
        violations_list(results),
        "## What is not covered",
        NOT_COVERED,
        "## Where the figures come from",
        sources_table(results),
        "Again, with seeds of your own:",
        "```sh\nmake torture BUS=kafka MINUTES=60 RESULTS=docs/reliability/results\n"
        "make soak BUS=kafka MINUTES=90 RESULTS=docs/reliability/results\n"
        "make reliability    # writes this page\n```",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _of(results: Sequence[Result], kind: type[R]) -> list[R]:
    return [one for one in results if type(one) is kind]


def _complete(torture: Sequence[Torture]) -> tuple[int, int]:
    """Return how many of the demanded (fault, bus) were reached, and how many there are."""
    wanted = [(demand, bus) for demand in DEMANDS for bus in demand.buses]
    reached = 0
    for demand, bus in wanted:
        found = summed(torture, demand.faults, bus)
        reached += bool(found.injected) and not short_of(demand, found)
    return reached, len(wanted)


def _reached(torture: Sequence[Torture]) -> str:
    reached, wanted = _complete(torture)
    return (
        f'{reached} of {wanted} demanded rows are complete. "Missing" is what a row lacks of what'
        " was asked for."
    )


def lines_of_readme(results: Sequence[Result]) -> str:
    """Return five lines, with what is not run yet said."""
    torture, simulation = _of(results, Torture), _of(results, Simulation)
    soaks = _of(results, Soak)
    bugs, hunted, found = planted_counts(_of(results, Planted))
    reached, wanted = _complete(torture)
    violations = sum(one.violated for one in torture)
    lines = [
        f"{count(sum(one.injected for one in torture))} faults on real processes, brokers and "
        f"connections in {count(sum(one.runs for one in torture))} runs: {violations} violations "
        f"({reached} of {wanted} demanded rows complete)"
        if torture
        else f"faults on real processes: {NOT_RUN}",
        f"{count(sum(one.seeds for one in simulation))} seeds of the simulation with "
        f"{count(sum(one.injected for one in simulation))} faults and "
        f"{count(sum(one.takeovers for one in simulation))} takeovers: "
        f"{sum(one.violated for one in simulation)} violations"
        if simulation
        else f"seeds of the simulation: {NOT_RUN}",
        f"{found} of {hunted} planted bugs that were hunted are found by the same checks "
        f"({bugs} are planted)"
        if hunted
        else f"planted bugs, to see whether the checks see: {NOT_RUN} ({bugs} are planted)",
        _soak_line(soaks),
        "not covered: power loss, several machines, brokers that lie, corrupt disks",
    ]
    return "\n".join(f"- {line}" for line in lines)


def _soak_line(soaks: Sequence[Soak]) -> str:
    if not soaks:
        return f"endurance under load and faults: {NOT_RUN}"
    longest = max(soaks, key=lambda one: one.seconds)
    growing = sum(growth.grows for one in soaks for growth in one.growths)
    series = sum(growth.enough for one in soaks for growth in one.growths)
    return (
        f"{sum(one.seconds for one in soaks) / 60:,.0f} minutes of endurance (the longest "
        f"{longest.seconds / 60:,.0f}) with {count(sum(one.injected for one in soaks))} faults: "
        f"{growing} of {series} series grow, {sum(one.violated for one in soaks)} violations"
    )


def with_lines(readme: str, lines: str) -> str:
    """Return README with `lines` between its markers; raises `ValueError` if they are not there."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"README.md lacks the lines {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{lines}\n{END}{after}"
