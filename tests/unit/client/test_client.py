"""What a client asks for, and how it answers to what the coordinator says."""

from __future__ import annotations

import asyncio
import gc
import json

import pytest

from holdfast.bus.errors import Rejected, TopicMissing
from holdfast.bus.port import TopicPartition
from holdfast.client import (
    Client,
    ClientClosed,
    ClientError,
    CommandRefused,
    EventsLost,
    RunCancelled,
    RunConflict,
    RunFailed,
    RunRefused,
    WaitTimeout,
)
from holdfast.client import run as run_module
from holdfast.schemas import (
    Command,
    EventType,
    Failure,
    FailureKind,
    PayloadCodec,
    Plan,
    PlanError,
    RunState,
    Submission,
    Task,
    TaskState,
    encode_json,
)
from holdfast.testing.sim import RequestKind
from tests.unit.client.conftest import (
    SETTINGS,
    TOPICS,
    Greeting,
    Person,
    World,
    run_row,
    task_row,
)
from tests.waiting import until


class NewPerson(Person):
    title: str = ""


GREET: Task[Person, Greeting] = Task(
    agent="greeter", name="greet", input_type=Person, output_type=Greeting
)


async def test_a_submission_is_resolved_canonical_and_keyed_by_its_run(
    greeter: World, client: Client
) -> None:
    run = await client.submit("greeter.greet", {"name": "Ada"}, run_id="r1")
    cause, key, envelope = await greeter.next_submission()
    body = envelope.body
    assert isinstance(body, Submission)
    assert (run.id, key, envelope.run_id, body.origin) == ("r1", "r1", "r1", "r1")
    assert run.position is not None
    assert (run.position.topic, run.position.offset) == (TOPICS.coordinator, cause.offset)
    tasks = json.loads(body.plan)["tasks"]
    assert tasks["task"]["input_schema_id"] == greeter.ids["greeter.greet.input"]
    assert body.input == encode_json({"name": "Ada"})
    (record,) = greeter.place.records(TOPICS.coordinator, cause.partition)
    assert dict(record.headers) == {"holdfast-run": b"r1", "holdfast-reply-key": b"r1"}


async def test_the_result_of_a_task_has_its_type(greeter: World, client: Client) -> None:
    run = await client.submit(GREET, Person(name="Ada"))
    await greeter.start(await greeter.next_submission())
    output = PayloadCodec(Greeting).encode(Greeting(text="Hello, Ada"), greeter.ids["o"])
    await greeter.end(run.id, output=output)
    assert await run.result(5) == Greeting(text="Hello, Ada")
    assert await run.result() == Greeting(text="Hello, Ada")  # again, at once


async def test_the_result_of_a_name_is_plain(greeter: World, client: Client) -> None:
    run = await client.submit("greeter.greet", {"name": "Ada"})
    assert run.id.startswith("greeter-greet-")
    output = PayloadCodec(Greeting).encode(Greeting(text="Hello"), greeter.ids["o"])
    await greeter.end(run.id, output=output)
    assert await run.result(5) == {"text": "Hello"}


async def test_a_failed_run_raises_its_typed_failure(greeter: World, client: Client) -> None:
    run = await client.submit("greeter.greet", {"name": "Ada"})
    failure = Failure(FailureKind.ERROR, "builtins.OSError", "no disk", "Traceback…", True)
    await greeter.end(run.id, RunState.FAILED, failure=failure)
    with pytest.raises(RunFailed, match=r"failed: builtins\.OSError: no disk") as caught:
        await run.result(5)
    assert caught.value.failure == failure
    assert not isinstance(caught.value, RunCancelled)


async def test_a_cancelled_run_raises_that(greeter: World, client: Client) -> None:
    run = await client.submit("greeter.greet", {"name": "Ada"})
    await greeter.end(run.id, RunState.CANCELLED)
    with pytest.raises(RunCancelled, match="was cancelled"):
        await run.result(5)


