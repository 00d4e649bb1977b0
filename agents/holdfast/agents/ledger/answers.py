"""Answers to asks, as the journal holds them."""

from __future__ import annotations

from holdfast.agents.ledger.entry import Entry
from holdfast.schemas.records import Reply, StepEntry, StepKind

__all__ = ["answered", "asked"]


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


def asked(entry: Entry, reply: Reply) -> StepEntry | None:
    """Return the ask that a reply answers. It has been committed, or nobody could answer it; but
    the commit that did it may still be unacknowledged."""
    step = (reply.name, reply.key)
    return entry.steps.get(step) or entry.asking.get(step)
