"""What sources tell Prometheus. Labels are bounded: sources, partitions, outcomes; never ids."""

from __future__ import annotations

from enum import StrEnum

from prometheus_client import Counter, Gauge

__all__ = ["Outcome", "Pause", "SourceMetrics"]


class Outcome(StrEnum):
    """What became of a record."""

    SUBMITTED = "submitted"
    SKIPPED = "skipped"  # the source's function passed it over
    EMPTY = "empty"  # a record without a value: a tombstone
    DEAD_LETTER = "dead_letter"


class Pause(StrEnum):
    """What a slot waits for before it goes on with its next record."""

    OPEN_RUNS = "open_runs"  # too many of its runs have not ended
    AGENTS = "agents"  # an agent of the plan has never published itself
    PLAN = "plan"  # the agents do not offer what the plan asks for
    REGISTRY = "registry"
    BLOBS = "blobs"
    BUS = "bus"


READ = Counter("holdfast_source_read_total", "Records read of the source's topic", ["source"])
RECORDS = Counter(
    "holdfast_source_records_total", "Records by what became of them", ["source", "outcome"]
)
OPEN_RUNS = Gauge(
    "holdfast_source_open_runs",
    "Runs that a slot has submitted and that have not ended",
    ["source", "partition"],
)
PAUSED = Gauge(
    "holdfast_source_paused", "Slots that take no further record, by why", ["source", "reason"]
)
UNREADABLE = Counter(
    "holdfast_source_unreadable_control_total",
    "Words of coordinators that could not be read",
    ["source"],
)


class SourceMetrics:
    """One source's series, looked up once."""

    def __init__(self, source: str) -> None:
        self._source = source
        self.read = READ.labels(source)
        self.outcomes = {outcome: RECORDS.labels(source, outcome) for outcome in Outcome}
        self.paused = {reason: PAUSED.labels(source, reason) for reason in Pause}
        self.unreadable = UNREADABLE.labels(source)

    def open_runs(self, partition: int) -> Gauge:
        """Return the series of a slot."""
        return OPEN_RUNS.labels(self._source, str(partition))
