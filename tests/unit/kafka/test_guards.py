"""Logs that do not flood, an installation that is fit, clients that end in time."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import errors as kafka_errors
from aiokafka.consumer.fetcher import READ_UNCOMMITTED
from aiokafka.protocol.offset import OffsetRequest
from aiokafka.record import default_records

from holdfast.bus.errors import BusUnavailable
from holdfast.bus.kafka import clients, quiet, reader
from holdfast.bus.kafka import cluster as cluster_module
from holdfast.bus.kafka.bus import KafkaBus
from holdfast.bus.kafka.cluster import LATEST, Cluster
from holdfast.bus.kafka.protocol import (
    UNSTABLE_OFFSET_COMMIT,
    StableOffsetFetchRequest,
    StableOffsetFetchRequest_v7,
)
from holdfast.bus.port import Received, TopicPartition
from holdfast.bus.settings import KafkaSettings
from holdfast.schemas.errors import ConfigurationError
from tests.broker import REPOSITORY

SETTINGS = KafkaSettings(("127.0.0.1:1",), operation_timeout_s=0.5)


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def line(text: str, *arguments: Any) -> logging.LogRecord:
    return logging.LogRecord("aiokafka", logging.WARNING, "", 0, text, arguments, None)


def test_trap_20_a_line_is_written_a_few_times_then_counted() -> None:
    clock = Clock()
    limit = quiet.RateLimit(clock)
    passed = [limit.filter(line("Unable connect to node with id %s", n)) for n in range(4000)]
    assert sum(passed) == quiet.BURST
    clock.now_s += quiet.WINDOW_S
    record = line("Unable connect to node with id %s", 7)
    assert limit.filter(record)
    assert (
        record.getMessage()
        == "Unable connect to node with id 7 (3997 more of these were not shown)"
    )


def test_trap_20_other_lines_are_not_held_back() -> None:
    limit = quiet.RateLimit(Clock())
    for _ in range(100):
        limit.filter(line("one %s"))
    assert limit.filter(line("another %s", 1))


def test_trap_14_the_warnings_of_retries_are_counted_and_never_shown() -> None:
    limit = quiet.RateLimit(Clock())
    before = quiet.SUPPRESSED[quiet.ROUTINE[0]]
    assert not limit.filter(line(quiet.ROUTINE[0], "tp", "error"))
    assert quiet.SUPPRESSED[quiet.ROUTINE[0]] == before + 1


async def test_trap_20_with_the_broker_away_all_loggers_are_held(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # Port 1 of loopback refuses: every try is a line of the client.
    caplog.set_level(logging.DEBUG)
    with pytest.raises(BusUnavailable):
        await clients.started(
            SETTINGS,
            lambda: clients.transactional_producer(SETTINGS, "t"),
            lambda producer: producer.start(),
            within_s=1.0,
        )
    for name in list(logging.root.manager.loggerDict):
        if name.startswith("aiokafka"):
            assert quiet._limit in logging.getLogger(name).filters, name
    shown = [r for r in caplog.records if r.name.startswith("aiokafka") and r.levelno > 20]
    texts = {r.msg for r in shown}
    assert len(shown) <= quiet.BURST * max(1, len(texts))


def test_trap_12_without_the_c_extension_it_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = default_records._DefaultRecordBatchBuilderPy
    assert default_records.DefaultRecordBatchBuilder is not slow, "the wheel has it"
    monkeypatch.setattr(default_records, "DefaultRecordBatchBuilder", slow)
    with pytest.raises(ConfigurationError, match="C extension"):
        KafkaBus(SETTINGS)


def test_trap_3_it_does_not_start_under_optimisation() -> None:
    code = (
        "from holdfast.bus.connect import open_bus\n"
        "from holdfast.schemas.errors import ConfigurationError\n"
        "try: open_bus('kafka://h:1')\n"
        "except ConfigurationError as error: print(error)\n"
    )
    run = subprocess.run(
        [sys.executable, "-O", "-c", code], capture_output=True, text=True, cwd=REPOSITORY
    )
    assert "must not run under python -O" in run.stdout, run.stderr


def test_kafka_is_imported_only_when_it_is_asked_for() -> None:
    code = "import sys, holdfast.bus.connect; print('aiokafka' in sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY
    )
    assert run.stdout.strip() == "False", run.stderr


async def test_a_broker_that_is_not_there_is_named_with_the_remedy() -> None:
    bus = KafkaBus(KafkaSettings(("127.0.0.1:1",), connect_timeout_s=0.3))
    with pytest.raises(BusUnavailable, match=r"127\.0\.0\.1:1 within 0\.3 s.*HOLDFAST_BUS"):
        await bus.start()
    await bus.close()


async def test_trap_10_drop_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "DROP_TIMEOUT_S", 0.02)

    class Hanging:
        async def stop(self) -> None:
            await asyncio.Event().wait()

        async def close(self) -> None:
            await asyncio.Event().wait()

    async with asyncio.timeout(2):
        await clients.drop(Hanging())


def test_trap_19_a_client_that_does_not_stop_is_given_2_s() -> None:
    assert clients.DROP_TIMEOUT_S == 2.0


async def test_trap_17_end_offsets_are_asked_read_uncommitted() -> None:
    asked: list[Any] = []

    class Client:
        def get_random_node(self) -> int:
            return 0

        async def send(self, node: int, request: Any) -> Any:
            if isinstance(request, OffsetRequest):
                asked.append(request._isolation_level)
                return SimpleNamespace(topics=[("t", [(0, 0, -1, 17)])])
            return SimpleNamespace(topics=[(0, "t", False, [(0, 0, 5, [], [])])])

    cluster = Cluster(Client(), SETTINGS)
    tp = TopicPartition("t", 0)
    assert await cluster.log_offsets([tp], LATEST) == {tp: 17}
    assert asked == [READ_UNCOMMITTED]


def test_trap_13_consumed_offsets_are_asked_for_as_no_transaction_can_change_them() -> None:
    request = StableOffsetFetchRequest("g", {"t": [0, 1]}).build(StableOffsetFetchRequest_v7)
    assert request.require_stable is True
    assert request.encode() == b"\x02g\x02\x02t\x03\x00\x00\x00\x00\x00\x00\x00\x01\x00\x01\x00"


class OffsetsClient:
    """Answers for the offset of t-0; `answer`: given whether it must be stable, offset and error
    code. `asked`: how it was."""

    def __init__(self, answer: Callable[[bool], tuple[int, int]]) -> None:
        self._answer = answer
        self.asked: list[bool] = []

    async def coordinator_lookup(self, kind: int, key: str) -> int:
        return 0

    def force_metadata_update(self) -> None:
        pass

    async def send(self, node: int, request: Any) -> Any:
        self.asked.append(request.build(StableOffsetFetchRequest_v7).require_stable)
        offset, code = self._answer(self.asked[-1])
        return SimpleNamespace(error_code=0, topics=[("t", [(0, offset, -1, "", code, {})], {})])


async def test_trap_13_an_offset_about_to_change_is_asked_for_again() -> None:
    answers = [(5, UNSTABLE_OFFSET_COMMIT), (6, 0)]
    client = OffsetsClient(lambda stable: answers.pop(0))
    tp = TopicPartition("t", 0)
    assert await Cluster(client, SETTINGS).committed("g", [tp]) == {tp: 6}


async def test_offsets_that_stay_unstable_are_asked_for_as_they_were_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client = OffsetsClient(lambda stable: (5, UNSTABLE_OFFSET_COMMIT if stable else 0))
    monkeypatch.setattr(cluster_module, "MAX_UNSTABLE_S", 0.05)
    tp = TopicPartition("t", 0)
    assert await Cluster(client, SETTINGS).committed("g", [tp]) == {tp: 5}
    assert client.asked[-1] is False
    assert client.asked.count(False) == 1


async def test_calls_are_bounded_and_say_what_failed() -> None:
    cluster = Cluster(SimpleNamespace(force_metadata_update=lambda: None), SETTINGS)

    async def never() -> None:
        raise kafka_errors.NodeNotReadyError("node 1")

    with pytest.raises(BusUnavailable, match=r"purging: Kafka at 127\.0\.0\.1:1 says.*node 1"):
        await cluster.call("purging", never)


async def test_trap_11_restoring_ends_by_position_not_by_the_last_record(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The log ends with markers: the last record stands at 1, the end is 5.
    tp = TopicPartition("t", 0)
    record = Received("t", 0, 1, b"k", b"v", (), 0)
    fetched = [([record], 2), ([], 2), ([], 5)]
    waits: list[int] = []

    class Fetched:
        def __init__(self, records: list[Received], reached: int) -> None:
            self.records, self.reached = records, reached

        def take(self, count: int) -> list[Received]:
            taken, self.records = self.records[:count], self.records[count:]
            return taken

    class Fetch:
        def __init__(self, _: Any, position: int, wait_ms: int) -> None:
            waits.append(wait_ms)

        async def __call__(self) -> Any:
            return Fetched(*fetched.pop(0))

    monkeypatch.setattr(reader, "_Fetch", Fetch)
    cluster = Cluster(SimpleNamespace(), SETTINGS)

    async def offsets(partitions: Any, which: int) -> dict[TopicPartition, int]:
        return {tp: 5 if which == LATEST else 0}

    monkeypatch.setattr(cluster, "log_offsets", offsets)
    assert [batch async for batch in reader.read_log(cluster, tp, 0, None)] == [[record]]
    assert fetched == []
    assert waits == [0, 0, reader.RESTORE_WAIT_MS]


def test_a_batch_that_comes_damaged_is_a_bus_that_is_away() -> None:
    """Whoever restores a slot tries again then; a foreign exception would end the process."""
    builder = default_records.DefaultRecordBatchBuilder(2, 0, 0, -1, -1, -1, 10_000)
    for offset in range(3):
        builder.append(offset, 1, b"k", b"value", [])
    raw = bytearray(builder.build())
    whole = reader._Fetched(TopicPartition("journal", 0), 0, bytes(raw), [])
    assert [len(whole.take(2)), len(whole.take(2)), len(whole.take(2))] == [2, 1, 0]
    raw[-3] ^= 0xFF
    damaged = reader._Fetched(TopicPartition("journal", 0), 0, bytes(raw), [])
    with pytest.raises(BusUnavailable, match=r"reading journal-0 at offset 0: .*CRC"):
        damaged.take(2)


def test_the_local_broker_stands_alone() -> None:
    script = REPOSITORY / "deploy" / "kafka" / "broker.py"
    run = subprocess.run(
        [sys.executable, "-I", "-S", str(script), "--help"],
        capture_output=True, text=True, cwd=Path("/"),
    )  # fmt: skip
    assert "without Docker" in run.stdout, run.stderr
