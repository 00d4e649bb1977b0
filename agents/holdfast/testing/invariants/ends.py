"""How runs begin and end, and what is left when all is quiet: I1, I9, I10."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from holdfast.bus.port import TopicPartition
from holdfast.bus.topics import COORDINATOR_GROUP
from holdfast.coordinator.engine import OPEN_TASK_STATES, RUN_ENDS, RUN_TRANSITIONS, UNDOING
from holdfast.schemas.records import (
    Accepted,
    AgentPause,
    Cancelled,
    Event,
    EventType,
    Failed,
    FiringEntry,
    Marker,
    Parked,
    RunState,
    ScheduleEntry,
    SlotOffset,
    SourceJournal,
    StateDeletion,
    StateEntry,
    StepEntry,
    TaskRow,
    TaskState,
)
from holdfast.schemas.records import Submission as SubmissionRecord
from holdfast.testing.evidence import Evidence, Quiet, Submission
from holdfast.testing.history import Decoded, History, JournalEntry, place
from holdfast.testing.invariants.schedules import one_run_per_due_time
from holdfast.testing.invariants.verdict import Findings

__all__ = ["everything_settles", "one_end", "one_run_per_id"]

END_EVENTS = frozenset({EventType.RUN_SUCCEEDED, EventType.RUN_FAILED, EventType.RUN_CANCELLED})
ANSWERS = frozenset(
    {
        EventType.RUN_STARTED,
        EventType.RUN_REFUSED,
        EventType.RUN_REPEATED,
        EventType.RUN_CONFLICTED,
    }
)
NOTES = ANSWERS | {
    EventType.RESULT_IGNORED,
    EventType.COMMAND_REFUSED,
    EventType.COMMAND_ACCEPTED,
    EventType.SIGNAL_REFUSED,
}
"""Events that say something without changing anything."""
WAITING_FOR_PEOPLE = frozenset({RunState.WAITING, RunState.PAUSED})


def one_end(history: History, evidence: Evidence, found: Findings) -> None:
    """Each accepted submission reaches exactly one end, and nothing happens to it after that.

    Each submission on the topic gets exactly one answer (started, refused, repeated, conflicted);
    a run that was started has exactly one end, whose states follow the engine's table; after its
    end only notes follow. "Exactly" needs `Quiet`, before that it is "at most". A run that waits
    for people (waiting, paused) is open by right and counted apart. Each answered submission of
    the evidence must stand on the topic.
    """
    _answers(history, evidence, found)
    for run_id, events in history.events_of.items():
        _life_of_run(run_id, events, evidence, found)
    if not evidence.of(Submission):
        return
    submitted = {
        given.body.run_id
        for given in history.inputs
        if isinstance(given.body.body, SubmissionRecord)
    }
    whole = history.whole(history.topics.coordinator)
    for submission in evidence.of(Submission):
        if submission.answered:
            found.looked("answered submissions")
            if submission.run_id not in submitted:
                if not whole:
                    found.cannot("submissions may have been purged before they were recorded")
                else:
                    found.violated("was answered, and is not on the topic", submission.run_id)


def _answers(history: History, evidence: Evidence, found: Findings) -> None:
    answered: Counter[tuple[int, int]] = Counter()
    for event in history.events:
        cause = event.body.cause
        if event.body.type in ANSWERS and cause is not None:
            answered[cause.partition, cause.offset] += 1
    for given in history.inputs:
        if not isinstance(given.body.body, SubmissionRecord) or history.misplaced(given.received):
            continue
        found.looked("submissions")
        count = answered[given.received.partition, given.received.offset]
        if count > 1 or (count == 0 and evidence.quiet):
            found.violated(
                f"the submission of {given.body.run_id} has {count} answers", given.place
            )


def _life_of_run(
    run_id: str, events: Sequence[Decoded[Event]], evidence: Evidence, found: Findings
) -> None:
    state: RunState | None = None
    ends = 0
    for event in events:
        kind, row = event.body.type, event.body.run
        if kind is EventType.RUN_STARTED:
            state, ends = RunState.RUNNING, 0
            found.looked("runs")
            continue
        if kind in NOTES:
            continue
        if state is None:
            found.violated(f"{kind} of {run_id}, which was not started", event.place)
            return
        if ends:
            found.violated(f"{kind} of {run_id} after its end", event.place)
        ends += kind in END_EVENTS
        if row is not None and row.state is not state:
            if row.state not in RUN_TRANSITIONS[state]:
                found.violated(f"{run_id} went from {state} to {row.state}", event.place)
            state = row.state
    if state in WAITING_FOR_PEOPLE or (state is RunState.COMPENSATING and _stuck(events)):
        found.looked("runs that wait for people")
    elif state is not None and not ends and evidence.quiet:
        found.violated(f"{run_id} has no end; it is {state}", events[-1].place)


def _stuck(events: Sequence[Decoded[Event]]) -> bool:
    """Whether something that the run is to undo waits for people."""
    newest = {e.body.task.task_id: e.body.task.state for e in events if e.body.task is not None}
    return any(n.startswith(UNDOING) and s is TaskState.DEAD for n, s in newest.items())


def one_run_per_id(history: History, _evidence: Evidence, found: Findings) -> None:
    """There is one run per run id, however often it was submitted.

    One `run.started` per run id (the dedupe window, 7 days or 50,000 runs a slot, must be larger
    than the history); versions of the run's and its tasks' rows never go back, and no version
    says two things; every repeated answer has the input hash of the run, every conflicted one
    another. Each due time of a schedule is fired once.
    """
    hashes = {
        (given.received.partition, given.received.offset): given.body.body.input_hash
        for given in history.inputs
        if isinstance(given.body.body, SubmissionRecord)
    }
    for run_id, events in history.events_of.items():
        started: Decoded[Event] | None = None
        for event in events:
            body = event.body
            if body.type not in ANSWERS:
                continue
            found.looked("answers")
            if body.type is EventType.RUN_STARTED:
                if started is not None:
                    found.violated(f"{run_id} was started before, at {started.place}", event.place)
                started = event
            elif started is not None and body.cause is not None and started.body.run is not None:
                given = hashes.get((body.cause.partition, body.cause.offset))
                same = given == started.body.run.input_hash
                if given is not None and same is (body.type is EventType.RUN_CONFLICTED):
                    found.violated(f"{body.type} for a submission of hash {given}", event.place)
        _versions(run_id, events, found)
    one_run_per_due_time(history, found)


def _versions(run_id: str, events: Sequence[Decoded[Event]], found: Findings) -> None:
    known: dict[str, tuple[int, str]] = {}
    for event in events:
        body = event.body
        row = body.task if body.task is not None else body.run
        if row is None:
            continue
        name = row.task_id if isinstance(row, TaskRow) else ""
        found.looked("rows")
        version, state = known.get(name, (-1, ""))
        if row.version < version or (row.version == version and row.state != state):
            found.violated(
                f"{run_id} {name or 'itself'}: version {row.version} ({row.state}) after "
                f"version {version} ({state})",
                event.place,
            )
        known[name] = (row.version, row.state)


# --- I9 ----------------------------------------------------------------------------------------


def everything_settles(history: History, evidence: Evidence, found: Findings) -> None:
    """After the last fault nothing hangs: no open work, no lag, no open transaction.

    Needs `Quiet`. No run and no task is open (those that wait for people apart), every group has
    consumed its topics to the end, no open transaction and no unstable group is reported, and the
    journals hold only what open runs still need: no accepted task, no step, no failed attempt, no
    parked record, no run or task of a run that has ended.
    """
    if not evidence.quiet:
        found.cannot("no Quiet row: nobody said that everything should have settled")
        return
    for row in evidence.of(Quiet):
        found.looked("reports of the broker")
        if row.open_transactions:
            found.violated(f"{row.open_transactions} transactions are open", f"at {row.at_ms} ms")
        for group in row.unstable_groups:
            found.violated("the group is not stable", group)
    ended = _open_work(history, found)
    for group in history.groups:
        _lag(history, group, found)
        newest = _newest(history.journal(group))
        _left_over(group, newest, ended, found)


def _open_work(history: History, found: Findings) -> dict[str, bool]:
    """Report open runs and tasks; return whether each run has ended."""
    ended: dict[str, bool] = {}
    for run_id, events in history.events_of.items():
        state: RunState | None = None
        tasks: dict[str, Decoded[Event]] = {}
        for event in events:
            if event.body.run is not None and event.body.type not in NOTES - {
                EventType.RUN_STARTED
            }:
                state = event.body.run.state
            if event.body.task is not None:
                tasks[event.body.task.task_id] = event
        if state is None:
            continue
        found.looked("runs")
        ended[run_id] = state in RUN_ENDS
        if state is RunState.COMPENSATING and _stuck(events):
            found.looked("runs that wait for people")
        elif state not in RUN_ENDS and state not in WAITING_FOR_PEOPLE:
            found.violated(f"{run_id} is still {state}", events[-1].place)
        for task_id, event in tasks.items():
            found.looked("tasks")
            task = event.body.task
            if task is None or task.state not in OPEN_TASK_STATES:
                continue
            # A run that waits for people holds maps open; one ended by force leaves rows as they
            # were.
            if state in WAITING_FOR_PEOPLE or state in RUN_ENDS:
                continue
            found.violated(f"{run_id}/{task_id} is still {task.state}", event.place)
    return ended


def _lag(history: History, group: str, found: Findings) -> None:
    offsets = _journaled_offsets(history.journal(group))
    for topic in history.consumed_by(group):
        for partition, log in history.log(topic):
            found.looked("consumed partitions")
            at = offsets.get(partition, 0)
            behind = [received for received in log if received.offset >= at]
            if behind:
                found.violated(
                    f"group {group!r} stands at {at}: {len(behind)} records are not consumed",
                    place(behind[0]),
                )


def _journaled_offsets(journal: dict[int, list[JournalEntry]]) -> dict[TopicPartition, int]:
    found: dict[TopicPartition, int] = {}
    for number, entries in journal.items():
        for entry in reversed(entries):
            if isinstance(entry.body, SlotOffset):
                for consumed in entry.body.offsets:
                    found[TopicPartition(consumed.topic, number)] = consumed.offset
                break
    return found


def _newest(journal: dict[int, list[JournalEntry]]) -> Iterator[JournalEntry]:
    for entries in journal.values():
        newest = {entry.key: entry for entry in entries}
        yield from (entry for entry in newest.values() if entry.body is not None)


def _left_over(
    group: str, newest: Iterator[JournalEntry], ended: dict[str, bool], found: Findings
) -> None:
    for entry in newest:
        if isinstance(entry.body, SlotOffset | Marker | SourceJournal | StateEntry | AgentPause):
            continue
        found.looked("journal keys that are left")
        if isinstance(entry.body, ScheduleEntry):
            continue
        parts = entry.key.split("/", 2)
        run_id = parts[1] if group == COORDINATOR_GROUP and len(parts) > 1 else parts[0]
        if isinstance(entry.body, Accepted | Parked | StateDeletion):
            found.violated(f"journal key {entry.key} of {group!r} is left", entry.place)
        elif isinstance(entry.body, Cancelled):
            found.looked("cancels whose task has not come")
        elif isinstance(entry.body, FiringEntry):
            if ended.get(entry.body.firing.run_id, True):
                found.violated(f"{entry.key} is left of a run that has ended", entry.place)
        elif isinstance(entry.body, Failed | StepEntry):
            if ended.get(run_id, True):
                found.violated(f"{entry.key} of {group!r} was never released", entry.place)
        elif ended.get(run_id, True):
            found.violated(f"{entry.key} is left of a run that has ended", entry.place)
