"""The same decisions, taken again: I3, I11."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from weakref import WeakKeyDictionary

from holdfast.bus.topics import COORDINATOR_GROUP
from holdfast.coordinator.engine import CLOSED_KIND, Value, closed_key
from holdfast.schemas.codec import decode
from holdfast.schemas.records import (
    Accepted,
    AskEntry,
    ControlEnvelope,
    DeadLetter,
    Failed,
    ListChunk,
    Marker,
    Parked,
    RunEntry,
    SchemaEntry,
    SignalEntry,
    SlotOffset,
    TaskEntry,
    TaskEnvelope,
)
from holdfast.testing.evidence import Evidence, StateHash
from holdfast.testing.history import Attempt, History, JournalEntry
from holdfast.testing.invariants.rerun import Rerun, Rerunner
from holdfast.testing.invariants.schedules import same_schedules
from holdfast.testing.invariants.verdict import Findings

__all__ = ["same_decisions", "same_state", "state_digest"]

OF_RUNS = (RunEntry, TaskEntry, ListChunk, AskEntry, SignalEntry)

_RERUNS: WeakKeyDictionary[History, dict[str, Rerun]] = WeakKeyDictionary()
"""I3 and I11 look at the same reruns."""


def same_decisions(history: History, evidence: Evidence, found: Findings) -> None:
    """What is on the log leads to the same decisions again, byte for byte.

    Coordinators: for each run the pure engine is given the causes that its events name, in the
    order of the events and at their times, and must emit those very events, tasks, words to
    agents and dead letters; each journaled value of the run must be one that the rerun passed
    through, in order. What left no event (a queue time-out, a retry due in a pause) is tried where
    the next event does not fit without it. Runs with blobs that are not in `History.blobs`, and
    events before a gap, are not judged. Agents: what a journal, read back, holds open is exactly
    what was accepted and not answered (`Quiet`, or known commits).
    """
    topics = history.topics
    needed = (topics.coordinator, topics.events, topics.schemas)
    if not history.whole(*needed):
        found.cannot("records of the coordinator's topics are missing: its decisions")
    else:
        for run_id, rerun in reruns(history).items():
            if rerun.unjudged:
                found.cannot(f"{run_id}: {rerun.unjudged}")
            if rerun.problem is not None:
                found.violated(*rerun.problem)
            found.looked("runs")
            found.looked("inputs", rerun.inputs)
            found.looked("events", rerun.events)
        _effects(history, found)
        _journaled(history, found)
    if evidence.quiet or history.commits is not None:
        _open_attempts(history, found)


def reruns(history: History) -> dict[str, Rerun]:
    """Return every run's rerun; made once for a history."""
    known = _RERUNS.get(history)
    if known is None:
        schemas = {
            entry.schema_id: entry.schema
            for _, log in history.log(history.topics.schemas)
            for received in log
            if received.value is not None
            for entry in (decode(SchemaEntry, received.value),)
        }
        rerunner = Rerunner(history, schemas, _events_from(history))
        known = {run_id: rerunner.run(run_id) for run_id in history.events_of}
        _RERUNS[history] = known
    return known


def _events_from(history: History) -> dict[str, int]:
    """Return, by run id or name of its marker, the bound that the service gave to the engine."""
    found: dict[str, int] = {}
    for entries in _coordinator_journal(history):
        for entry in entries:
            if isinstance(entry.body, RunEntry):
                found.setdefault(entry.body.row.run_id, entry.body.events_from)
            elif isinstance(entry.body, Marker):
                found.setdefault(entry.key.partition("/")[2], entry.body.events_from)
    return found


def _coordinator_journal(history: History) -> Iterable[Sequence[JournalEntry]]:
    if COORDINATOR_GROUP not in history.groups:
        return ()
    return history.journal(COORDINATOR_GROUP).values()


def _effects(history: History, found: Findings) -> None:
    """What the reruns sent must be what stands on the topics."""
    agents = history.agents
    tasks_whole = history.whole(*(t for a in agents for t in history.consumed_by(a)))
    letters_whole = history.whole(history.topics.dead_letters)
    letters = {letter.body.dead_letter_id: letter.body for letter in history.dead_letters}
    control = {_word(c.body): c.body for agent in agents for c in history.control(agent)}
    for rerun in reruns(history).values():
        if rerun.problem is not None or rerun.unjudged:
            continue
        for agent, sent, where in rerun.sent:
            if isinstance(sent, DeadLetter):
                if letters_whole and letters.get(sent.dead_letter_id) != sent and sent.attempt:
                    found.violated(f"dead letter {sent.dead_letter_id} is not as decided", where)
                found.looked("dead letters")
            elif not tasks_whole:
                found.cannot("records of agents' topics are missing")
            elif isinstance(sent, TaskEnvelope):
                _same_task(history, agent, sent, where, found)
            else:
                found.looked("words about tasks")
                if _word(sent) not in control:
                    found.violated(f"{_word(sent)} was decided and is not on the topic", where)


