"""Numbers and tables, as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tests.torture.results import quantile

__all__ = ["BUS_NAMES", "NOT_RUN", "count", "seconds", "spread", "supported", "table"]

NOT_RUN = "not run yet"
BUS_NAMES = {"kafka": "Kafka", "sqlite": "SQLite", "sim": "simulated"}


def count(number: float) -> str:
    """Return a number with commas."""
    return f"{number:,.0f}"


def seconds(value: float | None) -> str:
    """Return seconds with as many digits as they are worth."""
    if value is None:
        return ""
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"


def spread(values: Sequence[float]) -> str:
    """Return p50 / p99 / worst."""
    if not values:
        return ""
    middle, high = quantile(values, 0.5), quantile(values, 0.99)
    return f"{seconds(middle)} / {seconds(high)} / {seconds(max(values))}"


def supported(injected: int, violations: int) -> str:
    """Return the bound that no violation in so many injections supports at 95 % (3/N)."""
    if violations or not injected:
        return ""
    share = min(1.0, 3 / injected)
    return f"{share:.2%}" if share >= 0.001 else f"{share:.4%}"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; a bar inside a cell is escaped."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(
        "| " + " | ".join(c.replace("|", "\\|") for c in line) + " |" for line in lines
    )
