"""Whether what lanes left in the log is what their commits said. Read committed, as users read."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from holdfast.bus.port import Bus, Position, TopicPartition
from tests.torture.wire.lanes import PARTS, Lane, Lanes, Piece

__all__ = ["Seen", "Violation", "check_lane", "check_lanes", "check_seen", "surprise"]


class Violation(NamedTuple):
    """One break of an invariant, as in the results."""

    invariant: str
    what: str
    where: str


def surprise(text: str, where: str) -> Violation:
    """Return what was noted as "<invariant>: <what>"."""
    invariant, _, what = text.partition(": ")
    return Violation(invariant, what, where)


@dataclass(frozen=True, slots=True)
class Seen:
    """What a follower read while all went on, at its position."""

    pieces: Mapping[Position, Piece]


async def check_lanes(bus: Bus, lanes: Lanes, seen: Seen) -> list[Violation]:
    """Read all that the lanes wrote, and return what is wrong."""
    found: list[Violation] = []
    at: dict[Position, Piece] = {}
    for lane in lanes.all:
        visible: dict[str, list[Piece]] = {}
        for topic in dict(PARTS):
            name = lanes.topics.name(topic)
            visible[topic] = []
            async for batch in bus.read(name, lane.index):
                for record in batch:
                    assert record.value is not None
                    piece = Piece.decode(record.value)
                    visible[topic].append(piece)
                    at[record.position] = piece
        source = TopicPartition(lanes.topics.name("source"), lane.index)
        consumed = (await bus.committed(lane.slot.group, [source])).get(source, 0)
        found += check_lane(lane, visible, consumed)
    return found + check_seen(seen, at)


def check_lane(
    lane: Lane, visible: Mapping[str, Sequence[Piece]], consumed: int
) -> list[Violation]:
    """Return what is wrong with the visible records of a lane, by topic, and its offset."""
    where = f"lane {lane.index}"
    found = [surprise(text, where) for text in lane.surprises]
    tries: defaultdict[int, list[int]] = defaultdict(list)
    numbers: dict[int, int] = {}
    for piece in (piece for pieces in visible.values() for piece in pieces):
        if piece.lane != lane.index:
            found.append(Violation("I6", f"{piece} of another lane", where))
        tries[piece.attempt].append(piece.part)
        numbers[piece.attempt] = piece.number
    whole = sorted(part for _, part in PARTS)
    for attempt, parts in sorted(tries.items()):
        if sorted(parts) != whole:
            torn = f"number {numbers[attempt]}, try {attempt}: parts {sorted(parts)} of {whole}"
            found.append(Violation("I4", f"a torn commit: {torn}", where))
    by_number: defaultdict[int, list[int]] = defaultdict(list)
    for attempt, number in numbers.items():
        by_number[number].append(attempt)
    for number, attempts in sorted(by_number.items()):
        if len(attempts) > 1:
            found.append(Violation("I2", f"number {number} twice, tries {attempts}", where))
    for attempt in sorted(set(lane.acknowledged) - set(numbers)):
        number = lane.acknowledged[attempt]
        found.append(Violation("I4", f"number {number}, try {attempt}: acknowledged, lost", where))
    for attempt in sorted(set(lane.denied) & set(numbers)):
        said = lane.denied[attempt]
        found.append(Violation("I6", f"try {attempt} is visible, but was denied: {said}", where))
    highest = max(by_number, default=0)
    if missing := sorted(set(range(1, highest + 1)) - set(by_number)):
        found.append(Violation("I4", f"numbers {missing[:20]} are missing", where))
    if consumed != highest:
        found.append(Violation("I4", f"offset {consumed}, but number {highest} is visible", where))
    return found + _order(visible, where)


def _order(visible: Mapping[str, Iterable[Piece]], where: str) -> list[Violation]:
    found = []
    for topic, pieces in visible.items():
        last = (0, 0)
        for piece in pieces:
            here = (piece.number, piece.part)
            if here <= last:
                found.append(Violation("I13", f"{topic}: {here} after {last}", where))
            last = here
    return found


def check_seen(seen: Seen, at: Mapping[Position, Piece]) -> list[Violation]:
    """Return what a follower had been shown that is not in the log, or is something else there."""
    return [
        Violation("I5", f"{piece} was read and is not committed ({at.get(place)})", str(place))
        for place, piece in seen.pieces.items()
        if at.get(place) != piece
    ]
