"""How far each slot has read, what that must have led to, and who wrote it: I4, I6."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from holdfast.bus.port import Position, Received, Slot, TopicPartition
from holdfast.bus.topics import COORDINATOR_GROUP, SOURCE_PREFIX
from holdfast.schemas.records import (
    Accepted,
    ControlAction,
    Parked,
    SlotOffset,
    TaskProgress,
)
from holdfast.testing.evidence import Evidence
from holdfast.testing.history import Attempt, Decoded, History, JournalEntry, place
from holdfast.testing.invariants.sources import runs_of_a_source, source_submissions
from holdfast.testing.invariants.verdict import Findings

__all__ = ["offsets_and_outputs", "one_writer"]


def offsets_and_outputs(history: History, evidence: Evidence, found: Findings) -> None:
    """Offsets have moved if and only if the outputs are visible, never one alone.

    Each record that a group's offset has passed has its outcome on the bus: a task its result or
    its acceptance, a record of the coordinator's topic an event that names it (or it is parked;
    progress may have none), an unreadable one its dead letter, a misplaced one its copy; a record
    of a source's topic may have one submission, and each of those has one word of its end. A result
    is never visible while its task's record lies at or above the offset. The slot's journaled
    offset equals the group's committed one. Where commits are known, outcome and offset stand in
    one and the same commit; else the second half needs `Quiet`.
    """
    settled = evidence.quiet or history.commits is not None
    letters = {
        Position(source.topic, source.partition, source.offset): letter.received.position
        for letter in history.dead_letters
        if (source := letter.body.source) is not None
    }
    for group in history.groups:
        if group.startswith(SOURCE_PREFIX):
            runs_of_a_source(history, group, settled=evidence.quiet, found=found)
        journal = history.journal(group)
        for topic in history.consumed_by(group):
            outcomes = _outcomes(history, group, topic, journal, letters, evidence)
            if outcomes is None:
                found.cannot(f"records of {topic} or of what it leads to are missing")
                continue
            copies = _copies(history, topic)
            for partition, log in history.log(topic):
                trail = _trail(topic, journal.get(partition.partition, ()))
                passing = _Passing(history, group, partition, trail, settled)
                passing.compare_offsets(found)
                passing.check(log, outcomes, copies, found)


@dataclass(slots=True)
class _Outcome:
    """Where what became of a record stands. `positions` empty: there is none.

    `exact`: it is written in the commit that passes the record, and not before.
    """

    positions: list[Position] = field(default_factory=list)
    exact: bool = True
    needed: bool = True


_Outcomes = dict[tuple[int, int], _Outcome]
"""By partition and offset of the record."""


def _outcomes(
    history: History,
    group: str,
    topic: str,
    journal: Mapping[int, Sequence[JournalEntry]],
    letters: Mapping[Position, Position],
    evidence: Evidence,
) -> _Outcomes | None:
    topics = history.topics
    journal_topic = topics.journal(group)
    if group == COORDINATOR_GROUP:
        if not history.whole(topic, topics.events, journal_topic, topics.dead_letters):
            return None
        found = _of_inputs(history, journal)
    elif not history.whole(topic, topics.coordinator, journal_topic, topics.dead_letters):
        return None
    elif group.startswith(SOURCE_PREFIX):
        found = _of_source(history, group, topic)
    elif topic == topics.tasks(group):
        found = _of_tasks(history, group, journal)
    else:
        found = _of_control(history, group, settled=evidence.quiet)
    for where, letter in letters.items():
        if where.topic == topic:
            found.setdefault((where.partition, where.offset), _Outcome()).positions.append(letter)
    return found


def _of_inputs(history: History, journal: Mapping[int, Sequence[JournalEntry]]) -> _Outcomes:
    found: _Outcomes = {}
    for event in history.events:
        if (cause := event.body.cause) is not None:
            outcome = found.setdefault((cause.partition, cause.offset), _Outcome())
            outcome.positions.append(event.received.position)
    for number, entries in journal.items():
        for entry in entries:
            if isinstance(entry.body, Parked):
                outcome = found.setdefault((number, entry.body.offset), _Outcome())
                outcome.positions.append(entry.received.position)
    for given in history.inputs:
        if isinstance(given.body.body, TaskProgress):
            at = (given.received.partition, given.received.offset)
            found.setdefault(at, _Outcome()).needed = False
    return found


def _of_source(history: History, group: str, topic: str) -> _Outcomes:
    """A record may be passed over, and a word of an end changes but a count: none is needed."""
    found: _Outcomes = {}
    for partition, log in history.log(topic):
        for received in log:
            found[partition.partition, received.offset] = _Outcome(needed=False)
    if topic != history.topics.control(group):
        for at, positions in source_submissions(history, group).items():
            found[at] = _Outcome(positions)
    return found


def _of_tasks(
    history: History, agent: str, journal: Mapping[int, Sequence[JournalEntry]]
) -> _Outcomes:
    found: _Outcomes = {}
    newest: dict[tuple[str, str], int] = {}
    for attempt in history.results:
        name = (attempt.run_id, attempt.task_id)
        newest[name] = max(newest.get(name, 0), attempt.attempt)
    seen: set[Attempt] = set()
    for task in history.tasks(agent):
        if history.misplaced(task.received):
            continue
        body = task.body
        attempt = Attempt(body.run_id, body.task_id, body.attempt)
        results = history.results.get(attempt, [])
        outcome = _Outcome([result.received.position for result in results])
        # A cancel is answered before its task comes; the second copy of a record is dropped.
        outcome.exact = attempt not in history.cancels and attempt not in seen
        later = newest.get((body.run_id, body.task_id), 0) > body.attempt
        outcome.needed = attempt not in seen and not later
        seen.add(attempt)
        found[task.received.partition, task.received.offset] = outcome
    for number, entries in journal.items():
        for entry in entries:
            if isinstance(entry.body, Accepted):
                kept = found.setdefault((number, entry.body.input_offset), _Outcome())
                kept.positions.append(entry.received.position)
    return found


def _of_control(history: History, agent: str, *, settled: bool) -> _Outcomes:
    found: _Outcomes = {}
    newest: dict[tuple[str, str], int] = {}
    for attempt in history.results:
        name = (attempt.run_id, attempt.task_id)
        newest[name] = max(newest.get(name, 0), attempt.attempt)
    for control in history.control(agent):
        body = control.body
        answered = newest.get((body.run_id, body.task_id), 0) >= body.attempt
        cancel = body.action is ControlAction.CANCEL
        outcome = _Outcome(exact=False, needed=cancel and settled and not answered)
        found[control.received.partition, control.received.offset] = outcome
    return found


Copies = dict[tuple[bytes | None, bytes | None], list[Position]]


def _copies(history: History, topic: str) -> Copies:
    """Return where the records that were forwarded have gone, by key and value."""
    logs = history.log(topic)
    wanted = {
        (received.key, received.value)
        for _, log in logs
        for received in log
        if history.misplaced(received)
    }
    found: Copies = {}
    if wanted:
        for _, log in logs:
            for received in log:
                name = (received.key, received.value)
                if name in wanted and not history.misplaced(received):
                    found.setdefault(name, []).append(received.position)
    return found


def _trail(topic: str, entries: Iterable[JournalEntry]) -> list[tuple[int, Received]]:
    """Return how the slot's offset of a topic has moved: each new value, and where it was said."""
    trail: list[tuple[int, Received]] = []
    for entry in entries:
        if isinstance(entry.body, SlotOffset):
            for consumed in entry.body.offsets:
                if consumed.topic == topic and (not trail or consumed.offset > trail[-1][0]):
                    trail.append((consumed.offset, entry.received))
    return trail


