"""What the records of a source's topics have led to: a part of I4."""

from __future__ import annotations

from collections import Counter

from holdfast.bus.port import Position
from holdfast.bus.topics import SOURCE_PREFIX
from holdfast.schemas.records import EventType, SourceJournal, Submission
from holdfast.testing.history import History, place
from holdfast.testing.invariants.verdict import Findings

__all__ = ["runs_of_a_source", "source_submissions"]

SUCCESSOR_MARK = "~"
"""Between a run's id and the number of the run that follows it."""
ENDS = frozenset(
    {
        EventType.RUN_SUCCEEDED,
        EventType.RUN_FAILED,
        EventType.RUN_CANCELLED,
        EventType.RUN_REFUSED,
        EventType.RUN_REPEATED,
        EventType.RUN_CONFLICTED,
    }
)


def source_submissions(history: History, group: str) -> dict[tuple[int, int], list[Position]]:
    """Return where the submissions of a source stand, by (partition, offset) of their records."""
    name = group.removeprefix(SOURCE_PREFIX)
    found: dict[tuple[int, int], list[Position]] = {}
    for given in history.inputs:
        body = given.body.body
        if not isinstance(body, Submission) or body.source is None or body.source.name != name:
            continue
        if history.misplaced(given.received) or body.predecessor is not None:
            continue
        _, partition, offset = given.body.run_id.rsplit("-", 2)
        at = (int(partition), int(offset))
        found.setdefault(at, []).append(given.received.position)
    return found


def runs_of_a_source(history: History, group: str, *, settled: bool, found: Findings) -> None:
    """One submission for each record, one word of its end for each submission, and the count right.

    `settled`: all has been consumed, so that "at most" is "exactly".
    """
    submissions = source_submissions(history, group)
    for (partition, offset), positions in submissions.items():
        found.looked("records that started a run")
        if len(positions) > 1:
            where = f"{group}: record {partition}/{offset}"
            found.violated(f"it was submitted {len(positions)} times", where)
    words = Counter(_first(word.body.run_id) for word in history.ended_runs(group))
    answers = _answers(history)
    for run_id, count in words.items():
        if count > answers[run_id]:
            found.violated(
                f"{count} words of its end, {answers[run_id]} ends", f"{group}: {run_id}"
            )
    if not settled:
        return
    name = group.removeprefix(SOURCE_PREFIX)
    for partition, offset in submissions:
        run_id = f"{name}-{partition}-{offset}"
        if answers[run_id] and words[run_id] != 1:
            found.violated(f"{words[run_id]} words of its end", f"{group}: {run_id}")
    _count(history, group, submissions, words, found)


def _first(run_id: str) -> str:
    """Return the first run of those that follow each other: its source hears of the last one."""
    return run_id.partition(SUCCESSOR_MARK)[0]


def _answers(history: History) -> Counter[str]:
    return Counter(
        _first(event.body.run_id)
        for event in history.events
        if event.body.type in ENDS and (event.body.run is None or event.body.run.successor is None)
    )


def _count(
    history: History,
    group: str,
    submissions: dict[tuple[int, int], list[Position]],
    words: Counter[str],
    found: Findings,
) -> None:
    """What the journal says is open is what was submitted and has not ended."""
    name = group.removeprefix(SOURCE_PREFIX)
    for number, entries in history.journal(group).items():
        counts = [e for e in entries if isinstance(e.body, SourceJournal)]
        if not counts:
            continue
        found.looked("counts of open runs")
        mine = [at for at in submissions if at[0] == number]
        ended = sum(min(1, words[f"{name}-{p}-{o}"]) for p, o in mine)
        newest = counts[-1]
        assert isinstance(newest.body, SourceJournal)
        if newest.body.open_runs != len(mine) - ended:
            found.violated(
                f"{newest.body.open_runs} runs are said to be open, {len(mine) - ended} are",
                place(newest.received),
            )