async def test_waiting_is_bounded_and_the_run_goes_on(greeter: World, client: Client) -> None:
    run = await client.submit("greeter.greet", {"name": "Ada"})
    with pytest.raises(WaitTimeout, match="it goes on"):
        await run.result(0.02)
    await greeter.end(run.id, output=encode_json(1))
    assert await run.result(5) == 1


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        (EventType.RUN_REFUSED, RunRefused),
        (EventType.RUN_CONFLICTED, RunConflict),
        (EventType.COMMAND_REFUSED, RunRefused),  # it could not be read
    ],
)
async def test_a_refusal_of_this_submission_is_raised(
    greeter: World, client: Client, kind: EventType, error: type[Exception]
) -> None:
    run = await client.submit("greeter.greet", {"name": "Ada"}, run_id="r1")
    cause, _, _ = await greeter.next_submission()
    await greeter.say("r1", kind, cause=cause, message="because of this")
    with pytest.raises(error, match="because of this"):
        await run.result(5)
    with pytest.raises(error, match="because of this"):
        [event async for event in run.events()]


async def test_acceptance_can_be_waited_for(greeter: World, client: Client) -> None:
    run = await client.submit("greeter.greet", {"name": "Ada"}, run_id="r1")
    with pytest.raises(WaitTimeout, match="is one running"):
        await run.accepted(0.01)
    asked = await greeter.next_submission()
    await greeter.start(asked)
    await asyncio.wait_for(run.accepted(), 5)
    again = await client.submit("greeter.greet", {"name": "Bob"}, run_id="r1")
    cause, _, _ = await greeter.next_submission()
    await greeter.say("r1", EventType.RUN_CONFLICTED, cause=cause, message="another input")
    with pytest.raises(RunConflict, match="another input"):
        await again.accepted(5)


async def test_a_refusal_of_anothers_submission_is_not_ours(greeter: World, client: Client) -> None:
    run = await client.submit("greeter.greet", {"name": "Ada"}, run_id="r1")
    cause, _, _ = await greeter.next_submission()
    cause.offset += 1
    await greeter.say("r1", EventType.RUN_CONFLICTED, cause=cause)
    waiting = asyncio.create_task(run.result(5))
    await until(lambda: bool(run._watch.answers), "the other's answer has passed by")
    await asyncio.sleep(0)
    await greeter.end("r1", output=encode_json("ours"))
    assert await waiting == "ours"


async def test_a_repeated_submission_reads_on_from_where_the_run_began(
    greeter: World, client: Client
) -> None:
    first = await client.submit("greeter.greet", {"name": "Ada"}, run_id="r1")
    asked = await greeter.next_submission()
    await greeter.start(asked)
    await greeter.end("r1", output=encode_json("done"))
    await first.result(5)
    again = await client.submit("greeter.greet", {"name": "Ada"}, run_id="r1")
    cause, _, envelope = await greeter.next_submission()
    assert isinstance(envelope.body, Submission)
    assert envelope.body.input_hash == asked[2].body.input_hash  # type: ignore[union-attr]
    await greeter.say("r1", EventType.RUN_REPEATED, cause=cause, events_from=0)
    assert await again.result(5) == "done"
    assert [event.type async for event in again.events()] == [
        EventType.RUN_STARTED,
        EventType.RUN_SUCCEEDED,
    ]


async def test_a_repeated_submission_whose_events_are_gone_says_so(
    greeter: World, client: Client
) -> None:
    run = await client.submit("greeter.greet", {"name": "Ada"}, run_id="r1")
    cause, _, _ = await greeter.next_submission()
    await greeter.say(
        "r1", EventType.RUN_REPEATED, cause=cause, events_from=0, message="run 'r1' is succeeded"
    )
    with pytest.raises(EventsLost, match="no longer on the bus"):
        await run.result(5)


async def test_a_repeated_submission_of_an_open_run_waits_for_its_end(
    greeter: World, client: Client
) -> None:
    run = await client.submit("greeter.greet", {"name": "Ada"}, run_id="r1")
    cause, _, _ = await greeter.next_submission()
    row = run_row("r1", RunState.RUNNING)
    await greeter.say("r1", EventType.RUN_REPEATED, cause=cause, events_from=0, run=row)
    waiting = asyncio.create_task(run.result(5))
    await asyncio.sleep(0.01)
    await greeter.end("r1", output=encode_json("later"))
    assert await waiting == "later"


