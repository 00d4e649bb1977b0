"""The agent that is fed poison: each task hurts its process in a way of its own."""

from __future__ import annotations

import asyncio
import os

from pydantic import BaseModel

from holdfast.agents import Agent, Context, Retry

__all__ = ["KILLING", "POISONS", "hostile"]

HANG_TIMEOUT_S = 0.5
GREEDY_BYTES = 2 * 1024**3
POISONS = ("raises", "hangs", "recurses", "allocates", "exits")
KILLING = frozenset({"exits"})
"""Those that take the process with them."""

hostile = Agent("hostile", concurrency=16)


class Dose(BaseModel):
    n: int
    kind: str = "none"


@hostile.task(retry=Retry(attempts=2, initial_s=0.02, max_s=0.05), timeout_s=HANG_TIMEOUT_S)
async def swallow(ctx: Context, dose: Dose) -> Dose:
    """Digest a dose; `kind` says what it does to the process."""
    if dose.kind == "raises":
        raise ValueError(f"cannot digest {dose.n}")
    if dose.kind == "hangs":
        await asyncio.sleep(3_600)
    if dose.kind == "recurses":
        return Dose(n=recurse(dose.n))
    if dose.kind == "allocates":
        return Dose(n=len(bytearray(GREEDY_BYTES)))
    if dose.kind == "exits":
        os._exit(9)
    return dose


def recurse(n: int) -> int:
    """Without end."""
    return recurse(n + 1) + 1
