"""How a run stands, and what becomes of a signal, as a client tells it."""

from __future__ import annotations

import asyncio

import pytest

from holdfast.bus.port import Record
from holdfast.client import (
    Client,
    CommandRefused,
    Run,
    RunStatus,
    SignalOutcome,
    SyncRun,
    WaitTimeout,
)
from holdfast.client.sync import _LoopThread
from holdfast.schemas import (
    Ask,
    AskEntry,
    AskKind,
    AskRow,
    CoordinatorJournal,
    Event,
    EventType,
    RunEntry,
    RunState,
    Signal,
    SignalAsk,
    SignalEntry,
    SleepAsk,
    TaskEntry,
    TaskState,
    Unencodable,
    encode,
    encode_json,
)
from holdfast.schemas.records import ListChunk, Marker
from tests.unit.client.conftest import TOPICS, World, run_row, task_row

Body = RunEntry | TaskEntry | AskEntry | SignalEntry | ListChunk | Marker


async def journal(world: World, key: str, body: Body | None, run_id: str = "r1") -> None:
    value = None if body is None else encode(CoordinatorJournal(body))
    topic = TOPICS.journal("coordinator")
    place = world.partition(run_id)
    await world.bus.publish([Record(topic, key.encode(), value, (), place)])


def ask(name: str, asked_ms: int) -> AskEntry:
    return AskEntry(Ask("a", 1, name, "", SleepAsk(5)), asked_ms, None, None, asked_ms + 5)


async def open_run(world: World, client: Client) -> Run[object]:
    """A run that waits, and another that has its id as the beginning of its own."""
    entry = RunEntry(run_row("r1", RunState.RUNNING), "{}", "r1", 0, {}, None)
    await world.say("r1", EventType.RUN_STARTED, run=entry.row)
    await journal(world, "run/r1", entry)
    await journal(world, "run/r10/ask/aa", ask("another run's", 1))
    await journal(world, "run/r1/a", TaskEntry(task_row("a", TaskState.DISPATCHED), None, None))
    await journal(world, "run/r1/m.7", TaskEntry(task_row("m.7", TaskState.FAILED), None, None))
    await journal(world, "run/r1/m/items/0", ListChunk([], []))
    for name, asked_ms in (("late", 20), ("early", 10), ("over", 1)):
        entry_of = ask(name, asked_ms)
        await journal(world, f"run/r1/ask/{entry_of.row().ask_id}", entry_of)
    await journal(world, f"run/r1/ask/{ask('over', 1).row().ask_id}", None)
    word = Signal("s1", "go", encode_json(1), "ann")
    await journal(world, "run/r1/signal/1", SignalEntry(word, 3, taken=False))
    await journal(world, "run/r1/signal/0", SignalEntry(word, 2, taken=True))
    return await client.run("r1")


async def test_an_open_run_is_told_by_the_journal(world: World, client: Client) -> None:
    run = await open_run(world, client)
    found = await run.status()
    assert found.run.state is RunState.RUNNING
    assert [row.task_id for row in found.tasks] == ["a"]
    assert [row.name for row in found.waits] == ["early", "late"]
    assert [(signal.signal_id, signal.signal) for signal in found.signals] == [("s1", "go")]
    assert await run.waits() == found.waits
    first = found.waits[0]
    assert (first.kind, first.asked_ms, first.until_ms) == (AskKind.SLEEP, 10, 15)
    assert first.describe() == "sleeps ('early')"


async def test_a_run_that_has_ended_is_told_by_its_end(world: World, client: Client) -> None:
    await world.say("r1", EventType.RUN_STARTED, run=run_row("r1", RunState.RUNNING))
    await world.end("r1", output=encode_json("done"))
    found = await (await client.run("r1")).status()
    assert found == RunStatus(run_row("r1", RunState.SUCCEEDED, output=encode_json("done")))


async def test_one_that_no_coordinator_has_taken_in_is_waited_for(
    greeter: World, client: Client
) -> None:
    run = await client.submit("greeter.greet", {"name": "Ada"}, run_id="r1")
    with pytest.raises(WaitTimeout, match="no coordinator has taken it in"):
        await run.waits(0.05)


async def test_the_synchronous_handle_asks_the_same(world: World, client: Client) -> None:
    run = await open_run(world, client)

    class Here(_LoopThread):
        """Asks on the test's own loop, from another thread."""

        def __init__(self) -> None:
            self._loop = asyncio.get_running_loop()

    handle = SyncRun(Here(), run)
    assert await asyncio.to_thread(handle.waits) == await run.waits()
    assert await asyncio.to_thread(handle.status) == await run.status()


# --- signals -------------------------------------------------------------------------------------


async def signalled(
    world: World, run: Run[object], kind: EventType, *, ask: AskRow | None = None, message: str = ""
) -> asyncio.Task[object]:
    """Send a signal, and have it answered as a coordinator would."""
    sending = asyncio.create_task(run.signal("go", {"n": 1}, signal_id="s1"))
    cause, _, envelope = await world.next_submission()
    assert isinstance(envelope.body, Signal)
    assert (envelope.body.signal_id, envelope.body.payload) == ("s1", encode_json({"n": 1}))
    event = Event("r1", kind, 1, cause, None, None, message)
    event.ask, event.signal = ask, envelope.body
    await world.bus.publish([Record(TOPICS.events, None, encode(event), (), cause.partition)])
    await asyncio.wait([sending], timeout=5)
    return sending  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("kind", "outcome", "task_id", "message"),
    [
        (EventType.SIGNAL_KEPT, SignalOutcome.KEPT, None, "kept until a task waits for it"),
        (EventType.SIGNAL_REPEATED, SignalOutcome.REPEATED, None, "counts once"),
        (EventType.TASK_ANSWERED, SignalOutcome.TAKEN, "a", "task 'a' has it"),
    ],
)
async def test_a_receipt_tells_what_became_of_a_signal(
    world: World,
    client: Client,
    kind: EventType,
    outcome: SignalOutcome,
    task_id: str | None,
    message: str,
) -> None:
    row = AskEntry(Ask("a", 1, "go", "", SignalAsk("go", None, None)), 1, None, None, None).row()
    taken = row if kind is EventType.TASK_ANSWERED else None
    receipt = await (await signalled(world, await client.run("r1"), kind, ask=taken))
    assert (receipt.outcome, receipt.task_id) == (outcome, task_id)  # type: ignore[attr-defined]
    assert message in receipt.message  # type: ignore[attr-defined]


async def test_a_refused_signal_says_why(world: World, client: Client) -> None:
    run = await client.run("r1")
    refused = await signalled(world, run, EventType.SIGNAL_REFUSED, message="grade: no number")
    with pytest.raises(CommandRefused, match="grade: no number"):
        await refused


async def test_what_json_cannot_hold_is_not_sent(world: World, client: Client) -> None:
    run = await client.run("r1")
    with pytest.raises(Unencodable, match="payload of signal 'go' cannot be written as JSON"):
        await run.signal("go", object())
    assert world.asked() == []
