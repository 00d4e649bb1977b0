"""What the command prints at the end."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path

from examples.audit.names import shown
from holdfast.schemas import PlanDifference, PlanDocument

from .models import Answer, Report

__all__ = ["counted", "told_answer", "told_difference", "told_next"]

_MARKS = {"added": "+", "removed": "-", "changed": "~", "dropped": "x"}
_LINE_CHARS = 110


def told_answer(report: Report) -> str:
    """The answer: for each part its quotes, what the critic said, and what was not to be had."""
    lines = [""]
    for answer in report.answers:
        lines += _answered(answer)
    counts = [
        counted(report.quotes, "quote"),
        f"{counted(report.documents, 'document')} looked through",
        f"{counted(report.sent_back, 'draft')} sent back",
        f"{counted(report.missing, 'source')} missing",
    ]
    lines += ["", "; ".join(counts)]
    return "\n".join(lines)


def _answered(answer: Answer) -> Iterable[str]:
    yield f"\n{answer.part.number}. {shown(answer.part.text)}"
    if not answer.quotes:
        yield "   No document says anything to this."
    for quote in answer.quotes:
        yield f"   {shown(quote.place)}"
        yield from (f"     | {_clipped(line)}" for line in quote.text.split("\n"))
    for back in answer.sent_back:
        said = "; ".join(problem.text for problem in back.problems)
        yield f"   sent back, round {back.round}: {_clipped(said)}"
    for lost in answer.missing:
        yield f"   missing: {shown(lost.path)} ({lost.reason})"
    if answer.open:
        yield f"   still open: {_clipped('; '.join(problem.text for problem in answer.open))}"


def counted(count: int, word: str) -> str:
    """A number and what is counted: "1 quote", "2 quotes"."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def told_difference(differences: Iterable[PlanDifference], after: PlanDocument) -> list[str]:
    """One line for each task that differs, with who added it."""
    lines = []
    for each in differences:
        maker = after.tasks[each.task_id].added_by if each.kind == "added" else None
        settings = ", ".join(name for name, _, _ in each.details)
        about = f"by {maker}" if maker else settings
        lines.append(f"    {_MARKS[each.kind]} {each.task_id:<12} {each.task:<14} {about}".rstrip())
    return lines


def told_next(report: Report, run_id: str) -> str:
    """Where the answer is, and what is worth trying next."""
    path = Path(report.path)
    if path.is_relative_to(Path.cwd()):
        path = path.relative_to(Path.cwd())
    return (
        f"\n  answer: {shlex.quote(str(path))}\n"
        "\nTry next:\n"
        f"  .venv/bin/holdfast run plan {run_id} --diff 1 2\n"
        f"  .venv/bin/holdfast run history {run_id}\n"
        "  make research KILL=1\n"
        "  make research KILL=1 VICTIM=coordinator"
    )


def _clipped(text: str) -> str:
    text = shown(text)
    return text if len(text) <= _LINE_CHARS else f"{text[: _LINE_CHARS - 1]}…"
