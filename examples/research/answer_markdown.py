"""The answer as a page: quotes with their places, what the critic said, what was not to be had."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from .library import BadFolder
from .models import Answer, Problem, Quote, Report, WriteRequest

__all__ = ["ANSWER_NAME", "to_markdown", "write_answer"]

ANSWER_NAME = "answer.md"


def write_answer(request: WriteRequest, short: str, *, idempotency_key: str) -> Report:
    """Write `answer.md` into the folder that the question names, at one stroke.

    Called again with the same key it puts the same bytes in the same place. Raises `BadFolder`.
    """
    out = request.question.out
    path = Path(out).absolute() / ANSWER_NAME
    text = to_markdown(request, short)
    draft = path.with_name(
        f".{ANSWER_NAME}.{hashlib.sha256(idempotency_key.encode()).hexdigest()[:12]}"
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("w", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(path)
    except OSError as error:
        raise BadFolder(
            f"cannot write to {out!r}: {error.strerror}. Name a folder you can write to"
        ) from error
    answers = request.answers
    return Report(
        path=str(path),
        text=short,
        documents=request.survey.total,
        quotes=sum(len(answer.quotes) for answer in answers),
        sent_back=sum(len(answer.sent_back) for answer in answers),
        missing=sum(len(answer.missing) for answer in answers),
        answers=answers,
    )


def to_markdown(request: WriteRequest, short: str) -> str:
    """The whole page. The same request gives the same bytes."""
    parts = [f"# {_plain(request.question.text)}", _plain(short)]
    parts += [_answered(answer) for answer in request.answers]
    parts.append(_about(request))
    return "\n\n".join(part for part in parts if part) + "\n"


def _answered(answer: Answer) -> str:
    lines = [f"## {answer.part.number}. {_plain(answer.part.text)}"]
    if not answer.quotes:
        lines.append("No document says anything to this.")
    lines += [_quoted(quote) for quote in answer.quotes]
    lines += [f"- Not to be had: `{lost.path}` ({lost.reason})." for lost in answer.missing]
    lines += [
        f"- Sent back, round {back.round}: {_said(back.problems)}." for back in answer.sent_back
    ]
    if answer.open:
        lines.append(f"- Still open: {_said(answer.open)}.")
    return "\n\n".join(lines)


def _quoted(quote: Quote) -> str:
    # A fence longer than any in the quote: the words stay as they are, whatever they are.
    fence = "~~~"
    while fence in quote.text:
        fence += "~"
    return f"`{quote.place}`\n{fence}text\n{quote.text}\n{fence}"


def _said(problems: list[Problem]) -> str:
    return "; ".join(_plain(problem.text) for problem in problems)


def _about(request: WriteRequest) -> str:
    survey = request.survey
    lines = [f"{survey.total} documents were looked through."]
    lines += [f"- Left out: `{entry.path}` ({entry.reason})." for entry in survey.left_out]
    return "## About\n\n" + "\n".join(lines)


def _plain(text: str) -> str:
    shown = "".join(c if c.isprintable() else " " for c in text)
    return "".join(f"\\{c}" if c in "\\`*_{}[]<>|#" else c for c in shown)
