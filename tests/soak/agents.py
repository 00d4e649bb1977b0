"""The agents of the torture's workload, and a task that fails for good now and then."""

from __future__ import annotations

from holdfast.agents import Context, Retry
from tests.torture.workload_agents import Word, alpha, beta, gamma

__all__ = ["alpha", "beta", "gamma"]


@beta.task(retry=Retry(attempts=2, initial_s=0.02, max_s=0.1))
async def refuse(ctx: Context, word: Word) -> Word:
    """Fail every attempt: it ends as a dead letter."""
    raise ValueError(f"{word.text} is refused, attempt {ctx.attempt}")
