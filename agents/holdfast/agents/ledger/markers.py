"""Cancels that came before the record of the attempt they cancel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from holdfast.agents.ledger.drafts import Answer, Identity, Outbox
from holdfast.agents.ledger.keys import cancelled_key
from holdfast.schemas.records import (
    Cancelled,
    ControlEnvelope,
    Failure,
    FailureKind,
    Outcome,
    TaskEnvelope,
    TaskResult,
)

__all__ = ["MARKER_KEPT_MS", "Markers", "cancelled_failure"]

MARKER_KEPT_MS = 7 * 24 * 3600 * 1000
"""A cancel whose task record has not come by then is forgotten."""
REASON_CHARS_MAX = 2_000
"""The longest reason of a cancel that its answer repeats."""


class Markers:
    """One marker per task, answered when it is made and kept until the record arrives."""

    def __init__(self, identity: Identity, outbox: Outbox) -> None:
        self._identity = identity
        self._outbox = outbox
        self._markers: dict[str, Cancelled] = {}

    def __len__(self) -> int:
        return len(self._markers)

    def restore(self, markers: Mapping[str, Cancelled]) -> None:
        """Take over what the journal holds."""
        self._markers = dict(markers)

    def cancel(self, task: str, control: ControlEnvelope, now_ms: int) -> None:
        """Note a cancel and answer it; one that was answered before is not answered again."""
        known = self._markers.get(task)
        if known is not None and known.attempt >= control.attempt:
            return
        marker = Cancelled(control.attempt, now_ms, released=False)
        self._markers[task] = marker
        result = TaskResult(
            task_id=control.task_id,
            attempt=control.attempt,
            outcome=Outcome.CANCELLED,
            output=None,
            failure=cancelled_failure(control.reason),
            steps=[],
            started_ms=now_ms,
            finished_ms=now_ms,
            resumes=0,
            instance=self._identity.instance,
            build_id=self._identity.build_id,
        )
        answer = Answer(control.run_id, control.reply_key, result)
        self._outbox.put([(cancelled_key(task), marker)], answer)

    def release(self, task: str, attempt: int) -> None:
        """The task is closed, its record still to come: nothing is to be kept once it does."""
        marker = self._markers.get(task)
        if marker is not None and marker.attempt <= attempt and not marker.released:
            self._markers[task] = released = replace(marker, released=True)
            self._outbox.put([(cancelled_key(task), released)])

    def settles(self, task: str, envelope: TaskEnvelope) -> bool:
        """Tell whether this attempt was cancelled before it came; an older marker goes."""
        marker = self._markers.get(task)
        if marker is None:
            return False
        if envelope.attempt <= marker.attempt:
            return True
        self.remove(task)
        return False

    def arrived(self, task: str, attempt: int) -> bool:
        """A cancelled attempt's record is there; tell whether nothing is to be kept of the task.

        The marker goes, unless it is of a later attempt. That one's record is still to come, and
        must not begin what was answered as cancelled: a crash can bring back the older record.
        """
        return self._markers[task].attempt <= attempt and self.remove(task)

    def remove(self, task: str) -> bool:
        """Remove the marker; tell whether the task had been released."""
        self._outbox.put([(cancelled_key(task), None)])
        return self._markers.pop(task).released

    def expire(self, now_ms: int) -> None:
        """Forget those that are older than `MARKER_KEPT_MS`."""
        for task, marker in list(self._markers.items()):
            if now_ms - marker.at_ms >= MARKER_KEPT_MS:
                self.remove(task)


def cancelled_failure(reason: str) -> Failure:
    """Return what a result says of a cancel."""
    told = reason[:REASON_CHARS_MAX] or "cancelled"
    return Failure(FailureKind.CANCELLED, "Cancelled", told, "", retryable=False)
