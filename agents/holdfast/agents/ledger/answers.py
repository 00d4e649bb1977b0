"""Answers to asks, as the journal holds them."""

from __future__ import annotations

from holdfast.schemas.records import Reply, StepEntry, StepKind

__all__ = ["answered"]


def answered(ask: StepEntry, reply: Reply, now_ms: int) -> StepEntry:
    """Return what takes the place of an ask; the time it took is the time waited."""
    return StepEntry(
        ask.name,
        ask.key,
        StepKind.ANSWER,
        ask.attempt,
        ask.digest,
        reply.result,
        ask.started_ms,
        max(0, now_ms - ask.started_ms),
        reply.failure,
    )