@dataclass(slots=True)
class _Passing:
    """One partition of one topic, and how its group's slot passes its records."""

    history: History
    group: str
    partition: TopicPartition
    trail: list[tuple[int, Received]]
    settled: bool

    @property
    def committed(self) -> int | None:
        offsets = self.history.offsets.get(self.history.topics.group(self.group), {})
        return offsets.get(self.partition)

    def compare_offsets(self, found: Findings) -> None:
        """The offset in the journal, and the one that the broker keeps for the group."""
        committed = self.committed
        journaled = self.trail[-1][0] if self.trail else None
        found.looked("slots")
        where = f"{self.partition.topic}/{self.partition.partition}"
        if committed is None:
            if len(self.trail) > 1 and self.settled:
                found.violated(f"the journal stands at {journaled}, nothing is committed", where)
        elif (
            journaled is None or committed > journaled or (committed != journaled and self.settled)
        ):
            found.violated(f"{committed} is committed, the journal stands at {journaled}", where)

    def check(
        self,
        log: Sequence[Received],
        outcomes: _Outcomes,
        copies: Copies,
        found: Findings,
    ) -> None:
        """Look at each record of the partition."""
        last = self.trail[-1][0] if self.trail else 0
        # The journal was read at its own moment: before all is quiet only what was committed
        # before the first record was asked for is sure to have its outcome in the history.
        bound = last if self.settled else (self.committed or 0)
        at = 0
        for received in log:
            outcome = outcomes.get((received.partition, received.offset))
            if outcome is None or self.history.misplaced(received):
                outcome = self._kept_otherwise(received, outcome, copies)
            if received.offset >= bound:
                if self.settled and outcome.exact and outcome.positions:
                    found.violated(
                        f"its outcome is visible ({_told(outcome.positions)}), the offset is "
                        f"{bound}",
                        place(received),
                    )
                continue
            found.looked("consumed records")
            while at < len(self.trail) and self.trail[at][0] <= received.offset:
                at += 1
            self._compare(received, outcome, self.trail[at][1], found)

    def _kept_otherwise(
        self, received: Received, known: _Outcome | None, copies: Copies
    ) -> _Outcome:
        if self.history.misplaced(received):
            return _Outcome(copies.get((received.key, received.value), []), exact=False)
        return known or _Outcome()

    def _compare(
        self, received: Received, outcome: _Outcome, passed: Received, found: Findings
    ) -> None:
        if not outcome.positions:
            if outcome.needed:
                found.violated(
                    f"the offset has passed it at {place(passed)}; it has no outcome",
                    place(received),
                )
            return
        commits = self.history.commit_at
        if not commits:
            same_log = [p.offset for p in outcome.positions if p.topic == passed.topic]
            if len(same_log) == len(outcome.positions) and min(same_log) > passed.offset:
                found.violated(
                    f"it was journaled after the offset had passed it at {place(passed)}",
                    place(received),
                )
            return
        found.looked("records by commit")
        moved = commits.get(passed.position, -1)
        seen = min(commits.get(position, -1) for position in outcome.positions)
        if seen > moved:
            found.violated(
                f"commit {moved} has passed it, its outcome came with commit {seen}",
                place(received),
            )
        elif seen < moved and outcome.exact:
            found.violated(
                f"its outcome came with commit {seen}, commit {moved} has passed it",
                place(received),
            )


