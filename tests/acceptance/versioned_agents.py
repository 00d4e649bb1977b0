"""An agent whose code is what its environment says: the old one, or the new one under its tasks."""

from __future__ import annotations

import os

from holdfast.agents import Agent, Context
from tests.acceptance.agents import Word, witness

VARIABLE = "TESTS_VERSION"

version = os.environ.get(VARIABLE, "1")
seller = Agent("seller", version=version)


def noted(run_id: str, step: str) -> str:
    witness("versions", "seller", f"{run_id} {step} by {version}")
    return step


@seller.task
async def sell(ctx: Context, word: Word) -> Word:
    """With a patch from version 2 on."""
    await ctx.step("first", noted, ctx.run_id, "first")
    if version == "1":
        await ctx.wait_for("go")
        return Word(text=await ctx.step("invoice", noted, ctx.run_id, "invoice"))
    if await ctx.patched("thanks"):
        await ctx.step("thanks", noted, ctx.run_id, "thanks")
    await ctx.wait_for("go")
    if await ctx.patched("bill"):
        return Word(text=await ctx.step("bill", noted, ctx.run_id, "bill"))
    return Word(text=await ctx.step("invoice", noted, ctx.run_id, "invoice"))


@seller.task
async def change(ctx: Context, word: Word) -> Word:
    """Without any: version 2 does not fit what version 1 has journaled."""
    step = "old" if version == "1" else "new"
    await ctx.step(step, noted, ctx.run_id, step)
    await ctx.wait_for("go")
    return Word(text=step)
