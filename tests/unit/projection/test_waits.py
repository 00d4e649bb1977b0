"""What tasks wait for, signals and child runs, in whatever order the projection hears of them."""

from __future__ import annotations

from dataclasses import replace

from holdfast.bus.port import TopicPartition
from holdfast.coordinator.projection import (
    AskState,
    Projection,
    SignalState,
    find_run,
    list_children,
    list_history,
    list_runs,
    list_signals,
    list_tasks,
    list_waits,
)
from holdfast.schemas import EventType, RunState, SignalEntry, TaskState
from tests.unit.projection.conftest import (
    CALL,
    CHILD,
    SLEEP,
    TOPICS,
    VERDICT,
    OpenProjection,
    World,
    run_row,
    task_row,
    word,
)


async def caught_up(opened: OpenProjection) -> Projection:
    projection = opened()
    await projection.start()
    assert await projection.catch_up()
    return projection


async def texts(projection: Projection) -> list[str]:
    found = await projection.query(lambda c: list_waits(c, "r1"))
    return [wait.row.describe() for wait in found]


async def signals(projection: Projection) -> dict[str, str]:
    found = await projection.query(lambda c: list_signals(c, "r1"))
    return {signal.signal_id: signal.state.value for signal in found}


async def test_asks_are_open_until_they_are_answered_or_closed(
    world: World, opened: OpenProjection
) -> None:
    await world.event(EventType.RUN_STARTED, run_row("r1", 1))
    for entry in (SLEEP, VERDICT, CALL, CHILD):
        await world.event(EventType.TASK_ASKED, ask=entry.row())
    projection = await caught_up(opened)
    assert sorted(await texts(projection)) == [
        "sleeps ('nap')",
        "waits for reviewer.review (task ~00ab)",
        "waits for run r1.00cd (plan small)",
        "waits for signal 'verdict'",
    ]
    await world.event(EventType.TASK_ANSWERED, ask=SLEEP.row(), at_ms=9_000)
    await world.event(EventType.ASK_CLOSED, ask=CALL.row())
    await world.event(EventType.TASK_ANSWERED, ask=VERDICT.row(), message="none came", at_ms=9_001)
    assert await projection.catch_up()
    assert await texts(projection) == ["waits for run r1.00cd (plan small)"]
    every = await projection.query(lambda c: list_waits(c, "r1", only_open=False))
    assert {(w.row.name, w.state, w.ended_ms, w.message) for w in every} == {
        ("nap", AskState.ANSWERED, 9_000, ""),
        ("verdict", AskState.ANSWERED, 9_001, "none came"),
        ("call", AskState.CLOSED, 1_000, ""),
        ("run", AskState.OPEN, None, ""),
    }
    verdict = next(wait.row for wait in every if wait.row.name == "verdict")
    assert verdict == VERDICT.row()


async def test_a_run_that_has_ended_waits_for_nothing(world: World, opened: OpenProjection) -> None:
    await world.event(EventType.RUN_STARTED, run_row("r1", 1))
    await world.event(EventType.TASK_ASKED, ask=SLEEP.row())
    await world.event(EventType.RUN_FAILED, run_row("r1", 2, RunState.FAILED))
    assert await texts(await caught_up(opened)) == []


async def test_history_tells_of_asks_and_signals(world: World, opened: OpenProjection) -> None:
    await world.event(EventType.TASK_ASKED, ask=VERDICT.row())
    await world.event(EventType.TASK_ANSWERED, ask=VERDICT.row(), signal=word("s1"))
    projection = await caught_up(opened)
    asked, answered = await projection.query(lambda c: list_history(c, "r1"))
    assert (asked.task_id, asked.signal) == ("a", None)
    assert asked.ask is not None
    assert asked.ask["subject"] == "verdict"
    assert answered.signal == {"signal_id": "s1", "signal": "verdict", "actor": "ann"}


async def test_signals_are_kept_taken_or_refused(world: World, opened: OpenProjection) -> None:
    await world.event(EventType.SIGNAL_KEPT, signal=word("kept"))
    await world.event(EventType.SIGNAL_KEPT, signal=word("taken later"))
    await world.event(EventType.SIGNAL_REPEATED, signal=word("kept"))
    await world.event(EventType.SIGNAL_REFUSED, signal=word("bad"), message="grade: no")
    projection = await caught_up(opened)
    await world.event(EventType.TASK_ANSWERED, ask=VERDICT.row(), signal=word("taken later"))
    await world.event(EventType.SIGNAL_REFUSED, signal=word("taken later"), message="closed")
    assert await projection.catch_up()
    assert await signals(projection) == {"kept": "kept", "taken later": "taken", "bad": "refused"}
    found = await projection.query(lambda c: list_signals(c, "r1", states=(SignalState.TAKEN,)))
    assert [(signal.signal, signal.actor, signal.task_id) for signal in found] == [
        ("verdict", "ann", "a")
    ]
    await world.event(EventType.SIGNAL_KEPT, signal=word("bad"))
    assert await projection.catch_up()
    assert (await signals(projection))["bad"] == "kept"


async def test_a_signal_id_may_be_long(world: World, opened: OpenProjection) -> None:
    await world.event(EventType.SIGNAL_KEPT, signal=word("x" * 10_000))
    assert await signals(await caught_up(opened)) == {"x" * 10_000: "kept"}


async def test_a_new_database_takes_waits_from_the_journal(
    world: World, opened: OpenProjection
) -> None:
    await world.journal(run_row("r1", 3))
    await world.journal_part(f"ask/{SLEEP.row().ask_id}", SLEEP)
    await world.journal_part(f"ask/{VERDICT.row().ask_id}", VERDICT)
    await world.journal_part(f"ask/{VERDICT.row().ask_id}", None)
    await world.journal_part("signal/1", SignalEntry(word("kept"), 1_000, taken=False))
    await world.journal_part("signal/2", SignalEntry(word("taken"), 1_000, taken=True))
    projection = await caught_up(opened)
    assert await texts(projection) == ["sleeps ('nap')"]
    assert await signals(projection) == {"kept": "kept", "taken": "taken"}