def _word(control: ControlEnvelope) -> tuple[str, str, int, str, str]:
    """Return what tells one word from another."""
    reply = "" if control.reply is None else repr(control.reply)
    return control.run_id, control.task_id, control.attempt, control.action, reply


def _same_task(
    history: History, agent: str, sent: TaskEnvelope, where: str, found: Findings
) -> None:
    found.looked("task records")
    attempt = Attempt(sent.run_id, sent.task_id, sent.attempt)
    known = history.attempts.get(attempt, [])
    if not any(to == agent and task.body == sent for to, task in known):
        found.violated(
            f"{attempt} for {agent!r} is not on its topic as decided"
            + (f": {known[0][1].place} differs" if known else ""),
            where,
        )


def _journaled(history: History, found: Findings) -> None:
    """Each journaled value of a run is one that its rerun passed through, in that order."""
    known = reruns(history)
    for entries in _coordinator_journal(history):
        reached: dict[str, int] = defaultdict(int)
        for entry in entries:
            if not isinstance(entry.body, OF_RUNS):
                continue
            run_id = entry.key.split("/", 2)[1]
            rerun = known.get(run_id)
            if rerun is None or rerun.problem is not None or rerun.unjudged:
                continue
            found.looked("journaled values")
            at = _reached(rerun.passed.get(entry.key, []), reached[entry.key], entry.body)
            if at is None:
                found.violated(f"{entry.key} holds what the engine does not decide", entry.place)
            else:
                reached[entry.key] = at


def _reached(passed: Sequence[Value], start: int, journaled: object) -> int | None:
    """Return where a rerun passed through a journaled value, from `start` on; None: nowhere."""
    for at in range(start, len(passed)):
        if passed[at] == journaled or _timer_came_first(passed, at, journaled):
            return at
    return None


def _timer_came_first(passed: Sequence[Value], at: int, journaled: object) -> bool:
    """Tell whether a value is `passed[at]`, but for a timer that the rerun lets pass later.

    It lets a timer without an event pass when an event needs it. Items of the task that are taken
    in between need nothing: how many there were stands in no row.
    """
    mine = passed[at]
    if not isinstance(mine, TaskEntry) or not isinstance(journaled, TaskEntry):
        return False
    if mine.emitted != journaled.emitted or mine.timer_ms is None:
        return False
    return any(
        isinstance(later, TaskEntry)
        and later.emitted > journaled.emitted
        and replace(later, emitted=journaled.emitted) == journaled
        for later in passed[at + 1 :]
    )


def _open_attempts(history: History, found: Findings) -> None:
    if not history.whole(history.topics.coordinator):
        found.cannot("results are missing: what is open in agents' journals")
        return
    for agent in history.agents:
        if agent not in history.groups:
            continue
        for entries in history.journal(agent).values():
            opened: dict[str, JournalEntry] = {}
            for entry in entries:
                body = entry.body
                before = opened.get(entry.key)
                if isinstance(body, Accepted):
                    opened[entry.key] = entry
                    if before is None or _attempt(before) == _attempt(entry):
                        continue
                elif not (before is not None and (body is None or isinstance(body, Failed))):
                    continue
                else:
                    del opened[entry.key]
                found.looked("closed attempts")
                assert before is not None
                if _attempt(before) not in history.results:
                    found.violated(
                        f"{_attempt(before)} was dropped from the journal without a result",
                        entry.place,
                    )
            for entry in opened.values():
                found.looked("open attempts")
                if _attempt(entry) in history.results:
                    found.violated(
                        f"{_attempt(entry)} is open in the journal, and was answered", entry.place
                    )


def _attempt(entry: JournalEntry) -> Attempt:
    assert isinstance(entry.body, Accepted)
    envelope = entry.body.envelope
    return Attempt(envelope.run_id, envelope.task_id, envelope.attempt)


# --- I11 ---------------------------------------------------------------------------------------


