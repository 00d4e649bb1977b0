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
    """Print rows; fitted and coloured on a terminal, whole and aligned elsewhere."""
    if not rows:
        note(empty)
        return
    if sys.stdout.isatty():
        from rich.box import SIMPLE
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=SIMPLE, pad_edge=False)
        for number, header in enumerate(headers):
            # The first column is what one copies: never folded, never cut.
            widest = max(len(row[0]) for row in rows) if number == 0 else None
            table.add_column(header, no_wrap=number == 0, min_width=widest)
        for row in rows:
            table.add_row(*(Text(cell, style=_style(cell)) for cell in row))
        Console().print(table)
        return
    widths = [max(len(row[n]) for row in (headers, *rows)) for n in range(len(headers))]
    for row in (headers, *rows):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print_lines("  ".join(cells).rstrip())


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


_STYLES = {
    "succeeded": "green",
    "failed": "red",
    "dead": "red",
    "cancelled": "yellow",
    "waiting": "yellow",
    "paused": "yellow",
    "retrying": "yellow",
    "running": "cyan",
    "dispatched": "cyan",
}


def _style(cell: str) -> str:
    return _STYLES.get(cell, "")