async def test_events_that_the_journal_reflects_already_change_nothing(
    world: World, opened: OpenProjection
) -> None:
    await world.journal(run_row("r1", 3))
    await world.journal_part("signal/1", SignalEntry(word("s"), 1_000, taken=True))
    await world.event(EventType.TASK_ASKED, ask=SLEEP.row())
    await world.event(EventType.SIGNAL_KEPT, signal=word("s"))
    await world.event(EventType.TASK_ANSWERED, ask=VERDICT.row(), signal=word("s"))
    projection = await caught_up(opened)
    assert await texts(projection) == ["sleeps ('nap')"]
    assert await signals(projection) == {"s": "taken"}


async def test_what_ended_while_nobody_followed_is_open_no_more(
    world: World, opened: OpenProjection
) -> None:
    await world.event(EventType.RUN_STARTED, run_row("r1", 1))
    await world.event(EventType.TASK_ASKED, ask=SLEEP.row())
    await world.event(EventType.TASK_ASKED, ask=VERDICT.row())
    await world.event(EventType.SIGNAL_KEPT, signal=word("kept"))
    first = await caught_up(opened)
    assert len(await texts(first)) == 2
    await first.close()
    await world.event(EventType.TASK_ANSWERED, ask=SLEEP.row())
    await world.event(EventType.RUN_PAUSED, run_row("r1", 2, RunState.PAUSED))
    await world.journal(run_row("r1", 2, RunState.PAUSED))
    await world.journal_part(f"ask/{VERDICT.row().ask_id}", VERDICT)
    await world.bus.purge({TopicPartition(TOPICS.events, 0): 6})
    again = opened()
    await again.start()
    assert await again.catch_up()
    assert await texts(again) == ["waits for signal 'verdict'"]
    assert await signals(again) == {}


async def test_called_tasks_and_child_runs_name_their_parents(
    world: World, opened: OpenProjection
) -> None:
    await world.event(EventType.RUN_STARTED, run_row("r1", 1))
    await world.event(EventType.TASK_DISPATCHED, task=task_row("a", 1, TaskState.DISPATCHED))
    await world.event(EventType.TASK_DISPATCHED, task=task_row("~00ab", 1, TaskState.DISPATCHED))
    await world.event(EventType.TASK_ASKED, ask=CALL.row())
    await world.event(EventType.TASK_ASKED, ask=CHILD.row())
    projection = await caught_up(opened)
    rows = await projection.query(lambda c: list_tasks(c, "r1"))
    assert {row.task_id: row.caller for row in rows} == {"a": None, "~00ab": "a"}
    (early,) = await projection.query(lambda c: list_children(c, "r1"))
    assert (early.run_id, early.state) == ("r1.00cd", None)

    child = run_row("r1.00cd", 1)
    child.submitted_by = "r1/a"
    await world.event(EventType.RUN_STARTED, child, run_id="r1.00cd")
    assert await projection.catch_up()
    (begun,) = await projection.query(lambda c: list_children(c, "r1"))
    assert (begun.state, begun.plan_name, begun.task_id) == (RunState.RUNNING, "small", "a")
    found = await projection.query(lambda c: find_run(c, "r1.00cd"))
    assert found is not None
    assert found.parent == ("r1", "a")
    every = await projection.query(list_runs)
    assert {run.run_id: run.parent for run in every} == {"r1": None, "r1.00cd": ("r1", "a")}
    waits = await projection.query(lambda c: list_waits(c, "r1"))
    assert {wait.row.name: wait.child_state for wait in waits} == {
        "call": "dispatched",
        "run": "running",
    }


async def test_a_run_that_was_there_before_is_nobodys_child(
    world: World, opened: OpenProjection
) -> None:
    await world.event(EventType.RUN_STARTED, run_row("r1.00cd", 1), run_id="r1.00cd")
    await world.event(EventType.RUN_STARTED, run_row("r1", 1))
    await world.event(EventType.TASK_ASKED, ask=CHILD.row())
    await world.event(EventType.TASK_ANSWERED, ask=CHILD.row(), message="it exists already")
    projection = await caught_up(opened)
    found = await projection.query(lambda c: find_run(c, "r1.00cd"))
    assert found is not None
    assert found.parent is None
    assert await projection.query(lambda c: list_children(c, "r1")) == []


async def test_the_last_word_about_an_ask_counts(world: World, opened: OpenProjection) -> None:
    """A run that is continued is waited for under another id, and a task that was restarted asks
    anew under the same name; the journal has the newest of it, events tell the rest."""
    await world.event(EventType.RUN_STARTED, run_row("r1", 1))
    await world.journal(run_row("r1", 1))
    await world.journal_part(f"ask/{CHILD.row().ask_id}", replace(CHILD, child="r1.00cd~1"))
    await world.event(EventType.TASK_ASKED, ask=CHILD.row())
    await world.event(EventType.TASK_ASKED, ask=replace(CHILD.row(), child="r1.00cd~1"))
    projection = await caught_up(opened)
    assert await texts(projection) == ["waits for run r1.00cd~1 (plan small)"]
    await world.event(EventType.TASK_ANSWERED, ask=CHILD.row())
    assert await projection.catch_up()
    assert await texts(projection) == []
    await world.event(EventType.TASK_ASKED, ask=CHILD.row())
    assert await projection.catch_up()
    assert await texts(projection) == ["waits for run r1.00cd (plan small)"]
