"""The four agents of the audit. Start them all with ``holdfast dev examples.audit.agents``, or
each as a service: ``holdfast agent examples.audit.agents:inspector``.

``PACE`` (seconds a file, a decimal number) slows the inspections down, for watching.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from examples.witness import witnessed
from holdfast.agents import Agent, Context, Retry
from holdfast.schemas.errors import ConfigurationError

from .editor import write_report
from .historian import read_history
from .inspector import measure, read, scan, search
from .models import (
    FileList,
    History,
    HistoryRequest,
    Inspection,
    ListRequest,
    Report,
    ReportRequest,
    SourceFile,
)
from .ranking import rank
from .scout import BadFolder, list_files

__all__ = ["editor", "historian", "inspector", "scout"]

P = ParamSpec("P")
R = TypeVar("R")


def _pace_s() -> float:
    text = os.environ.get("PACE") or "0"
    try:
        pace_s = float(text)
    except ValueError:
        pace_s = -1.0
    if not 0 <= pace_s <= MAX_PACE_S:
        raise ConfigurationError(f"PACE={text!r}: seconds for each file, 0 to {MAX_PACE_S:.0f}")
    return pace_s


MAX_PACE_S = 60.0
#: Between any two of an inspection's four steps.
PAUSE_S = _pace_s() / 3

scout = Agent("scout")
inspector = Agent("inspector", concurrency=4)
historian = Agent("historian")
editor = Agent("editor")


@scout.task(name="list", retry=Retry(attempts=2, never=(BadFolder,)), timeout_s=300)
async def list_folder(ctx: Context, request: ListRequest) -> FileList:
    """List the files of a folder that are worth inspecting."""
    return await ctx.step("list", witnessed(ctx, request.folder, list_files), request)


@inspector.task(retry=Retry(attempts=3), timeout_s=300)
async def inspect(ctx: Context, source: SourceFile) -> Inspection:
    """Look into one file. A bad file is no failure: what is wrong with it is in the result."""

    def seen(body: Callable[P, R]) -> Callable[P, R]:
        return witnessed(ctx, source.path, body)

    reading = await ctx.step("read", seen(read), source)
    if reading.problem:
        return Inspection(path=source.path, reading=reading)
    await asyncio.sleep(PAUSE_S)
    metrics = await ctx.step("measure", seen(measure), source, reading.digest)
    await asyncio.sleep(PAUSE_S)
    findings = await ctx.step("scan", seen(scan), source, reading.digest)
    await asyncio.sleep(PAUSE_S)
    secrets = await ctx.step("search", seen(search), source, reading.digest)
    return Inspection(
        path=source.path, reading=reading, metrics=metrics, findings=findings, secrets=secrets
    )


@historian.task(retry=Retry(attempts=2, never=(BadFolder,)), timeout_s=300)
async def history(ctx: Context, request: HistoryRequest) -> History:
    """Read how often each file of a folder has changed."""
    return await ctx.step("log", witnessed(ctx, request.folder, read_history), request)


@editor.task(retry=Retry(attempts=3, never=(BadFolder,)), timeout_s=300)
async def report(ctx: Context, request: ReportRequest) -> Report:
    """Rank the hot spots and write the report."""
    audit = await ctx.step("rank", witnessed(ctx, request.files.name, rank), request)
    # An effect: it changes the world outside. The same bytes go to the same places, so after a
    # crash between the call and its commit it may simply be called again.
    write = witnessed(ctx, request.out, write_report)
    return await ctx.effect("write", write, audit, request.out, idempotent=True)
