"""One reason why something stands where it stands, and how times are told in it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

__all__ = ["Reason", "span", "utc"]

_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"))
_ENOUGH = 2
"""A unit is used from two of it on: 90 s say more than 1 min."""


@dataclass(frozen=True, slots=True)
class Reason:
    """One reason. `subject`: the task's id, or "" for the run; `remedy`: a command, or ""."""

    subject: str
    code: str
    text: str
    remedy: str = ""


def utc(at_ms: int | None) -> str:
    """Return wall time for people."""
    moment = datetime.fromtimestamp((at_ms or 0) / 1_000, UTC)
    return moment.strftime("%Y-%m-%d %H:%M:%S UTC")


def span(milliseconds: int) -> str:
    """Return a length of time in the largest unit that fits."""
    seconds = max(0, milliseconds) // 1_000
    for length, unit in _UNITS:
        if seconds >= _ENOUGH * length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"
