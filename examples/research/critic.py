"""The critic: holds a draft against the files, and sends it back with its reasons."""

from __future__ import annotations

from examples.witness import witnessed
from holdfast.agents import Agent, Context, Retry

from .checks import check
from .models import ReviewRequest, Verdict
from .thinker import THINKER

__all__ = ["critic", "review"]

critic = Agent("critic", concurrency=4)


@critic.task(retry=Retry(attempts=3), timeout_s=300)
async def review(ctx: Context, request: ReviewRequest) -> Verdict:
    """Accept a draft, or say what is wrong with it."""
    part = request.part
    problems = await ctx.step("check", witnessed(ctx, part.text, check), request)
    judge = witnessed(ctx, part.text, THINKER.judge)
    return await ctx.step("judge", judge, part, problems, request.unread)
