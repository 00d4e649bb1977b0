"""Ends of attempts that the ledger itself finds."""

from __future__ import annotations

from collections.abc import Collection

from holdfast.agents.ledger.entry import Ending, Entry
from holdfast.agents.ledger.markers import cancelled_failure
from holdfast.schemas.records import Failure, FailureKind, Outcome

__all__ = ["cancelled", "poisoned", "unknown_task"]


def cancelled(reason: str, now_ms: int) -> Ending:
    """Return the end of an attempt that was cancelled before its handler began."""
    return Ending(Outcome.CANCELLED, None, cancelled_failure(reason), [], now_ms, now_ms)


def poisoned(entry: Entry, now_ms: int) -> Ending:
    """Return the end of a task that killed its process too often."""
    failure = Failure(
        FailureKind.POISON,
        "ProcessDied",
        f"its process died {entry.strikes} times while this task ran alone in it, "
        f"{entry.resumes} times in all",
        "",
        retryable=False,
    )
    return Ending(Outcome.FAILED, None, failure, [], now_ms, now_ms)


def unknown_task(agent: str, task: str, known: Collection[str], now_ms: int) -> Ending:
    """Return the end of a task that its agent does not have."""
    there = ", ".join(sorted(known)) or "none"
    message = f"agent {agent!r} has no task {task!r}; it has: {there}"
    failure = Failure(FailureKind.UNKNOWN_TASK, "UnknownTask", message, "", retryable=False)
    return Ending(Outcome.FAILED, None, failure, [], now_ms, now_ms)
