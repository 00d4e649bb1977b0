"""Moments in between: while a client connects, and while another has the same run id."""

from __future__ import annotations

import asyncio

import pytest

from holdfast.bus.port import Record
from holdfast.client import Client, ClientClosed, ClientError, EventsLost, RunConflict
from holdfast.schemas import Event, EventType, RunState, encode, encode_json
from tests.unit.client.conftest import SETTINGS, TOPICS, World, run_row
from tests.waiting import until


async def test_topics_that_a_coordinator_is_about_to_create_are_waited_for() -> None:
    world = World()
    client = Client(settings=SETTINGS, environment=world.environment)
    connecting = asyncio.create_task(client.start())
    await asyncio.sleep(0.01)
    assert not connecting.done()
    await world.create()
    async with asyncio.timeout(5):
        await connecting
    await client.close()


async def test_closing_while_it_connects_leaves_nothing_open(world: World) -> None:
    specs = dict(world.place.broker.topics)
    world.place.broker.topics.clear()
    client = Client(settings=SETTINGS, environment=world.environment)
    connecting = asyncio.create_task(client.start())
    await asyncio.sleep(0)
    await client.close()
    world.place.broker.topics.update(specs)
    with pytest.raises(ClientClosed):
        await connecting
    assert client._connected is None


# --- one id, two submissions ---------------------------------------------------------------------


async def test_the_end_of_anothers_run_is_never_ours(greeter: World, client: Client) -> None:
    """It had taken the id just before, with another input, and ended before we were answered."""
    run = await client.submit("greeter.greet", {"name": "Ada"}, run_id="r1")
    cause, _, _ = await greeter.next_submission()
    theirs = run_row("r1", RunState.RUNNING)
    await greeter.say("r1", EventType.RUN_STARTED, run=theirs, plan="{}")
    ended = run_row("r1", RunState.SUCCEEDED, output=encode_json("theirs"))
    await greeter.say("r1", EventType.RUN_SUCCEEDED, run=ended)
    asking = asyncio.create_task(run.result())
    accepting = asyncio.create_task(run.accepted())
    await until(lambda: run._watch.end is not None, "their end has passed by")
    await asyncio.sleep(0)
    assert not asking.done()
    assert not accepting.done()
    await greeter.say("r1", EventType.RUN_CONFLICTED, cause=cause, message="another input")
    for task in (asking, accepting):
        with pytest.raises(RunConflict, match="another input"):
            await task


async def test_a_run_that_is_open_cannot_be_forked_and_is_not_waited_for(
    greeter: World, client: Client
) -> None:
    await client.submit("greeter.greet", {"name": "Ada"}, run_id="r1")
    await greeter.start(await greeter.next_submission())
    async with asyncio.timeout(5):
        with pytest.raises(ClientError, match="is running: only a run that failed"):
            await client.fork("r1")
        with pytest.raises(EventsLost):
            await client.fork("unknown")


async def test_an_event_that_cannot_be_read_is_its_runs_affair_alone(
    greeter: World, client: Client
) -> None:
    one = await client.submit("greeter.greet", {"name": "Ada"}, run_id="r1")
    place = (await greeter.next_submission())[0].partition
    neighbour = next(n for n in (f"n{i}" for i in range(99)) if greeter.partition(n) == place)
    other = await client.submit("greeter.greet", {"name": "Bo"}, run_id=neighbour)
    ended = run_row("r1", RunState.SUCCEEDED)
    damaged = encode(Event("r1", EventType.RUN_SUCCEEDED, 1, None, ended, None, ""))[:-20]
    await greeter.bus.publish([Record(TOPICS.events, None, damaged, (), place)])
    await greeter.end(neighbour, output=encode_json("fine"))
    async with asyncio.timeout(5):
        assert await other.result() == "fine"
        with pytest.raises(ClientError, match="cannot be read"):
            await one.result()
