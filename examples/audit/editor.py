"""The editor: writes the report, each file at one stroke."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from .models import Audit, Report
from .plot import draw
from .report_html import to_html
from .report_markdown import to_markdown
from .scout import REPORT_NAMES, BadFolder

__all__ = ["DEFAULT_OUT", "write_report"]

DEFAULT_OUT = "build/audit"
MAX_HEADLINES = 5


def write_report(audit: Audit, out: str, *, idempotency_key: str) -> Report:
    """Write ``report.md``, ``report.html`` and the plot into the folder ``out``.

    A reader sees the old file or the new one, never a part. Called again with the same key it
    puts the same bytes in the same places and clears what a killed call left behind.

    Raises ``BadFolder`` when ``out`` cannot be written.
    """
    folder = Path(out).absolute()
    mark = hashlib.sha256(idempotency_key.encode()).hexdigest()[:12]
    markdown, page, plot = (folder / name for name in REPORT_NAMES)
    drawing = draw(audit)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _replace(plot, drawing, mark)
        _replace(page, to_html(audit, drawing), mark)
        _replace(markdown, to_markdown(audit, plot.name), mark)
    except OSError as error:
        raise BadFolder(
            f"cannot write the report to {out!r}: {error.strerror}. Name a folder you can write to"
        ) from error
    return Report(
        markdown=str(markdown),
        html=str(page),
        plot=str(plot),
        files=audit.files,
        left_out=audit.left_out,
        hot_spots=[spot.path for spot in audit.hot_spots[:MAX_HEADLINES]],
        weaknesses=audit.high + audit.medium,
        secrets=audit.secrets,
    )


def _replace(path: Path, text: str, mark: str) -> None:
    draft = path.with_name(f".{path.name}.{mark}")
    draft.unlink(missing_ok=True)
    with draft.open("x", encoding="utf-8", newline="\n") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    draft.replace(path)
