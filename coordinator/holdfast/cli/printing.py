"""What goes to stdout: JSON for scripts, tables and plain lines for people.

stdout is for the answer alone; progress and complaints go to stderr.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

__all__ = [
    "clip",
    "duration",
    "moment",
    "note",
    "print_json",
    "print_lines",
    "print_table",
    "shown",
]

CLIP = 100
_STYLES = {
    "succeeded": "green",
    "failed": "red",
    "dead": "red",
    "cancelled": "yellow",
    "compensating": "yellow",
    "waiting": "yellow",
    "paused": "yellow",
    "retrying": "yellow",
    "running": "cyan",
    "dispatched": "cyan",
}


def print_json(document: Any) -> None:
    """Print one JSON document."""
    print(json.dumps(document, indent=2, ensure_ascii=False, default=str))  # noqa: T201


def print_lines(*lines: str) -> None:
    """Print lines of the answer."""
    for line in lines:
        print(line)  # noqa: T201


def note(line: str) -> None:
    """Say something to whoever watches: stderr."""
    print(line, file=sys.stderr, flush=True)  # noqa: T201


def print_table(headers: Sequence[str], rows: Sequence[Sequence[str]], empty: str) -> None:
    """Print rows, aligned; coloured on a terminal. Nothing is cut: ids are there to be copied."""
    if not rows:
        note(empty)
        return
    widths = [max(len(row[n]) for row in (headers, *rows)) for n in range(len(headers))]
    lines = [_padded(row, widths) for row in (headers, *rows)]
    if not sys.stdout.isatty():
        print_lines(*("".join(cells).rstrip() for cells in lines))
        return
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    console.print(Text("".join(lines[0]).rstrip(), style="bold"), soft_wrap=True)
    for cells in lines[1:]:
        text = Text.assemble(*((cell, _STYLES.get(cell.strip(), "")) for cell in cells))
        console.print(text, soft_wrap=True)


def _padded(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    return [cell.ljust(width + 2) for cell, width in zip(row, widths, strict=True)]


def shown(value: Any) -> str:
    """Return a value as a person reads it: text as it is, everything else as JSON."""
    if isinstance(value, str):
        return value
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)


def clip(text: str, limit: int = CLIP) -> str:
    """Return text on one line, cut where it is long."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def moment(at_ms: int | None) -> str:
    """Return wall time, local, or "-"."""
    if at_ms is None:
        return "-"
    return datetime.fromtimestamp(at_ms / 1_000, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def duration(milliseconds: int | None) -> str:
    """Return a length of time in the unit that fits, or "-"."""
    if milliseconds is None:
        return "-"
    seconds = milliseconds / 1_000
    if seconds < 1:
        return f"{milliseconds} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    if seconds < 7_200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3_600:.1f} h"
