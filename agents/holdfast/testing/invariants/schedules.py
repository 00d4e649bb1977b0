"""What must hold of schedules; parts of I10 and I11."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from holdfast.bus.topics import COORDINATOR_GROUP
from holdfast.coordinator.engine import SCHEDULE_TRANSITIONS
from holdfast.schemas.records import (
    Event,
    EventType,
    FiringCause,
    ScheduleEntry,
    ScheduleRow,
    ScheduleState,
    Submission,
)
from holdfast.testing.history import Decoded, History, JournalEntry
from holdfast.testing.invariants.verdict import Findings

__all__ = ["one_run_per_due_time", "same_schedules"]


def one_run_per_due_time(history: History, found: Findings) -> None:
    """Each due time is fired once, by one submission, and rows never go back.

    A backfill asks for times anew: those are submitted again, under the same run id.
    """
    for key, events in history.events_of_schedules.items():
        fired: Counter[str] = Counter()
        submitted: Counter[str] = Counter()
        for event in events:
            firing = event.body.firing
            if event.body.type is not EventType.SCHEDULE_FIRED or firing is None:
                continue
            found.looked("firings")
            submitted[firing.run_id] += 1
            fired[firing.run_id] += firing.cause is not FiringCause.BACKFILL
            if fired[firing.run_id] > 1:
                found.violated(f"{firing.run_id} of {key} was fired twice", event.place)
        _submissions(history, key, submitted, found)
        _rows(key, events, found)


def _submissions(history: History, key: str, submitted: Counter[str], found: Findings) -> None:
    if not history.whole(history.topics.coordinator):
        found.cannot("submissions may have been purged before they were recorded")
        return
    on_topic = Counter(
        given.body.run_id
        for given in history.inputs
        if isinstance(given.body.body, Submission)
        and given.body.body.submitted_by == key
        and not history.misplaced(given.received)
    )
    for run_id in sorted(submitted.keys() | on_topic.keys()):
        if submitted[run_id] != on_topic[run_id]:
            found.violated(
                f"{run_id} of {key} was fired {submitted[run_id]} times, and submitted"
                f" {on_topic[run_id]} times",
                key,
            )


def _rows(key: str, events: Sequence[Decoded[Event]], found: Findings) -> None:
    before: ScheduleRow | None = None
    for event in events:
        row = event.body.schedule
        if row is None:
            continue
        found.looked("rows")
        if before is None or event.body.type is EventType.SCHEDULE_CREATED:
            before = row
            continue
        if row.version < before.version or (row.version == before.version and row != before):
            found.violated(
                f"{key}: version {row.version} after version {before.version}", event.place
            )
        if row.state is not before.state and row.state not in SCHEDULE_TRANSITIONS[before.state]:
            found.violated(f"{key} went from {before.state} to {row.state}", event.place)
        before = row


def same_schedules(history: History, found: Findings) -> None:
    """The journal holds of each schedule what its newest event says."""
    if COORDINATOR_GROUP not in history.groups or not history.whole(history.topics.events):
        return
    newest: dict[str, JournalEntry] = {}
    for entries in history.journal(COORDINATOR_GROUP).values():
        newest |= {entry.key: entry for entry in entries}
    for key, events in history.events_of_schedules.items():
        rows = [event.body.schedule for event in events if event.body.schedule is not None]
        last = rows[-1] if rows else None
        expected = None if last is None or last.state is ScheduleState.DELETED else last
        entry = newest.get(key)
        kept = None if entry is None else entry.body
        found.looked("schedules")
        if (kept.row if isinstance(kept, ScheduleEntry) else None) != expected:
            found.violated(f"{key}: the journal holds another row than its newest event", key)
