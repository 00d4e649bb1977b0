"""What agents keep under order keys: I14."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from holdfast.bus.topics import COORDINATOR_GROUP
from holdfast.schemas.records import EventType, Outcome, StateDeletion, StateEntry
from holdfast.schemas.state_keys import order_record_key, parse_state_key
from holdfast.testing.evidence import Evidence
from holdfast.testing.history import Attempt, History, JournalEntry
from holdfast.testing.invariants.verdict import Findings

__all__ = ["state_follows_successes"]


def state_follows_successes(history: History, evidence: Evidence, found: Findings) -> None:
    """What agents keep under order keys was written by successes and deletions, in their commits.

    Each value names an attempt that succeeded, of a task of that order key; it is the only one of
    its attempt and name, and stands in the slot of the key. Where commits are known: in the very
    commit of that success; a value is removed only in the commit of a success or of a deletion.
    Each deletion that an agent has told of has one event, once all is quiet.
    """
    if not history.whole(history.topics.coordinator):
        found.cannot("results are missing: which attempts succeeded")
        return
    moved = _commits(history)
    for agent in history.agents:
        if agent not in history.groups:
            continue
        for entries in history.journal(agent).values():
            _slot(history, agent, entries, moved, found)
    _deletions(history, evidence, found)


_Moved = dict[int, tuple[set[Attempt], bool]]
"""By commit: the attempts whose success it holds, and whether it holds a deletion."""


def _commits(history: History) -> _Moved:
    moved: defaultdict[int, tuple[set[Attempt], bool]] = defaultdict(lambda: (set(), False))
    for attempt, results in history.results.items():
        for result in results:
            number = history.commit_at.get(result.received.position)
            if number is not None and result.body.outcome is Outcome.SUCCEEDED:
                moved[number][0].add(attempt)
    for given in history.inputs:
        number = history.commit_at.get(given.received.position)
        if number is not None and isinstance(given.body.body, StateDeletion):
            moved[number] = (moved[number][0], True)
    return moved


def _slot(
    history: History, agent: str, entries: Sequence[JournalEntry], moved: _Moved, found: Findings
) -> None:
    written: set[tuple[Attempt, str]] = set()
    for entry in entries:
        where = parse_state_key(entry.key)
        if where is None:
            continue
        found.looked("values written and removed")
        key = order_record_key(where[0])
        if history.misplaced(entry.received._replace(key=key)):
            found.violated(f"{entry.key} of {agent!r} stands in another slot", entry.place)
        number = history.commit_at.get(entry.received.position)
        commit = None if history.commits is None or number is None else moved.get(number)
        if isinstance(entry.body, StateEntry):
            attempt = _attempt(entry.body)
            _value(history, agent, attempt, where[0], entry, found)
            if (attempt, entry.key) in written:
                found.violated(f"{attempt} wrote {entry.key} twice", entry.place)
            written.add((attempt, entry.key))
            if number is not None and (commit is None or attempt not in commit[0]):
                found.violated(f"{entry.key}: not in the commit of {attempt}", entry.place)
        elif number is not None and commit is None:
            found.violated(f"{entry.key} was removed in a commit that ends nothing", entry.place)


def _value(
    history: History,
    agent: str,
    attempt: Attempt,
    order_key: str,
    entry: JournalEntry,
    found: Findings,
) -> None:
    ends = history.results.get(attempt, [])
    if not any(end.body.outcome is Outcome.SUCCEEDED for end in ends):
        found.violated(f"{entry.key} was written by {attempt}, which did not succeed", entry.place)
    tasks = history.attempts.get(attempt, [])
    if tasks and not any(by == agent and t.body.order_key == order_key for by, t in tasks):
        found.violated(f"{entry.key} was written by {attempt}, of another order key", entry.place)


def _deletions(history: History, evidence: Evidence, found: Findings) -> None:
    told: dict[str, int] = defaultdict(int)
    for event in history.events:
        if event.body.type is EventType.STATE_DELETED and event.body.deletion is not None:
            told[event.body.deletion.deletion_id] += 1
    if not (evidence.quiet and history.whole(history.topics.events)):
        return
    if COORDINATOR_GROUP not in history.groups:
        return
    done: dict[str, int] = defaultdict(int)
    places: dict[str, str] = {}
    for given in history.inputs:
        body = given.body.body
        if isinstance(body, StateDeletion) and not history.misplaced(given.received):
            done[body.deletion_id] += 1
            places[body.deletion_id] = given.place
    for deletion_id, count in done.items():
        found.looked("deletions")
        if told[deletion_id] != count:
            found.violated(
                f"deletion {deletion_id} was carried out {count} times, and has "
                f"{told[deletion_id]} events",
                places[deletion_id],
            )


def _attempt(entry: StateEntry) -> Attempt:
    run_id, _, task_id = entry.task.partition("/")
    return Attempt(run_id, task_id, entry.attempt)
