"""What cannot be worked is kept whole, once, and lets the others pass: I8."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from holdfast.bus.port import Position, TopicPartition
from holdfast.schemas.records import CommandAction, DeadLetter, EventType, SourceRecord
from holdfast.testing.evidence import Evidence, PoisonSent
from holdfast.testing.history import Decoded, History, place
from holdfast.testing.invariants.verdict import Findings

__all__ = ["poison_is_kept_whole"]

WHOLE_BYTES_MAX = 700_000
"""A record below this always fits into a dead letter, whole; above, its hash remains."""


def poison_is_kept_whole(history: History, evidence: Evidence, found: Findings) -> None:
    """Each poison record is in the dead letters once, whole, and its neighbours pass.

    Every dead letter has an id of its own; one of a record holds the very bytes that stand at its
    source (and their SHA-256). Every unreadable record that a group's offset has passed has one.
    Each poison that was sent has as many letters as it was sent times, found by its SHA-256; a
    poison task one, and one more for each replay. The offset of its group has passed each poison
    record (`Quiet`), and each task that was parked (`task.dead`) has its letter.
    """
    if not history.whole(history.topics.dead_letters):
        found.cannot("dead letters are missing")
        return
    by_task: dict[tuple[str, str], list[Decoded[DeadLetter]]] = defaultdict(list)
    by_source: dict[Position, list[Decoded[DeadLetter]]] = defaultdict(list)
    for letter in history.dead_letters:
        source = letter.body.source
        if source is not None:
            by_source[_at(source)].append(letter)
            _same_bytes(history, letter, source, found)
        elif letter.body.run_id is not None and letter.body.task_id is not None:
            by_task[letter.body.run_id, letter.body.task_id].append(letter)
    _ids(history.dead_letters, found)
    _unreadable_records(history, evidence, by_source, found)
    _parked_tasks(history, by_task, found)
    _sent_records(history, evidence, by_source, found)
    _sent_tasks(history, evidence, by_task, found)


def _at(source: SourceRecord) -> Position:
    return Position(source.topic, source.partition, source.offset)


def _ids(letters: Sequence[Decoded[DeadLetter]], found: Findings) -> None:
    known: dict[str, str] = {}
    for letter in letters:
        found.looked("dead letters")
        body = letter.body
        first = known.setdefault(body.dead_letter_id, letter.place)
        # A task that never got an attempt keeps its number when it is replayed in vain.
        if first != letter.place and (body.attempt or body.source is not None):
            found.violated(f"{body.dead_letter_id} is kept twice; first at {first}", letter.place)


def _same_bytes(
    history: History, letter: Decoded[DeadLetter], source: SourceRecord, found: Findings
) -> None:
    record = history.at(_at(source))
    if source.value is not None and hashlib.sha256(source.value).hexdigest() != source.sha256:
        found.violated("its SHA-256 is not that of the bytes it holds", letter.place)
    if record is None:
        return  # purged before it was recorded; that it was there at all is for I5
    found.looked("sources")
    value = record.value or b""
    if hashlib.sha256(value).hexdigest() != source.sha256:
        found.violated(f"it is not what stands at {place(record)}", letter.place)
    elif source.value is None and record.value is not None and len(value) < WHOLE_BYTES_MAX:
        found.violated(f"{len(value)} bytes of {place(record)} are not kept", letter.place)
    elif source.value is not None:
        headers = [(header.name, header.value) for header in source.headers]
        if source.key != record.key or headers != list(record.headers):
            found.violated(f"key or headers of {place(record)} are not kept", letter.place)


def _unreadable_records(
    history: History,
    evidence: Evidence,
    by_source: Mapping[Position, Sequence[Decoded[DeadLetter]]],
    found: Findings,
) -> None:
    """Those whose offset was passed have a letter; I4 looks at exactly when."""
    passed = {
        partition: offset
        for offsets in history.offsets.values()
        for partition, offset in offsets.items()
    }
    for position, received in history.unreadable_inputs.items():
        if history.misplaced(received):
            continue
        found.looked("unreadable records")
        partition = TopicPartition(position.topic, position.partition)
        over = position.offset < passed.get(partition, 0)
        count = len(by_source.get(position, ()))
        if count > 1 or (count == 0 and (over or evidence.quiet)):
            found.violated(f"an unreadable record has {count} dead letters", place(received))


def _parked_tasks(
    history: History,
    by_task: Mapping[tuple[str, str], Sequence[Decoded[DeadLetter]]],
    found: Findings,
) -> None:
    buried = {
        (letter.body.run_id, letter.body.task_id)
        for letter in history.dead_letters
        if letter.body.source is not None
    }
    for event in history.events:
        if event.body.type is EventType.TASK_DEAD and event.body.task is not None:
            found.looked("parked tasks")
            name = (event.body.run_id, event.body.task.task_id)
            if name not in by_task and name not in buried:
                found.violated(f"{name[0]}/{name[1]} was parked without a letter", event.place)


def _sent_records(
    history: History,
    evidence: Evidence,
    by_source: Mapping[Position, Sequence[Decoded[DeadLetter]]],
    found: Findings,
) -> None:
    sent: Counter[str] = Counter()
    for row in evidence.of(PoisonSent):
        if not row.topic:
            continue
        found.looked("poison records")
        where = Position(row.topic, row.partition, row.offset)
        if row.offset >= 0 and where not in history.unreadable_inputs and not by_source.get(where):
            record = history.at(where)
            if record is not None and not history.misplaced(record):
                found.looked("poison records that can be read after all")
                continue
        sent[row.sha256] += 1
    kept = Counter(
        letter.body.source.sha256
        for letters in by_source.values()
        for letter in letters
        if letter.body.source is not None
    )
    for sha256, count in sent.items():
        if kept[sha256] > count or (kept[sha256] < count and evidence.quiet):
            found.violated(f"sent {count} times, kept {kept[sha256]} times", f"sha256 {sha256}")


def _sent_tasks(
    history: History,
    evidence: Evidence,
    by_task: Mapping[tuple[str, str], Sequence[Decoded[DeadLetter]]],
    found: Findings,
) -> None:
    replays: Counter[tuple[str, str]] = Counter()
    for event in history.events:
        command = event.body.command
        if (
            command is not None
            and event.body.type is EventType.COMMAND_ACCEPTED
            and command.action is CommandAction.REPLAY
        ):
            replays[event.body.run_id, command.task_id or ""] += 1
    for row in evidence.of(PoisonSent):
        if row.topic:
            continue
        found.looked("poison tasks")
        name = (row.run_id, row.task_id)
        letters = by_task.get(name, ())
        if len(letters) > 1 + replays[name] or (not letters and evidence.quiet):
            found.violated(
                f"poison task {row.run_id}/{row.task_id} ({row.kind}) has {len(letters)} letters",
                letters[-1].place if letters else "dead-letters",
            )
        for letter in letters:
            kept = letter.body.input
            if not row.sha256 or not isinstance(kept, bytes):
                continue
            if hashlib.sha256(kept).hexdigest() != row.sha256:
                found.violated("its input is not what was sent", letter.place)
