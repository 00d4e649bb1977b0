"""The agents of the workload, as somebody would break them: their types fit no task on its way."""

from __future__ import annotations

from pydantic import BaseModel

from holdfast.agents import Agent, Context

__all__ = ["alpha", "beta", "gamma"]


class Strange(BaseModel):
    """A required field that no one sends, and another type for one that all send."""

    text: list[int]
    needed: str


alpha = Agent("alpha")
beta = Agent("beta")
gamma = Agent("gamma")


@alpha.task
async def begin(ctx: Context, strange: Strange) -> Strange:
    return strange


@beta.task
async def go_on(ctx: Context, strange: Strange) -> Strange:
    return strange


@gamma.task
async def end(ctx: Context, strange: Strange) -> Strange:
    return strange
