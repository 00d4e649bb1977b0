"""A run that nobody ever submitted: said after a moment, and never of one that is only late."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from holdfast.bus.port import Record, Slot, TopicPartition
from holdfast.bus.topics import COORDINATOR_GROUP
from holdfast.client import Client, Run, RunNotFound, WaitTimeout, existence
from holdfast.schemas import EventType, RunState, encode, encode_json
from holdfast.schemas.records import CoordinatorJournal, Parked, RecordHeader
from tests.unit.client.conftest import SETTINGS, TOPICS, World, run_row

GRACE_S = 0.1
PATIENCE_S = 10.0


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    assert existence.UNKNOWN_GRACE_S == 5.0
    monkeypatch.setattr(existence, "UNKNOWN_GRACE_S", GRACE_S)


@pytest.fixture
async def other(greeter: World) -> AsyncIterator[Client]:
    """Another process, which has submitted nothing."""
    async with Client(settings=SETTINGS, environment=greeter.environment) as client:
        yield client


async def taken_in(world: World, run_id: str) -> None:
    """A coordinator has read everything of the run's partition."""
    place = TopicPartition(TOPICS.coordinator, world.partition(run_id))
    end = (await world.bus.end_offsets([place]))[place]
    writer = await world.bus.open_writer(Slot(TOPICS.group(COORDINATOR_GROUP), place.partition))
    note = Record(TOPICS.dead_letters, b"note", b"", (), 0)
    await writer.commit([note], {place: end})
    await writer.close()


async def listed(run: Run[Any]) -> list[EventType]:
    return [event.type async for event in run.events()]


async def test_a_run_that_nobody_knows_is_not_waited_for_for_ever(other: Client) -> None:
    run = await other.run("no-such-run")
    for asking in (run.result(), run.ended(), run.accepted(), listed(run)):
        with pytest.raises(RunNotFound, match=r"'no-such-run' is not known.*order key"):
            await asyncio.wait_for(asking, PATIENCE_S)


async def test_a_shorter_time_out_says_that_nothing_is_known(other: Client) -> None:
    run = await other.run("no-such-run")
    with pytest.raises(WaitTimeout, match="nothing is known of run 'no-such-run'"):
        await run.result(GRACE_S / 10)


async def test_other_runs_of_its_partition_do_not_make_it_known(
    greeter: World, client: Client, other: Client
) -> None:
    await client.submit("greeter.greet", {"name": "Ada"}, run_id="r1")
    await greeter.start(await greeter.next_submission())
    await taken_in(greeter, "r1")
    twin = next(f"x{n}" for n in range(99) if greeter.partition(f"x{n}") == greeter.partition("r1"))
    run = await other.run(twin)
    with pytest.raises(RunNotFound):
        await asyncio.wait_for(run.result(), PATIENCE_S)


async def test_a_submission_that_no_coordinator_has_taken_in_is_waited_for(
    greeter: World, client: Client, other: Client
) -> None:
    await client.submit("greeter.greet", {"name": "Ada"}, run_id="r1")
    run = await other.run("r1")
    waiting = asyncio.create_task(run.result())
    await asyncio.wait({waiting}, timeout=5 * GRACE_S)
    assert not waiting.done()
    await greeter.start(await greeter.next_submission())
    await greeter.end("r1", output=encode_json("late"))
    assert await asyncio.wait_for(waiting, PATIENCE_S) == "late"