async def test_a_run_is_found_by_its_id(greeter: World, client: Client) -> None:
    run = await client.submit("greeter.greet", {"name": "Ada"}, run_id="r1")
    await greeter.start(await greeter.next_submission())
    await greeter.end("r1", output=encode_json("done"))
    await run.result(5)
    async with Client(settings=SETTINGS, environment=greeter.environment) as other:
        found = await other.run("r1")
        assert await found.result(5) == "done"
        kinds = [event.type async for event in found.events()]
    assert kinds == [EventType.RUN_STARTED, EventType.RUN_SUCCEEDED]


async def test_events_come_in_order_past_and_to_come(greeter: World, client: Client) -> None:
    run = await client.submit("greeter.greet", {"name": "Ada"}, run_id="r1")
    await greeter.start(await greeter.next_submission())
    row = task_row("task", TaskState.DISPATCHED)
    await greeter.say("r1", EventType.TASK_DISPATCHED, task=row)
    seen: list[EventType] = []

    async def follow() -> None:
        async for event in run.events():
            seen.append(event.type)

    following = asyncio.create_task(follow())
    await until(lambda: len(seen) == 2, "what was there is seen")
    await greeter.end("r1")
    await asyncio.wait_for(following, 5)
    assert seen == [EventType.RUN_STARTED, EventType.TASK_DISPATCHED, EventType.RUN_SUCCEEDED]


async def test_an_order_key_is_the_record_key(greeter: World, client: Client) -> None:
    plan = Plan("keyed", order_key=Plan("x").input("name"))
    plan.task("a", "greeter.greet", plan.input())
    run = await client.submit(plan, {"name": "Ada"}, run_id="r1")
    _, key, envelope = await greeter.next_submission()
    assert (run.order_key, key) == ("Ada", "Ada")
    assert isinstance(envelope.body, Submission)
    assert envelope.body.order_key == "Ada"
    await greeter.end("r1", key="Ada", output=encode_json(1))
    assert await run.result(5) == 1
    over = await client.submit(GREET, Person(name="Ada"), order_key="${tricky}")
    assert over.order_key == "${tricky}"


async def test_the_same_plan_and_input_hash_alike_whatever_agents_say(
    greeter: World, client: Client
) -> None:
    hashes, schema_ids = [], []
    for _ in range(2):
        await client.submit("greeter.greet", {"name": "Ada"})
        _, _, envelope = await greeter.next_submission()
        assert isinstance(envelope.body, Submission)
        hashes.append(envelope.body.input_hash)
        schema_ids.append(json.loads(envelope.body.plan)["tasks"]["task"]["input_schema_id"])
        other = await greeter.register("greeter.greet.input2", NewPerson)
        await greeter.publish_agent("greeter", {"greet": (other, greeter.ids["o"]), "new": (1, 1)})
        await client._connected.directory.read_again()  # type: ignore[union-attr]
    assert hashes[0] == hashes[1]
    assert schema_ids == [greeter.ids["greeter.greet.input"], other]  # what they say is taken up


async def test_a_manifest_that_is_about_to_come_is_waited_for(world: World, client: Client) -> None:
    submitting = asyncio.create_task(client.submit("greeter.greet", {"name": "Ada"}))
    await asyncio.sleep(0.05)
    assert not submitting.done()
    ids = (await world.register("i", Person), await world.register("o", Greeting))
    await world.publish_agent("greeter", {"greet": ids})
    run = await asyncio.wait_for(submitting, 5)
    assert run.id


async def test_an_unknown_agent_is_named(greeter: World, client: Client) -> None:
    client._connected.directory.wait_s = 0.0  # type: ignore[union-attr]
    with pytest.raises(PlanError, match=r"no agent 'greater'.*did you mean 'greeter'"):
        await client.submit("greater.greet", {"name": "Ada"})


