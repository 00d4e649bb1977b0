"""Histories in windows: judged, forgotten, and gone on with (`Recorder.forget`)."""

from __future__ import annotations

import asyncio
from pathlib import Path

from holdfast.bus.embedded import EmbeddedBus, EmbeddedSettings
from holdfast.bus.port import Cleanup, Record, TopicPartition, TopicSpec
from holdfast.schemas.records import SlotOffset
from holdfast.testing import History, Recorder, check
from tests.unit.testing.made import JOURNAL, happy
from tests.unit.testing.stage import Stage, chain, deployment, mapped
from tests.unit.testing.test_real_history import BOUND_S, ended, settled
from tests.waiting import until

INPUTS = TopicPartition("ns.coordinator", 0)
AGENTS = TopicPartition("ns.agents", 0)


async def test_the_next_history_begins_behind_what_was_forgotten(tmp_path: Path) -> None:
    bus = EmbeddedBus(EmbeddedSettings(tmp_path / "bus.db"))
    await bus.start()
    await bus.create_topics(
        [TopicSpec(INPUTS.topic, 1), TopicSpec(AGENTS.topic, 1, Cleanup.COMPACT)]
    )

    async def publish(topic: str, key: bytes, value: bytes | None) -> None:
        await bus.publish([Record(topic, key, value, (), 0)])

    async with Recorder(bus, "ns") as recorder:
        for number, key in enumerate((b"a", b"b", b"a", b"c")):
            await publish(AGENTS.topic, key, b"%d" % number)
            await publish(INPUTS.topic, key, b"%d" % number)
        await publish(AGENTS.topic, b"c", None)
        first = await recorder.history(10)
        await publish(INPUTS.topic, b"a", b"late")
        await until(lambda: len(recorder) == 10)
        recorder.forget(first)
        recorder.take(first.records[INPUTS])  # read once more by a reader that was opened again
        await publish(INPUTS.topic, b"a", b"next")
        second = await recorder.history(10)
    await bus.close()
    assert [r.value for r in second.records[INPUTS]] == [b"late", b"next"]
    assert [(r.key, r.value) for r in second.records[AGENTS]] == [(b"b", b"1"), (b"a", b"2")]
    assert second.begins == {INPUTS: 4, AGENTS: 5}
    assert second.whole(INPUTS.topic, AGENTS.topic)
    assert len(first.records[INPUTS]) == 4, "a history is a value"


async def test_each_window_is_judged_by_all_invariants(tmp_path: Path) -> None:
    async with deployment(tmp_path) as stage:
        for window in range(3):
            await _work(stage, window)
            verdict = await settled(stage)
            assert verdict.ok, f"window {window}: {verdict.report()}"
            assert not verdict.not_checkable, verdict.report()
            assert verdict.looked_at["I1"]["runs"] == 3, "only those of the window"
            for name in ("I1", "I2", "I3", "I4", "I5", "I6", "I7", "I9", "I10", "I11"):
                assert verdict.seen(name), f"{name} has seen nothing in window {window}"
            recorder = stage.recorder
            recorder.forget(await recorder.history())
            stage.outside.evidence = type(stage.outside.evidence)()


async def _work(stage: Stage, window: int) -> None:
    names = [f"w{window}-{name}" for name in ("chain", "retried", "mapped")]
    await stage.submit(names[0], chain())
    await stage.submit(names[1], chain(fails=1))
    await stage.submit(names[2], mapped())
    if window == 1:
        await stage.restart_agents()
    async with asyncio.timeout(BOUND_S):
        await ended(stage, *names)


def cut(history: History, commits: int) -> History:
    """Begin a history in the middle: behind so many commits of the coordinator's first slot."""
    entries = history.journal("coordinator")[0]
    offsets = [e.received for e in entries if isinstance(e.body, SlotOffset)]
    begin = offsets[commits - 1].offset
    log = [r for r in history.records[TopicPartition(JOURNAL, 0)] if r.offset >= begin]
    records = {**history.records, TopicPartition(JOURNAL, 0): log}
    return History(
        history.namespace,
        records,
        history.offsets,
        begins={TopicPartition(JOURNAL, 0): begin + 1},
    )


def test_i6_goes_on_from_the_number_it_finds_and_still_sees_holes() -> None:
    history = happy().history()
    whole = cut(history, 2)
    assert check(whole, happy().evidence, only=["I6"]).ok
    log = list(whole.records[TopicPartition(JOURNAL, 0)])
    numbers = [e.received.offset for e in whole.journal("coordinator")[0] if e.key == "offset"]
    holed = History(
        history.namespace,
        {
            **whole.records,
            TopicPartition(JOURNAL, 0): [r for r in log if r.offset != numbers[1]],
        },
        history.offsets,
        begins=whole.begins,
    )
    assert "stands behind commit 2" in check(holed, happy().evidence, only=["I6"]).report()
    begun = History(history.namespace, whole.records, history.offsets)
    assert not check(begun, happy().evidence, only=["I6"]).ok, "without a begin it is a hole"