async def test_one_that_is_submitted_within_the_grace_is_found(
    greeter: World, client: Client, other: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(existence, "UNKNOWN_GRACE_S", PATIENCE_S)
    run = await other.run("r1")
    waiting = asyncio.create_task(run.result())
    accepted = asyncio.create_task(run.accepted())
    await asyncio.sleep(0.01)
    await client.submit("greeter.greet", {"name": "Ada"}, run_id="r1")
    await greeter.start(await greeter.next_submission())
    await asyncio.wait_for(accepted, PATIENCE_S)
    await greeter.end("r1", output=encode_json("just in time"))
    assert await asyncio.wait_for(waiting, PATIENCE_S) == "just in time"


async def test_one_that_is_open_is_waited_for_however_long(
    greeter: World, client: Client, other: Client
) -> None:
    await client.submit("greeter.greet", {"name": "Ada"}, run_id="r1")
    await greeter.start(await greeter.next_submission())
    await taken_in(greeter, "r1")
    run = await other.run("r1")
    await asyncio.wait_for(run.accepted(), PATIENCE_S)
    waiting = asyncio.create_task(run.result())
    following = asyncio.create_task(listed(run))
    await asyncio.wait({waiting, following}, timeout=5 * GRACE_S)
    assert not waiting.done()
    assert not following.done()
    await greeter.end("r1", output=encode_json("at last"))
    assert await asyncio.wait_for(waiting, PATIENCE_S) == "at last"
    assert await asyncio.wait_for(following, PATIENCE_S) == [
        EventType.RUN_STARTED,
        EventType.RUN_SUCCEEDED,
    ]


async def in_journal(world: World, run_id: str, key: str, value: bytes | None) -> None:
    topic = TOPICS.journal(COORDINATOR_GROUP)
    await world.bus.publish([Record(topic, key.encode(), value, (), world.partition(run_id))])


async def test_a_submission_that_was_passed_while_it_waits_is_waited_for(
    greeter: World, client: Client, other: Client
) -> None:
    """It needs a blob that does not come; others went on, and the offset with them."""
    await client.submit("greeter.greet", {"name": "Ada"}, run_id="r1")
    place = TopicPartition(TOPICS.coordinator, greeter.partition("r1"))
    (found,) = [r async for records in greeter.bus.read(*place) for r in records]
    headers = [RecordHeader(name, value) for name, value in found.headers]
    parked = Parked(found.offset, found.key, found.value, headers, found.timestamp_ms)
    key = f"parked/{found.offset}"
    await in_journal(greeter, "r1", key, encode(CoordinatorJournal(parked)))
    await taken_in(greeter, "r1")
    waiting = asyncio.create_task((await other.run("r1")).result())
    await asyncio.wait({waiting}, timeout=5 * GRACE_S)
    assert not waiting.done()
    twin = next(f"x{n}" for n in range(99) if greeter.partition(f"x{n}") == place.partition)
    with pytest.raises(RunNotFound):
        await asyncio.wait_for((await other.run(twin)).result(), PATIENCE_S)

    await in_journal(greeter, "r1", key, None)
    with pytest.raises(RunNotFound):
        await asyncio.wait_for(waiting, PATIENCE_S)


async def test_an_open_run_is_known_though_its_events_were_removed(
    greeter: World, other: Client
) -> None:
    await in_journal(greeter, "r1", "run/r1", b"an open run")
    waiting = asyncio.create_task((await other.run("r1")).result())
    await asyncio.wait({waiting}, timeout=5 * GRACE_S)
    assert not waiting.done()
    await greeter.end("r1", output=encode_json("after months"))
    assert await asyncio.wait_for(waiting, PATIENCE_S) == "after months"


async def test_what_was_refused_shows_no_run(greeter: World, client: Client, other: Client) -> None:
    await client.submit("greeter.greet", {"name": "Ada"}, run_id="r1")
    cause, _, _ = await greeter.next_submission()
    asked_before = await other.run("r1")
    await greeter.say("r1", EventType.RUN_REFUSED, cause=cause, message="cannot be run")
    await taken_in(greeter, "r1")
    for run in (asked_before, await other.run("r1")):
        with pytest.raises(RunNotFound):
            await asyncio.wait_for(run.result(), PATIENCE_S)


async def test_what_was_taken_in_while_it_was_asked_for_is_found(
    greeter: World, other: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Consumed between the look at the events and the look at the submissions: its events stand
    # before the end that is asked for last, though the feed may not have brought them yet.
    run = await other.run("r1")
    deliver = run._watch.deliver
    held: list[tuple[int, bytes, bytes]] = []
    monkeypatch.setattr(type(run._watch), "deliver", lambda _, *event: held.append(event))
    waiting = asyncio.create_task(run.result())
    await asyncio.sleep(GRACE_S / 10)
    started = run_row("r1", RunState.RUNNING)
    await greeter.say("r1", EventType.RUN_STARTED, run=started)
    await asyncio.wait({waiting}, timeout=3 * GRACE_S)
    assert not waiting.done()
    monkeypatch.undo()
    for event in held:
        deliver(*event)
    await greeter.end("r1", output=encode_json("found"))
    assert await asyncio.wait_for(waiting, PATIENCE_S) == "found"


async def test_a_run_may_be_asked_for_again_once_it_was_submitted(
    greeter: World, client: Client, other: Client
) -> None:
    run = await other.run("r1")
    with pytest.raises(RunNotFound):
        await asyncio.wait_for(run.result(), PATIENCE_S)
    await client.submit("greeter.greet", {"name": "Ada"}, run_id="r1")
    await greeter.start(await greeter.next_submission())
    await greeter.end("r1", output=encode_json("now"))
    assert await asyncio.wait_for(run.result(), PATIENCE_S) == "now"
