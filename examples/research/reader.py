"""The reader: looks through the folder, and searches one document at a time."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from examples.witness import witnessed
from holdfast.agents import Agent, Context, Retry
from holdfast.schemas.errors import ConfigurationError

from .index import survey
from .library import BadFolder, Refused, open_document
from .models import Question, Reading, ReadRequest, Survey
from .thinker import THINKER

__all__ = ["look_through", "pace_s", "read", "reader"]

PACE_MAX_S = 60.0


def pace_s() -> float:
    """Seconds for each document, by ``PACE``. Raises `ConfigurationError`."""
    text = os.environ.get("PACE") or "0"
    try:
        pace_s = float(text)
    except ValueError:
        pace_s = -1.0
    if not 0 <= pace_s <= PACE_MAX_S:
        raise ConfigurationError(f"PACE={text!r}: seconds for each document, 0 to {PACE_MAX_S:.0f}")
    return pace_s


PAUSE_S = pace_s()
"""Between the two steps of a reading, for watching."""

reader = Agent("reader", concurrency=4)


@reader.task(name="survey", retry=Retry(attempts=2, never=(BadFolder,)), timeout_s=300)
async def look_through(ctx: Context, question: Question) -> Survey:
    """Count the question's words in every document of the folder."""
    return await ctx.step("survey", witnessed(ctx, question.folder, survey), question)


@reader.task(retry=Retry(attempts=3), timeout_s=300)
async def read(ctx: Context, request: ReadRequest) -> Reading:
    """Search one document. One that is not to be had is no failure: the planner is told."""
    found = await ctx.step("look", witnessed(ctx, request.path, look), request)
    if found.problem:
        return found
    await asyncio.sleep(PAUSE_S)
    return await ctx.step("search", witnessed(ctx, request.path, search), request, found.digest)


def look(request: ReadRequest) -> Reading:
    """Whether there is such a document, and which one it is: its digest."""
    try:
        return Reading(
            path=request.path, digest=open_document(Path(request.folder), request.path).digest
        )
    except Refused as refused:
        return Reading(path=request.path, problem=str(refused))


def search(request: ReadRequest, digest: str) -> Reading:
    """What the document says to the part of the question."""
    try:
        lines = open_document(Path(request.folder), request.path, digest).lines
    except Refused as refused:
        return Reading(path=request.path, problem=str(refused))
    quotes = THINKER.search(request.part, request.path, lines)
    return Reading(path=request.path, digest=digest, quotes=quotes)