def same_state(history: History, evidence: Evidence, found: Findings) -> None:
    """A coordinator's state, rebuilt from the log, equals the state before the crash.

    All `StateHash` rows of one slot and offset are equal, and equal to the hash of the state that
    the history's journal gives up to that offset. At the end of a settled history (`Quiet`, or
    known commits) the state from the journal equals, value by value, the state that the pure
    engine reaches from inputs and events alone (I3); no closed run was left without a marker, and
    no marker went before its time.
    """
    if COORDINATOR_GROUP not in history.groups:
        return
    if not history.whole(history.topics.journal(COORDINATOR_GROUP)):
        found.cannot("records of the coordinator's journal are missing")
        return
    by_slot: dict[int, list[StateHash]] = defaultdict(list)
    for row in evidence.of(StateHash):
        if row.group == history.topics.group(COORDINATOR_GROUP):
            by_slot[row.partition].append(row)
    rebuilt: dict[str, JournalEntry] = {}
    marked: set[str] = set()
    for number, entries in history.journal(COORDINATOR_GROUP).items():
        marked |= _markers(history, entries, found)
        newest: dict[str, JournalEntry] = {}
        hashes = sorted(by_slot.get(number, ()), key=lambda row: row.offset)
        at = 0
        for entry in entries:
            while at < len(hashes) and hashes[at].offset <= entry.received.offset:
                _same_hash(hashes[at], newest, found)
                at += 1
            if entry.body is None:
                newest.pop(entry.key, None)
            elif not isinstance(entry.body, SlotOffset | Parked):
                newest[entry.key] = entry
        for row in hashes[at:]:
            _same_hash(row, newest, found)
        rebuilt |= newest
    if not (evidence.quiet or history.commits is not None):
        found.cannot("not settled: the journal and the events were read at different moments")
    elif not history.whole(history.topics.coordinator, history.topics.events):
        found.cannot("records of the coordinator's topics are missing")
    else:
        _same_as_rerun(history, rebuilt, marked, found)


def _markers(history: History, entries: Sequence[JournalEntry], found: Findings) -> set[str]:
    """Return the keys of all markers there were; none may go before its time."""
    limits, held, seen = history.limits, dict[str, Marker](), set[str]()
    for entry in entries:
        if isinstance(entry.body, Marker):
            held[entry.key] = entry.body
            seen.add(entry.key)
            continue
        marker = held.get(entry.key)
        if entry.body is not None or marker is None:
            continue
        found.looked("markers removed")
        kept_ms = entry.received.timestamp_ms - marker.finished_ms
        if len(held) <= limits.markers_max and kept_ms < limits.marker_age_ms:
            found.violated(f"{entry.key} was removed after {kept_ms} ms", entry.place)
        del held[entry.key]
    return seen


def state_digest(journal: Mapping[str, JournalEntry]) -> str:
    """Return what `State.digest` gives for the state that a journal holds (newest by key).

    From the very bytes of the journal: so it also tells that a value, once decoded, is encoded
    again as it was.
    """
    total = hashlib.sha256()
    for key, entry in sorted(journal.items()):
        total.update(key.encode() + b"\0" + (entry.received.value or b""))
    return total.hexdigest()


def _same_hash(row: StateHash, journal: Mapping[str, JournalEntry], found: Findings) -> None:
    found.looked("hashes")
    digest = state_digest(journal)
    if digest != row.digest:
        found.violated(
            f"the state {row.moment} was {row.digest}, its journal gives {digest}",
            f"slot {row.group}/{row.partition} at {row.offset}",
        )


def _same_as_rerun(
    history: History, rebuilt: Mapping[str, JournalEntry], marked: set[str], found: Findings
) -> None:
    journaled: dict[str, dict[str, JournalEntry]] = defaultdict(dict)
    for key, entry in rebuilt.items():
        kind, run_id, name = (*key.split("/", 2), "", "")[:3]
        if kind == "run":
            journaled[run_id][name] = entry
    same_schedules(history, found)
    for run_id, rerun in reruns(history).items():
        if rerun.problem is not None or rerun.unjudged:
            continue
        found.looked("runs")
        kept = journaled.get(run_id, {})
        reached = rerun.state.entity(f"run/{run_id}").records
        for name in sorted(kept.keys() | reached.keys()):
            found.looked("values")
            theirs = kept[name].body if name in kept else None
            if theirs != reached.get(name) and not rerun.settles_to(name, theirs):
                found.violated(
                    f"run/{run_id}/{name}: the journal holds {_brief(theirs)}, the events lead to "
                    f"{_brief(reached.get(name))}",
                    kept[name].place if name in kept else run_id,
                )
        if rerun.closed and f"{CLOSED_KIND}/{closed_key(run_id)}" not in marked:
            found.violated("the run is closed without a marker", run_id)


def _brief(value: object) -> str:
    row = getattr(value, "row", None)
    if row is None:
        return "nothing" if value is None else type(value).__name__
    return f"version {row.version} ({row.state})"
