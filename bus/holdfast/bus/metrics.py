"""What the bus and its slots tell Prometheus. Labels are bounded: groups, outcomes; never ids."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

__all__ = [
    "COMMITS",
    "COMMIT_RECORDS",
    "COMMIT_SECONDS",
    "FENCINGS",
    "FORWARDED",
    "LAG",
    "LOOP_STALL_SECONDS",
    "MARKERS_WRITTEN",
    "RESTORED_RECORDS",
    "RESTORE_SECONDS",
    "SLOTS_OWNED",
]

COMMITS = Counter("holdfast_commits_total", "Commits of slots by outcome", ["group", "outcome"])
COMMIT_SECONDS = Histogram(
    "holdfast_commit_seconds",
    "From handing a commit to the bus to its acknowledgement",
    ["group"],
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 15, 60),
)
COMMIT_RECORDS = Histogram(
    "holdfast_commit_records",
    "Records in one commit",
    ["group"],
    buckets=(1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000),
)
FENCINGS = Counter("holdfast_fencings_total", "Slots lost to a newer writer", ["group"])
SLOTS_OWNED = Gauge("holdfast_slots_owned", "Slots this process owns and has restored", ["group"])
RESTORE_SECONDS = Histogram(
    "holdfast_restore_seconds",
    "From opening a slot's writer to its first record",
    ["group"],
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60),
)
RESTORED_RECORDS = Counter(
    "holdfast_restored_records_total", "Journal records read while restoring slots", ["group"]
)
FORWARDED = Counter(
    "holdfast_forwarded_records_total",
    "Records that stood in a partition their key does not belong to, and were forwarded",
    ["group"],
)
LAG = Gauge(
    "holdfast_lag_records", "Records the group has not yet consumed", ["topic", "partition"]
)
MARKERS_WRITTEN = Counter(
    "holdfast_kafka_markers_written_total",
    "Ends of transactions that a broker had lost, and that were written in its stead",
)
LOOP_STALL_SECONDS = Gauge(
    "holdfast_event_loop_stall_seconds", "The longest stall of the event loop in the last 10 s"
)
