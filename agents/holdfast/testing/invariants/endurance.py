"""Nothing grows with time: I12."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from holdfast.testing.evidence import Evidence, Usage
from holdfast.testing.history import History
from holdfast.testing.invariants.verdict import Findings

__all__ = ["nothing_grows", "slope_per_s"]

SAMPLES_MIN = 20
SPAN_MIN_S = 600.0
"""A slope over less is noise."""
WARM_UP_SHARE = 0.25
"""The first part of the samples: caches and pools fill."""
POINTS_MAX = 300
"""Points that slopes are taken between: more are thinned out evenly."""
SECONDS_PER_HOUR = 3_600.0


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How much a measure may grow: per hour, or as a share of its median per hour."""

    per_hour: float
    share_per_hour: float


TOLERANCES: dict[str, Tolerance] = {
    "memory_bytes": Tolerance(8 * 1024 * 1024, 0.05),
    "descriptors": Tolerance(2, 0.02),
    "tasks": Tolerance(2, 0.02),
    "disk_bytes": Tolerance(16 * 1024 * 1024, 0.05),
    "startup_s": Tolerance(0.2, 0.10),
}


def nothing_grows(_history: History, evidence: Evidence, found: Findings) -> None:
    """Memory, file descriptors, tasks, disk and start-up time do not grow with time.

    For each instance and measure: the Theil-Sen slope (the median of the slopes between all pairs
    of samples, so that no outlier counts) after the first quarter is at most what `TOLERANCES`
    allows. Needs 20 samples over at least 10 minutes after that. Of disk, measure what should stay
    bounded: events and dead letters are kept by choice, and grow.
    """
    series: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for row in evidence.of(Usage):
        for measure in TOLERANCES:
            value = getattr(row, measure)
            if value is not None:
                series[row.instance, measure].append((row.at_s, float(value)))
    for (instance, measure), points in series.items():
        points.sort()
        settled = points[int(len(points) * WARM_UP_SHARE) :]
        span_s = settled[-1][0] - settled[0][0]
        if len(settled) < SAMPLES_MIN or span_s < SPAN_MIN_S:
            found.cannot(
                f"{measure} of {instance}: {len(settled)} samples over {span_s:.0f} s are too few"
            )
            continue
        found.looked("series")
        found.looked("samples", len(settled))
        tolerance = TOLERANCES[measure]
        middle = median(value for _, value in settled)
        allowed = max(tolerance.per_hour, tolerance.share_per_hour * middle)
        growth = slope_per_s(settled) * SECONDS_PER_HOUR
        if growth > allowed:
            found.violated(
                f"{measure} grows by {growth:.4g} an hour over {span_s:.0f} s (median "
                f"{middle:.4g}; {allowed:.4g} an hour are allowed)",
                instance,
            )


def slope_per_s(points: Sequence[tuple[float, float]]) -> float:
    """Return the Theil-Sen slope of (seconds, value) points, in order; 0 without two moments."""
    step = max(1, -(-len(points) // POINTS_MAX))
    thin = points[::step]
    slopes = [
        (later - value) / (at_s - since_s)
        for index, (since_s, value) in enumerate(thin)
        for at_s, later in thin[index + 1 :]
        if at_s > since_s
    ]
    return median(slopes) if slopes else 0.0
