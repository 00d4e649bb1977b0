"""A run whose records cannot be written: it ends at once, loudly, and blocks nobody.

What made it fail may be any of its payloads, so nothing of them is written again: the rows that
say so carry none.
"""

from __future__ import annotations

from holdfast.coordinator.engine.inputs import Broken
from holdfast.coordinator.engine.run.ending import close_run, fail_run
from holdfast.coordinator.engine.run.failing import failure_of
from holdfast.coordinator.engine.run.transition import Transition
from holdfast.coordinator.engine.states import RUN_ENDS
from holdfast.schemas.records import Command, EventType, FailureKind, RunEntry, Submission

__all__ = ["on_broken"]

MESSAGE_CHARS_MAX = 2_000


def on_broken(t: Transition, broken: Broken) -> None:
    """End the run, or refuse its submission."""
    reason = broken.reason[:MESSAGE_CHARS_MAX]
    known = t.overlay.get("")
    if not isinstance(known, RunEntry):
        submitted = broken.arrival is not None and isinstance(
            broken.arrival.envelope.body, Submission
        )
        kind = EventType.RUN_REFUSED if submitted else EventType.COMMAND_REFUSED
        t.emit_note(kind, reason)
        return
    if known.row.state in RUN_ENDS:
        return
    fail_run(t, failure_of(FailureKind.TOO_LARGE, reason))
    row = t.run.row
    row.input = row.output = None
    close_run(t)
    if broken.arrival is not None and isinstance(broken.arrival.envelope.body, Command):
        # Who gave it waits for an answer.
        t.emit_note(EventType.COMMAND_REFUSED, reason)