def _told(positions: Sequence[Position]) -> str:
    return ", ".join(f"{p.topic}/{p.partition}/{p.offset}" for p in positions[:3])


# --- I6 ----------------------------------------------------------------------------------------


def one_writer(history: History, evidence: Evidence, found: Findings) -> None:
    """Each slot has one writer at a time, and nothing of a fenced one is committed.

    The `offset` records of a slot are numbered 1, 2, 3 ... without a hole or a repetition: so each
    writer had read what the one before it wrote, whose it ever was, and none came in between. Its
    offsets never go back. What stands in a journal belongs to a numbered commit. Where commits are
    known: each holds one `offset` record, behind all else that it writes to its journal; epochs
    never go back; an epoch has one process; the offsets that it moves are those it journals.
    """
    settled = evidence.quiet or history.commits is not None
    for group in history.groups:
        whole = history.whole(history.topics.journal(group))
        if not whole:
            found.cannot(f"records of {group!r}'s journal are missing: holes in its numbers")
        for number, entries in history.journal(group).items():
            slot = TopicPartition(history.topics.journal(group), number)
            _numbers(group, number, entries, (whole, slot in history.begins), found)
            if settled and entries and not isinstance(entries[-1].body, SlotOffset):
                found.violated("a journal record stands in no numbered commit", entries[-1].place)
    if history.commits is not None:
        _commits(history, found)


