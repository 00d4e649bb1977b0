"""When a slot that lost its process has recovered, as the bus tells it."""

from __future__ import annotations

from holdfast.bus.port import Received
from holdfast.bus.topics import Topics
from holdfast.schemas.codec import encode
from holdfast.schemas.records import ConsumedOffset, Event, EventType, SlotOffset
from tests.torture.watch import Watch

TOPICS = Topics("t")


class Bench:
    """A watch whose clock stands where it is put."""

    def __init__(self) -> None:
        self.now = 0.0
        self.watch = Watch(TOPICS, lambda: self.now)

    def commit(self, partition: int, instance: str, process: str, at: float) -> None:
        self.now = at
        value = encode(SlotOffset(1, [], instance, process, False, 0))
        topic = TOPICS.journal("beta")
        self.watch.take(Received(topic, partition, 0, b"offset", value, (), 0))

    def end(self, run_id: str, at: float) -> None:
        self.now = at
        value = encode(Event(run_id, EventType.RUN_SUCCEEDED, 1, None, None, None, ""))
        self.watch.take(Received(TOPICS.events, 0, 0, b"r", value, (), 0))


def test_recovery_is_the_last_slots_first_commit_by_another_process():
    bench = Bench()
    bench.commit(0, "b-1", "p1", 1.0)
    bench.commit(1, "b-1", "p1", 1.0)
    bench.commit(2, "b-2", "p2", 1.0)
    recovery = bench.watch.recovering("b-1", 2.0)
    bench.commit(0, "b-1", "p1", 2.1)  # it had been under way
    bench.commit(0, "b-1", "p3", 2.5)
    assert not recovery.done.is_set()
    bench.commit(1, "b-2", "p2", 3.5)
    assert recovery.seconds == 1.5


def test_what_owned_nothing_has_nothing_to_recover():
    bench = Bench()
    recovery = bench.watch.recovering("b-1", 2.0)
    assert recovery.done.is_set()
    assert recovery.seconds is None


def test_progress_is_anybodys_commit_and_a_return_is_ones_own():
    bench = Bench()
    bench.commit(0, "b-1", "p1", 1.0)
    progress = bench.watch.progress([(TOPICS.journal("beta"), 0)], 2.0)
    back = bench.watch.return_of("b-2", 2.0)
    bench.commit(0, "b-1", "p1", 3.0)
    assert progress.seconds == 1.0
    assert back.seconds is None
    bench.commit(3, "b-2", "p2", 4.0)
    assert back.seconds == 2.0


def test_a_recovery_that_is_given_up_hears_no_more():
    bench = Bench()
    bench.commit(0, "b-1", "p1", 1.0)
    recovery = bench.watch.recovering("b-1", 2.0)
    bench.watch.give_up(recovery)
    bench.commit(0, "b-1", "p2", 3.0)
    assert recovery.seconds is None


def test_ends_of_runs_are_counted_once():
    bench = Bench()
    waiting = bench.watch.end_of("r", 1.0)
    bench.end("r", 3.0)
    bench.end("r", 4.0)
    assert waiting.seconds == 2.0
    assert list(bench.watch.ended) == ["r"]
    assert bench.watch.end_of("r", 4.0).done.is_set()


def test_a_slot_lags_that_has_a_record_to_read():
    bench = Bench()
    journal = TOPICS.journal("beta")
    assert bench.watch.lagging([(journal, 0)]) == []
    bench.watch.take(Received(TOPICS.tasks("beta"), 0, 7, b"k", b"", (), 0))
    assert bench.watch.lagging([(journal, 0), (journal, 1)]) == [(journal, 0)]
    consumed = [ConsumedOffset(TOPICS.tasks("beta"), 8)]
    value = encode(SlotOffset(1, consumed, "b-1", "p1", False, 0))
    bench.watch.take(Received(journal, 0, 0, b"offset", value, (), 0))
    assert bench.watch.lagging([(journal, 0), (journal, 1)]) == []
