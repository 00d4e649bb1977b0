"""Answers to asks, as the journal holds them."""

from __future__ import annotations

from holdfast.agents.ledger.entry import Entry
from holdfast.schemas.records import ControlEnvelope, Reply, StepEntry, StepKind

__all__ = ["answered", "asked", "waits_for"]


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
        ask.build_id,
    )


def waits_for(ask: StepEntry | None, control: ControlEnvelope) -> bool:
    """Tell whether an ask is open, and the answer its own.

    An answer is sent in the ask's attempt or a later one. An older one answers an ask of the same
    name that the task had made before it was restarted: to take it would end a sleep too soon.
    """
    return ask is not None and ask.kind is StepKind.ASK and control.attempt >= ask.attempt


def asked(entry: Entry, reply: Reply) -> StepEntry | None:
    """Return the ask that a reply answers. It has been committed, or nobody could answer it; but
    the commit that did it may still be unacknowledged."""
    step = (reply.name, reply.key)
    return entry.steps.get(step) or entry.asking.get(step)
