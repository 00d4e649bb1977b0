"""The writer: answers each part, as often as the critic sends it back, and writes it all down."""

from __future__ import annotations

from examples.witness import witnessed
from holdfast.agents import Agent, CallFailed, Context, Retry

from .answer_markdown import write_answer
from .critic import review
from .library import BadFolder
from .models import (
    Answer,
    AnswerRequest,
    LeftOut,
    Part,
    Problem,
    Reading,
    ReadRequest,
    Report,
    ReviewRequest,
    SentBack,
    Verdict,
    WriteRequest,
)
from .reader import read
from .thinker import THINKER

__all__ = ["ROUNDS_MAX", "answer", "report", "writer"]

ROUNDS_MAX = 3
"""A draft is sent back at most twice."""

writer = Agent("writer", concurrency=4)


@writer.task(retry=Retry(attempts=3), timeout_s=300)
async def answer(ctx: Context, request: AnswerRequest) -> Answer:
    """Answer a part of the question: draft, have it reviewed, mend it."""
    part = request.part
    readings = [reading for found in request.readings for reading in found]
    verdict: Verdict | None = None
    problems: list[Problem] = []
    sent_back: list[SentBack] = []
    for number in range(1, ROUNDS_MAX + 1):
        if verdict is not None:
            sent_back.append(SentBack(round=number - 1, problems=problems))
            readings += await _read_more(ctx, request, verdict.read_more, number)
        known = [quote for reading in readings for quote in reading.quotes]
        choose = witnessed(ctx, part.text, THINKER.choose, f"{number}")
        draft = await ctx.step("choose", choose, part, known, verdict, key=f"{number}")
        unread = _unread(part, readings)
        wanted = ReviewRequest(
            folder=request.folder, part=part, draft=draft, known=known, unread=unread
        )
        verdict = await ctx.call(review, wanted, name="review", key=f"{number}")
        problems = verdict.problems
        if verdict.accepted:
            break
    return Answer(
        part=part,
        quotes=draft.quotes,
        rounds=number,
        sent_back=sent_back,
        missing=[LeftOut(path=one.path, reason=one.problem) for one in readings if one.problem],
        open=problems,
    )


async def _read_more(
    ctx: Context, request: AnswerRequest, paths: list[str], number: int
) -> list[Reading]:
    """Have more documents read, side by side; this handler holds no place meanwhile."""
    if not paths:
        return []
    wanted = [ReadRequest(folder=request.folder, path=path, part=request.part) for path in paths]
    found = await ctx.call_many(read, wanted, name=f"more-{number}")
    return [
        Reading(path=path, problem=f"not read: {one}") if isinstance(one, CallFailed) else one
        for path, one in zip(paths, found, strict=True)
    ]


def _unread(part: Part, readings: list[Reading]) -> list[str]:
    read_already = {reading.path for reading in readings}
    return [path for path in part.spares if path not in read_already]


@writer.task(name="write", retry=Retry(attempts=3, never=(BadFolder,)), timeout_s=300)
async def report(ctx: Context, request: WriteRequest) -> Report:
    """Put the answers together and write the page."""
    question = request.question
    conclude = witnessed(ctx, question.text, THINKER.conclude)
    short = await ctx.step("conclude", conclude, question, request.answers)
    # An effect: it changes the world outside. The same bytes go to the same place, so after a
    # crash between the call and its commit it may simply be called again.
    write = witnessed(ctx, question.out, write_answer)
    return await ctx.effect("write", write, request, short, idempotent=True)
