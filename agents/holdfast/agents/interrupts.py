"""Why a handler is stopped before it has ended by itself."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.agents.ledger import cancelled_failure
from holdfast.schemas.records import Failure, Outcome

__all__ = ["Interrupt", "interrupt_for"]


@dataclass(frozen=True, slots=True)
class Interrupt:
    """Why a handler is stopped; `failure` None: nothing is to be told of it (the slot is lost).

    `sleeping`: it only waits, and its memory is dropped; it goes on later.
    """

    outcome: Outcome = Outcome.CANCELLED
    failure: Failure | None = None
    sleeping: bool = False

    def replaces(self, other: Interrupt | None) -> bool:
        """Tell whether this counts, where `other` has come before.

        The first reason counts. But a lost slot is told of nothing; and who is cancelled while it
        falls asleep must not wake up again.
        """
        if other is None:
            return True
        if self.sleeping:
            return False
        return self.failure is None or other.sleeping


def interrupt_for(reason: str) -> Interrupt:
    """Return the interrupt of an attempt that is cancelled, or over for another reason."""
    return Interrupt(Outcome.CANCELLED, cancelled_failure(reason))