def _numbers(
    group: str,
    number: int,
    entries: Sequence[JournalEntry],
    known: tuple[bool, bool],
    found: Findings,
) -> None:
    """`known`: whether nothing is missing; whether the first number stands for those before it."""
    whole, begun = known
    newest: SlotOffset | None = None
    for entry in entries:
        body = entry.body
        if not isinstance(body, SlotOffset):
            continue
        found.looked("commits")
        before = newest.commit_number if newest is not None else 0
        expected = body.commit_number if begun and newest is None else before + 1
        if body.commit_number != expected and (whole or body.commit_number < expected):
            found.violated(
                f"slot {group}/{number}: commit {body.commit_number} of {body.instance!r} "
                f"(process {body.process_id}) stands behind commit {before} of "
                f"{'nobody' if newest is None else newest.process_id}",
                entry.place,
            )
        if newest is not None:
            found.looked("changes of owner", newest.process_id != body.process_id)
            passed = {consumed.topic: consumed.offset for consumed in newest.offsets}
            for consumed in body.offsets:
                if consumed.offset < passed.get(consumed.topic, 0):
                    found.violated(
                        f"slot {group}/{number}: its offset of {consumed.topic} went back to "
                        f"{consumed.offset}",
                        entry.place,
                    )
        newest = body


def _commits(history: History, found: Findings) -> None:
    said: dict[Position, Decoded[SlotOffset]] = {}
    journals: dict[Slot, str] = {}
    for group in history.groups:
        for number, entries in history.journal(group).items():
            journals[Slot(history.topics.group(group), number)] = history.topics.journal(group)
            for entry in entries:
                if isinstance(entry.body, SlotOffset):
                    said[entry.received.position] = Decoded(entry.received, entry.body)
    epochs: dict[Slot, int] = {}
    processes: dict[tuple[Slot, int], str] = {}
    for number, commit in enumerate(history.commits or ()):
        topic = journals.get(commit.slot)
        if topic is None:
            continue  # a slot without a journal: the one of the schemas
        found.looked("commits with their epoch")
        where = f"commit {number} of slot {commit.slot.group}/{commit.slot.partition}"
        if commit.epoch < epochs.get(commit.slot, commit.epoch):
            found.violated(f"epoch {commit.epoch} after epoch {epochs[commit.slot]}", where)
        epochs[commit.slot] = commit.epoch
        mine = [p for p in commit.records if p.topic == topic]
        own = [said[p] for p in mine if p in said]
        if len(own) != 1 or mine[-1] != own[0].received.position:
            found.violated(f"it holds {len(own)} offset records, or not as its last", where)
            continue
        process = processes.setdefault((commit.slot, commit.epoch), own[0].body.process_id)
        if process != own[0].body.process_id:
            found.violated(f"epoch {commit.epoch} is used by two processes", where)
        journaled = {consumed.topic: consumed.offset for consumed in own[0].body.offsets}
        for partition, offset in commit.offsets.items():
            if journaled.get(partition.topic) != offset:
                found.violated(
                    f"it moves {partition.topic} to {offset}, and journals "
                    f"{journaled.get(partition.topic)}",
                    where,
                )
