"""A run whose records cannot be written: it ends at once, loudly, and blocks nobody.

What made it fail may be any of its payloads, so nothing of them is written again: the rows that
say so carry none. If it has something to undo it is given one chance to: what breaks it a second
time ends it, and its failure says how much is left.
"""

from __future__ import annotations

from dataclasses import replace

from holdfast.coordinator.engine.counting import UNDO, UNDOING
from holdfast.coordinator.engine.inputs import Broken
from holdfast.coordinator.engine.run.ending import close_run, fail_run
from holdfast.coordinator.engine.run.failing import failure_of
from holdfast.coordinator.engine.run.rows import touch_run
from holdfast.coordinator.engine.run.submission import refuse
from holdfast.coordinator.engine.run.transition import Transition
from holdfast.coordinator.engine.run.undoing import IN_HAND, wants_undoing
from holdfast.coordinator.engine.states import RUN_ENDS
from holdfast.schemas.errors import HoldfastError
from holdfast.schemas.records import Command, EventType, FailureKind, RunEntry, Submission

__all__ = ["on_broken"]

MESSAGE_CHARS_MAX = 2_000


def on_broken(t: Transition, broken: Broken) -> None:
    """End the run, or refuse its submission."""
    reason = broken.reason[:MESSAGE_CHARS_MAX]
    known = t.overlay.get("")
    if not isinstance(known, RunEntry):
        body = None if broken.arrival is None else broken.arrival.envelope.body
        if isinstance(body, Submission):
            refuse(t, body, reason)
        else:
            t.emit_note(EventType.COMMAND_REFUSED, reason)
        return
    if known.row.state in RUN_ENDS:
        return
    was_ending = t.ending
    if was_ending:
        t.overlay.put("", touch_run(known))  # what is committed is not to be changed
    fail_run(t, failure_of(FailureKind.TOO_LARGE, reason))
    row = t.run.row
    row.input = row.output = None
    if not was_ending and _can_undo(t):
        t.more = True  # what was done is undone first, by events of their own
    else:
        _say_what_is_left(t)
        close_run(t)
    if broken.arrival is not None and isinstance(broken.arrival.envelope.body, Command):
        # Who gave it waits for an answer.
        t.emit_note(EventType.COMMAND_REFUSED, reason)


def _can_undo(t: Transition) -> bool:
    try:
        return wants_undoing(t)
    except HoldfastError:
        return False  # not even its plan can be read


def _say_what_is_left(t: Transition) -> None:
    left = t.overlay.count(UNDO, "") + t.count(IN_HAND, UNDOING)
    failure = t.run.row.failure
    if left and failure is not None:
        message = f"{failure.message}; {left} successes were not undone"
        t.run.row.failure = replace(failure, message=message)
