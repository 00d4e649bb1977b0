"""One partition of the simulated broker: what takes an offset, who sees it, and what goes."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from holdfast.bus.port import Received, Slot
from holdfast.testing.sim.log import TOMBSTONE_KEPT_MS, Log, Transaction, TransactionState

SLOT = Slot("g", 0)


@pytest.fixture
def log() -> Log:
    return Log("topic", 0)


def record(value: bytes | None, key: bytes = b"k", at_ms: int = 0) -> Received:
    return Received("topic", 0, 0, key, value, (), at_ms)


def transaction() -> Transaction:
    return Transaction(SLOT, 1, {})


def write(log: Log, values: Sequence[bytes], state: TransactionState) -> Transaction:
    """Write values in one transaction; end it, unless it is to stay open."""
    made = transaction()
    for value in values:
        log.append(record(value), made)
    if state is not TransactionState.OPEN:
        made.state = state
        log.decided(made)
    return made


def seen(log: Log, start: int = 0) -> list[bytes | None]:
    return [r.value for r in log.read(start, 1_000)[0]]


def test_a_marker_and_an_aborted_record_leave_gaps(log: Log) -> None:
    write(log, [b"0", b"1"], TransactionState.COMMITTED)
    write(log, [b"3"], TransactionState.ABORTED)
    log.append(record(b"5"), None)
    assert [(r.offset, r.value) for r in log.read(0, 100)[0]] == [(0, b"0"), (1, b"1"), (5, b"5")]
    assert (log.begin, log.end) == (0, 6)


def test_a_reader_goes_on_behind_what_it_does_not_see(log: Log) -> None:
    write(log, [b"0"], TransactionState.COMMITTED)
    write(log, [b"2"], TransactionState.ABORTED)
    found, after = log.read(0, 100)
    assert ([r.value for r in found], after) == ([b"0"], 4)
    assert log.read(after, 100) == ([], 4)


def test_readers_stop_at_the_first_open_transaction(log: Log) -> None:
    log.append(record(b"0"), None)
    one, other = transaction(), transaction()
    log.append(record(b"1"), one)
    log.append(record(b"2"), other)
    log.append(record(b"3"), None)
    assert (log.stable_end, log.end) == (1, 4)
    assert seen(log) == [b"0"]
    other.state = TransactionState.COMMITTED
    log.decided(other)
    assert seen(log) == [b"0"], "what is behind an open one is not read, committed or not"
    one.state = TransactionState.ABORTED
    log.decided(one)
    assert seen(log) == [b"0", b"2", b"3"]
    assert log.stable_end == log.end == 6


def test_reads_are_bounded(log: Log) -> None:
    for n in range(5):
        log.append(record(b"%d" % n), None)
    found, after = log.read(1, 2)
    assert ([r.value for r in found], after) == ([b"1", b"2"], 3)
    assert ([r.value for r in log.read(3, 9, 4)[0]], log.read(3, 9, 4)[1]) == ([b"3"], 4)


def test_a_purge_moves_the_start_and_never_passes_the_stable_end(log: Log) -> None:
    for n in range(3):
        log.append(record(b"%d" % n), None)
    write(log, [b"open"], TransactionState.OPEN)
    log.purge(2)
    assert (log.begin, seen(log)) == (2, [b"2"])
    log.purge(99)
    assert log.begin == 3
    log.purge(1)
    assert log.begin == 3, "the start does not go back"


def test_compaction_keeps_the_newest_of_each_key(log: Log) -> None:
    for n in range(4):
        log.append(record(b"%d" % n, b"a"), None)
    log.append(record(b"b", b"b"), None)
    write(log, [b"lost"], TransactionState.ABORTED)
    log.compact(log.end, 0)
    assert [(r.offset, r.value) for r in log.read(0, 100)[0]] == [(3, b"3"), (4, b"b")]
    assert (log.begin, log.end) == (0, 7), "the offsets stay as they were"


def test_compaction_stops_where_it_is_told_and_at_what_is_open(log: Log) -> None:
    for n in range(4):
        log.append(record(b"%d" % n), None)
    log.compact(2, 0)
    assert seen(log) == [b"2", b"3"]
    still = write(log, [b"open"], TransactionState.OPEN)
    log.append(record(b"behind"), None)
    log.compact(log.end, 0)
    still.state = TransactionState.COMMITTED
    log.decided(still)
    assert seen(log)[-2:] == [b"open", b"behind"]


def test_what_is_not_decided_hides_nothing_from_compaction(log: Log) -> None:
    """The newest *committed* record of a key stays, though a newer one is under way."""
    log.append(record(b"old"), None)
    made = write(log, [b"new"], TransactionState.OPEN)
    log.compact(log.end, 0)
    made.state = TransactionState.ABORTED
    log.decided(made)
    assert seen(log) == [b"old"]


def test_a_tombstone_stays_for_a_while(log: Log) -> None:
    log.append(record(b"v"), None)
    log.append(record(None, at_ms=1_000), None)
    log.compact(log.end, 1_000 + TOMBSTONE_KEPT_MS - 1)
    assert seen(log) == [None]
    log.compact(log.end, 1_000 + TOMBSTONE_KEPT_MS)
    assert seen(log) == []


def test_the_history_keeps_what_was_purged_and_compacted_and_not_what_was_aborted(log: Log) -> None:
    log.append(record(b"0"), None)
    log.append(record(b"1"), None)
    log.compact(log.end, 0)
    log.purge(2)
    write(log, [b"aborted"], TransactionState.ABORTED)
    write(log, [b"open"], TransactionState.OPEN)
    assert [r.value for r in log.history()] == [b"0", b"1"]