@pytest.mark.parametrize(
    ("work", "value", "complaint"),
    [
        ("greeter.great", {"name": "Ada"}, "no task 'great'; did you mean 'greet'"),
        ("greeter", {}, "names no task"),
        ("greeter.greet", {"nam": "Ada"}, "name"),
        ("greeter.greet", {"name": float("nan")}, "JSON|name"),
        ("greeter.greet", {"name": object()}, "cannot be written as JSON"),
        ("greeter.greet", {"name": 7}, "name"),
    ],
)
async def test_bad_input_is_refused_before_anything_is_sent(
    greeter: World, client: Client, work: str, value: object, complaint: str
) -> None:
    with pytest.raises(PlanError, match=complaint):
        await client.submit(work, value)
    assert greeter.asked() == []


@pytest.mark.parametrize("run_id", ["", "a/b", "-a", "x" * 129])
async def test_a_bad_run_id_is_refused(greeter: World, client: Client, run_id: str) -> None:
    with pytest.raises(PlanError, match="run id"):
        await client.submit("greeter.greet", {"name": "Ada"}, run_id=run_id)
    assert greeter.asked() == []


async def test_a_task_that_came_with_a_new_deployment_is_found(
    greeter: World, client: Client
) -> None:
    await client.submit("greeter.greet", {"name": "Ada"})
    ids = (greeter.ids["greeter.greet.input"], greeter.ids["o"])
    await greeter.publish_agent("greeter", {"greet": ids, "wave": ids})
    assert await client.submit("greeter.wave", {"name": "Ada"})


async def test_a_command_returns_its_place_or_the_refusal(greeter: World, client: Client) -> None:
    run = await client.submit("greeter.greet", {"name": "Ada"}, run_id="r1")
    await greeter.next_submission()
    pausing = asyncio.create_task(run.pause(reason="lunch"))
    cause, key, envelope = await greeter.next_submission()
    command = envelope.body
    assert isinstance(command, Command)
    assert (key, command.reason) == ("r1", "lunch")
    await greeter.say("r1", EventType.COMMAND_ACCEPTED, cause=cause, command=command)
    receipt = await asyncio.wait_for(pausing, 5)
    assert (receipt.command_id, receipt.position.offset) == (command.command_id, cause.offset)
    cancelling = asyncio.create_task(run.cancel())
    cause, _, _ = await greeter.next_submission()
    await greeter.say("r1", EventType.COMMAND_REFUSED, cause=cause, message="it is closed")
    with pytest.raises(CommandRefused, match="it is closed"):
        await asyncio.wait_for(cancelling, 5)


async def test_a_command_that_nobody_answers(
    greeter: World, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "COMMAND_WAIT_S", 0.02)
    run = await client.run("r1")
    with pytest.raises(WaitTimeout, match="is one running"):
        await run.replay("task")


async def test_a_fork_reuses_what_succeeded_and_keeps_its_origin(
    greeter: World, client: Client
) -> None:
    await client.submit("greeter.greet", {"name": "Ada"}, run_id="r1")
    asked = await greeter.next_submission()
    await greeter.start(asked)
    done = encode_json("kept")
    await greeter.say("r1", EventType.TASK_SUCCEEDED, task=task_row("a", TaskState.SUCCEEDED, done))
    await greeter.say("r1", EventType.TASK_FAILED, task=task_row("b", TaskState.FAILED))
    item = task_row("m.0", TaskState.SUCCEEDED, done)
    await greeter.say("r1", EventType.TASK_SUCCEEDED, task=item)
    await greeter.end("r1", RunState.FAILED)
    one = await client.fork("r1")
    _, _, envelope = await greeter.next_submission()
    assert isinstance(envelope.body, Submission)
    assert isinstance(asked[2].body, Submission)
    assert envelope.body.reused == {"a": done}
    assert envelope.body.origin == "r1"
    assert envelope.body.plan == asked[2].body.plan
    two = await client.fork("r1")
    assert one.id == two.id != "r1"  # asked for twice: one fork


async def test_a_run_that_succeeded_cannot_be_forked(greeter: World, client: Client) -> None:
    await client.submit("greeter.greet", {"name": "Ada"}, run_id="r1")
    await greeter.start(await greeter.next_submission())
    await greeter.end("r1")
    with pytest.raises(ClientError, match="only a run that failed"):
        await client.fork("r1")


