"""Records that are not what their topic holds: bytes damaged at random, in all input topics."""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Callable
from itertools import count
from typing import TYPE_CHECKING

from holdfast.bus.port import Record
from holdfast.bus.topics import COORDINATOR_GROUP, Topics
from holdfast.schemas.codec import decode, encode
from holdfast.schemas.errors import HoldfastError
from holdfast.schemas.records import (
    Command,
    CommandAction,
    ControlAction,
    ControlEnvelope,
    CoordinatorEnvelope,
    Outcome,
    Submission,
    TaskEnvelope,
    TaskResult,
)
from holdfast.testing import PoisonSent
from tests.torture.faults.base import Fault, Injection
from tests.torture.plans import chain

if TYPE_CHECKING:
    from tests.torture.arena import Arena

__all__ = ["MutatedRecords", "damage", "submission", "unreadable"]

BATCH = 50
"""Records of one injection, unless told otherwise."""
AGENTS = ("alpha", "beta", "gamma")
EXTRA_BYTES_MAX = 64


class MutatedRecords(Fault):
    """Publishes batches of damaged records among the good ones; each counts as an injection.

    The victim is the group that has to read them. Recovery is the time until each of its slots was
    committed to again.
    """

    name = "mutated-records"

    def __init__(self, batch: int = BATCH) -> None:
        self._batch = batch
        self._numbers = count()

    def victims(self, arena: Arena) -> list[str]:
        """See `Fault`."""
        return [COORDINATOR_GROUP, *AGENTS]

    async def inject(self, arena: Arena, victim: str, chance: random.Random) -> Injection | None:
        """See `Fault`."""
        now_ms = time.time_ns() // 1_000_000
        records = []
        for _ in range(self._batch):
            run_id = f"mutated-{next(self._numbers)}"
            topic, whole = _whole(chance, arena.topics, victim, run_id, now_ms)
            records.append(Record(topic, run_id.encode(), unreadable(chance, whole)))
        at = time.monotonic()
        awaited = {"": arena.watch.progress(arena.watch.slots_of(victim), at)}
        places = await arena.bus.publish(records)
        for record, place in zip(records, places, strict=True):
            digest = hashlib.sha256(record.value or b"").hexdigest()
            arena.evidence.add(PoisonSent("mutated", digest, *place))
        return Injection(victim, "", awaited, count=self._batch)


_ABOUT_TASKS = [each for each in ControlAction if each is not ControlAction.DELETE_STATE]
Envelope = CoordinatorEnvelope | ControlEnvelope | TaskEnvelope


def _whole(
    chance: random.Random, topics: Topics, group: str, run_id: str, now_ms: int
) -> tuple[str, Envelope]:
    """Return a topic that the group reads, and a record that would be right there."""
    if group == COORDINATOR_GROUP:
        body = chance.choice((submission, _result, _command))(run_id, now_ms)
        return topics.coordinator, CoordinatorEnvelope(run_id, now_ms, body)
    if chance.random() < 0.5:
        control = ControlEnvelope(
            run_id, "begin", 1, chance.choice(_ABOUT_TASKS), "a test", run_id, now_ms
        )
        return topics.control(group), control
    task = TaskEnvelope(run_id, "begin", "begin", 1, bytes(40), run_id, run_id, now_ms)
    return topics.tasks(group), task


def unreadable(chance: random.Random, whole: Envelope) -> bytes:
    """Return its bytes with a damage that shows. One that does not (a letter of a name, a digit)
    makes a record that somebody else might have sent: what it asks for is done."""
    value = encode(whole)
    while True:
        damaged = damage(chance, value)
        try:
            decode(type(whole), damaged)
        except HoldfastError:
            return damaged


def submission(run_id: str, now_ms: int) -> Submission:
    """Return a submission of a chain."""
    plan = chain().to_json()
    return Submission(plan, b"{}", hashlib.sha256(plan.encode()).hexdigest(), run_id, "torture")


def _result(run_id: str, now_ms: int) -> TaskResult:
    return TaskResult(
        "begin", 1, Outcome.SUCCEEDED, b"\x00", None, [], now_ms, now_ms, 0, "alpha-1", "torture"
    )


def _command(run_id: str, now_ms: int) -> Command:
    return Command(f"c-{run_id}", CommandAction.CANCEL, None, "{}", "torture", "a test")


def damage(chance: random.Random, value: bytes) -> bytes:
    """Return `value` with a fault that disks, networks and foreign programs make."""
    ways: tuple[Callable[[random.Random, bytes], bytes], ...] = (
        _flip_bit,
        _cut,
        _append,
        _zero,
        _scramble,
    )
    return chance.choice(ways)(chance, value)


def _flip_bit(chance: random.Random, value: bytes) -> bytes:
    at = chance.randrange(len(value))
    return value[:at] + bytes([value[at] ^ 1 << chance.randrange(8)]) + value[at + 1 :]


def _cut(chance: random.Random, value: bytes) -> bytes:
    return value[: chance.randrange(len(value))]


def _append(chance: random.Random, value: bytes) -> bytes:
    return value + chance.randbytes(chance.randint(1, EXTRA_BYTES_MAX))


def _zero(chance: random.Random, value: bytes) -> bytes:
    at = chance.randrange(len(value))
    return value[:at] + bytes(len(value) - at)


def _scramble(chance: random.Random, value: bytes) -> bytes:
    return chance.randbytes(len(value))
