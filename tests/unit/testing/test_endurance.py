"""The slope test of I12: what a leak looks like in the noise of real processes, and what does not.

Series as the soak has them: 90 minutes, a sample every 10 s, load and quiet by turns, a warm-up,
steps of an allocator that gives nothing back, spikes, and readings that are missing.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from holdfast.testing import Usage
from holdfast.testing.invariants.endurance import Growth, growths

MIB = 1024 * 1024
MINUTES = 90
SAMPLE_S = 10
WINDOW_S = 300
WARM_UP_S = 600
SEEDS = range(12)
Series = Callable[[random.Random, float], float]


def memory(chance: random.Random, at_s: float) -> float:
    """About 80 MiB; 6 more under load; warms up by 20 within 10 minutes."""
    warm_up = 20 * min(1.0, at_s / WARM_UP_S)
    load = 6 if at_s % WINDOW_S < WINDOW_S * 0.8 else 0
    spike = chance.choice((0,) * 15 + (25,))
    return (60 + warm_up + load + spike + chance.gauss(0, 1.5)) * MIB


def descriptors(chance: random.Random, at_s: float) -> float:
    """About 30; connections come and go."""
    return 30 + chance.randint(-3, 3) + (4 if at_s % WINDOW_S < WINDOW_S * 0.8 else 0)


def startup(chance: random.Random, _at_s: float) -> float:
    """About 1.2 s on a machine that is busy with other things."""
    return 1.2 + chance.expovariate(3.0)


def judged(measure: str, series: Series, per_minute: float, seed: int) -> Growth:
    chance = random.Random(seed)
    rows = []
    for at_s in range(0, MINUTES * 60, SAMPLE_S):
        if chance.random() < 0.05:
            continue  # the process stood still
        value = series(chance, at_s) + per_minute * at_s / 60
        rows.append(Usage("w1", float(at_s), **{measure: value}))  # type: ignore[arg-type]
    (growth,) = growths(rows)
    assert growth.enough
    return growth


@pytest.mark.parametrize("seed", SEEDS)
def test_a_leak_of_one_megabyte_a_minute_is_found(seed: int) -> None:
    growth = judged("memory_bytes", memory, 1e6, seed)
    assert growth.grows, growth
    assert growth.per_hour == pytest.approx(60e6, rel=0.1)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_leak_of_one_descriptor_a_minute_is_found(seed: int) -> None:
    growth = judged("descriptors", descriptors, 1, seed)
    assert growth.grows, growth
    assert growth.per_hour == pytest.approx(60, rel=0.1)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("measure", "series"),
    [("memory_bytes", memory), ("descriptors", descriptors), ("startup_s", startup)],
)
def test_noise_is_no_growth(measure: str, series: Series, seed: int) -> None:
    growth = judged(measure, series, 0, seed)
    assert not growth.grows, growth


def test_what_shrinks_does_not_grow() -> None:
    assert not judged("memory_bytes", memory, -1e6, 1).grows


def test_a_slope_that_noise_may_have_made_is_no_growth() -> None:
    """The middle of the slopes is above the bound, the lower end of their interval is not."""
    chance = random.Random(1)
    rows = [
        Usage("w1", 60.0 * n, startup_s=2.0 + 0.01 * n + chance.uniform(-1, 1)) for n in range(60)
    ]
    (growth,) = growths(rows)
    assert growth.per_hour > growth.allowed_per_hour
    assert growth.surely_per_hour < growth.allowed_per_hour
    assert not growth.grows


def test_a_short_soak_shows_coarse_leaks_and_only_these() -> None:
    def rows(mib_per_minute: float) -> list[Usage]:
        return [
            Usage("w1", 2.0 * n, memory_bytes=round((60 + mib_per_minute * n / 30) * MIB))
            for n in range(60)
        ]

    assert not growths(rows(20))[0].enough
    (coarse,) = growths(rows(20), span_min_s=60)
    assert coarse.grows
    (fine,) = growths(rows(1), span_min_s=60)
    assert fine.surely_per_hour > fine.allowed_per_hour
    assert not fine.grows, "1.5 MiB in all is what any process takes in its first minutes"
    (warm,) = growths(rows(20), span_min_s=60, least_share=0.5)
    assert not warm.grows, "by a third of its level: it may be the warm-up"
    assert growths(rows(60), span_min_s=60, least_share=0.5)[0].grows