async def test_many_runs_share_two_readers(greeter: World, client: Client) -> None:
    opened = 0
    open_reader = greeter.bus.open_reader

    async def counting(starts: dict[TopicPartition, int]) -> object:
        nonlocal opened
        opened += any(partition.topic == TOPICS.events for partition in starts)
        return await open_reader(starts)

    greeter.bus.open_reader = counting  # type: ignore[method-assign, assignment]
    runs = await asyncio.gather(
        *(client.submit("greeter.greet", {"name": "Ada"}, run_id=f"r{n}") for n in range(50))
    )
    for n in range(50):
        await greeter.end(f"r{n}", output=encode_json(n))
    assert await asyncio.gather(*(run.result(5) for run in runs)) == list(range(50))
    assert opened == 2


async def test_submissions_of_one_turn_are_one_publish(greeter: World, client: Client) -> None:
    await client.submit("greeter.greet", {"name": "Ada"}, run_id="first")
    publishes: list[int] = []
    publish = greeter.bus.publish

    async def counting(records: list[object]) -> object:
        publishes.append(len(records))
        return await publish(records)  # type: ignore[arg-type]

    greeter.bus.publish = counting  # type: ignore[method-assign, assignment]
    outbox = client._connected.connection.outbox  # type: ignore[union-attr]
    greeter.place.hold(RequestKind.PUBLISH)
    submitting = asyncio.gather(
        *(client.submit("greeter.greet", {"name": "Ada"}, run_id=f"first{n}") for n in range(40))
    )
    # The first ones are on their way; what comes meanwhile is one more.
    await until(lambda: publishes and len(outbox._waiting) + publishes[0] == 40)
    greeter.place.release(RequestKind.PUBLISH)
    await submitting
    assert len(publishes) <= 2
    assert sum(publishes) == 40


async def test_one_record_that_is_too_large_stops_no_other(greeter: World, client: Client) -> None:
    connection = client._connected.connection  # type: ignore[union-attr]
    large = Command("c", "cancel", None, "x" * 2_000_000, "", "")  # type: ignore[arg-type]
    small = Command("d", "cancel", None, "{}", "", "")  # type: ignore[arg-type]
    results = await asyncio.gather(
        connection.send("r1", "r1", small),
        connection.send("r2", "r2", large),
        connection.send("r3", "r3", small),
        return_exceptions=True,
    )
    assert isinstance(results[1], Rejected)
    assert len(greeter.asked()) == 2


async def test_a_handle_that_is_dropped_is_forgotten(greeter: World, client: Client) -> None:
    run = await client.submit("greeter.greet", {"name": "Ada"})
    feed = client._connected.connection.feed  # type: ignore[union-attr]
    assert len(feed._watches) == 1
    del run
    gc.collect()
    assert len(feed._watches) == 0


async def test_events_purged_before_they_were_read_are_reported(
    greeter: World, client: Client
) -> None:
    run = await client.submit("greeter.greet", {"name": "Ada"}, run_id="r1")
    place = TopicPartition(TOPICS.events, run._watch.partition)
    waiting = asyncio.create_task(run.result(5))
    await asyncio.sleep(0.01)
    log = greeter.place.broker.logs[place]
    log.end += 5
    log.begin = log.end
    greeter.place.broker.tell_news([place])
    with pytest.raises(EventsLost):
        await waiting


async def test_closing_ends_all_waiting(greeter: World, client: Client) -> None:
    run = await client.submit("greeter.greet", {"name": "Ada"})
    waiting = asyncio.create_task(run.result())
    await asyncio.sleep(0)
    await client.close()
    with pytest.raises(ClientClosed):
        await waiting
    with pytest.raises(ClientClosed):
        await client.submit("greeter.greet", {"name": "Ada"})


async def test_a_namespace_that_is_not_there(world: World) -> None:
    world.place.broker.topics.pop(TOPICS.events)
    client = Client(settings=SETTINGS, environment=world.environment, manifest_wait_s=0.01)
    with pytest.raises(TopicMissing, match="holdfast topics create"):
        await client.submit("greeter.greet", {})
    await client.close()
