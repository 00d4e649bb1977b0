"""Nothing grows with time: I12."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isqrt
from statistics import median

from holdfast.testing.evidence import Evidence, Usage
from holdfast.testing.history import History
from holdfast.testing.invariants.verdict import Findings

__all__ = ["Growth", "growths", "nothing_grows", "slope_per_s"]

SAMPLES_MIN = 20
SPAN_MIN_S = 600.0
"""A slope over less is noise."""
WARM_UP_SHARE = 0.25
"""The first part of the samples: caches and pools fill."""
POINTS_MAX = 300
"""Points that slopes are taken between: more are thinned out evenly."""
SECONDS_PER_HOUR = 3_600.0
CONFIDENCE_Z = 2.33
"""One-sided 99 %: a slope must be above its bound with that confidence."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How much a measure may grow: per hour, or as a share of its median per hour.

    `least`: a growth by less than this in all, over the whole span, is none.
    """

    per_hour: float
    share_per_hour: float
    least: float


MIB = 1024 * 1024
TOLERANCES: dict[str, Tolerance] = {
    "memory_bytes": Tolerance(8 * MIB, 0.05, 4 * MIB),
    "descriptors": Tolerance(2, 0.02, 2),
    "tasks": Tolerance(2, 0.02, 2),
    "disk_bytes": Tolerance(16 * MIB, 0.05, 4 * MIB),
    "startup_s": Tolerance(0.2, 0.10, 0.1),
}


@dataclass(frozen=True, slots=True)
class Growth:
    """How one measure of one instance went: per hour, after the warm-up.

    `level`: the median. `surely_per_hour`: what the slope is at least, with 99 % confidence.
    `enough`: False where samples or span are too few for a verdict. `least_share`: a growth by less
    than this share of the level, over the whole span, is none.
    """

    instance: str
    measure: str
    samples: int
    span_s: float
    level: float
    per_hour: float
    surely_per_hour: float
    allowed_per_hour: float
    enough: bool
    least_share: float = 0.0

    @property
    def grows(self) -> bool:
        """True if it surely grows by more than it may."""
        least = max(TOLERANCES[self.measure].least, self.least_share * self.level)
        return (
            self.enough
            and self.surely_per_hour > self.allowed_per_hour
            and self.per_hour * self.span_s > least * SECONDS_PER_HOUR
        )


def nothing_grows(_history: History, evidence: Evidence, found: Findings) -> None:
    """Memory, file descriptors, tasks, disk and start-up time do not grow with time.

    For each instance and measure: the Theil-Sen slope (the median of the slopes between all pairs
    of samples, so that no outlier counts) after the first quarter is, with 99 % confidence, at most
    what `TOLERANCES` allows. Needs 20 samples over at least 10 minutes after that. Of disk, measure
    what should stay bounded: events and dead letters are kept by choice, and grow.
    """
    for growth in growths(evidence.of(Usage)):
        if not growth.enough:
            found.cannot(
                f"{growth.measure} of {growth.instance}: {growth.samples} samples over "
                f"{growth.span_s:.0f} s are too few"
            )
            continue
        found.looked("series")
        found.looked("samples", growth.samples)
        if growth.grows:
            found.violated(
                f"{growth.measure} grows by {growth.per_hour:.4g} an hour over {growth.span_s:.0f} "
                f"s (surely by {growth.surely_per_hour:.4g}; median {growth.level:.4g}; "
                f"{growth.allowed_per_hour:.4g} an hour are allowed)",
                growth.instance,
            )


def growths(
    rows: Iterable[Usage], *, span_min_s: float = SPAN_MIN_S, least_share: float = 0.0
) -> list[Growth]:
    """Return how each measure of each instance went, in the order of their first samples.

    A span of some minutes is no place for fine judgement: processes still warm up, and a broker
    that was away for some of it looks like growth. Below `SPAN_MIN_S` give a `least_share`.
    """
    series: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for row in rows:
        for measure in TOLERANCES:
            value = getattr(row, measure)
            if value is not None:
                series[row.instance, measure].append((row.at_s, float(value)))
    return [
        _growth(instance, measure, sorted(points), (span_min_s, least_share))
        for (instance, measure), points in series.items()
    ]


def _growth(
    instance: str,
    measure: str,
    points: Sequence[tuple[float, float]],
    coarse: tuple[float, float],
) -> Growth:
    span_min_s, least_share = coarse
    settled = points[int(len(points) * WARM_UP_SHARE) :]
    span_s = settled[-1][0] - settled[0][0]
    slopes = _slopes(settled)
    level = median(value for _, value in settled)
    tolerance = TOLERANCES[measure]
    return Growth(
        instance,
        measure,
        len(settled),
        span_s,
        level,
        _middle(slopes) * SECONDS_PER_HOUR,
        _surely(slopes, min(len(settled), POINTS_MAX)) * SECONDS_PER_HOUR,
        max(tolerance.per_hour, tolerance.share_per_hour * level),
        len(settled) >= SAMPLES_MIN and span_s >= span_min_s,
        least_share,
    )


def slope_per_s(points: Sequence[tuple[float, float]]) -> float:
    """Return the Theil-Sen slope of (seconds, value) points, in order; 0 without two moments."""
    return _middle(_slopes(points))


def _slopes(points: Sequence[tuple[float, float]]) -> list[float]:
    step = max(1, -(-len(points) // POINTS_MAX))
    thin = points[::step]
    return sorted(
        (later - value) / (at_s - since_s)
        for index, (since_s, value) in enumerate(thin)
        for at_s, later in thin[index + 1 :]
        if at_s > since_s
    )


def _middle(slopes: Sequence[float]) -> float:
    return median(slopes) if slopes else 0.0


def _surely(slopes: Sequence[float], points: int) -> float:
    """The lower end of Sen's confidence interval (Sen 1968), from the variance of Kendall's S."""
    if not slopes:
        return 0.0
    spread = CONFIDENCE_Z * isqrt(points * (points - 1) * (2 * points + 5) // 18)
    return slopes[max(0, int((len(slopes) - spread) / 2))]
