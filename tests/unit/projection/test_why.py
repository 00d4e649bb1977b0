"""Each way to stand still has a reason of its own, and a remedy where there is one."""

from __future__ import annotations

from holdfast.coordinator.projection import Reason, why, why_task
from holdfast.schemas import (
    AskEntry,
    DeadLetter,
    DeadLetterReason,
    EventType,
    Plan,
    RunState,
    SignalAsk,
    SleepAsk,
    TaskState,
    encode,
)
from holdfast.schemas.plan_settings import step_undoing_id
from holdfast.schemas.records import BreakerRow, BreakerState, EmitAsk, StepKind, StepSummary
from tests.unit.coordinator.host import resolved
from tests.unit.projection.conftest import (
    CALL,
    CHILD,
    SLEEP,
    TOPICS,
    VERDICT,
    OpenProjection,
    World,
    ask_entry,
    manifest,
    run_row,
    task_row,
    word,
)

NOW_MS = 10_000


async def reasons(opened: OpenProjection, now_ms: int = NOW_MS) -> dict[str, Reason]:
    projection = opened()
    await projection.start()
    assert await projection.catch_up()
    found = await projection.query(lambda c: why(c, "r1", now_ms))
    assert found is not None
    return {reason.code: reason for reason in found}


async def test_a_task_whose_agent_is_not_running(world: World, opened: OpenProjection) -> None:
    await world.event(EventType.RUN_STARTED, run_row("r1", 1))
    await world.event(EventType.TASK_DISPATCHED, None, task_row("a", 1, TaskState.DISPATCHED))
    found = await reasons(opened)
    assert "no instance" in found["agent-down"].text
    assert found["agent-down"].remedy == "start it: holdfast agent MODULE:scout"


async def test_a_task_that_is_being_worked(world: World, opened: OpenProjection) -> None:
    await world.event(EventType.RUN_STARTED, run_row("r1", 1))
    await world.event(EventType.TASK_DISPATCHED, None, task_row("a", 1, TaskState.DISPATCHED))
    await world.put(TOPICS.agents, "scout/a", encode(manifest("scout", "a", NOW_MS)))
    found = await reasons(opened)
    assert "with agent scout" in found["dispatched"].text


async def test_the_last_word_of_progress_is_told(world: World, opened: OpenProjection) -> None:
    row = task_row("a", 1, TaskState.DISPATCHED)
    await world.event(EventType.RUN_STARTED, run_row("r1", 1))
    await world.event(EventType.TASK_DISPATCHED, None, row)
    for at_ms, said in ((2_000, "a quarter"), (3_000, "half way (50%)")):
        await world.event(EventType.TASK_PROGRESSED, None, row, message=said, at_ms=at_ms)
    assert (await reasons(opened))["progress"].text == "said 7 s ago: half way (50%)"


async def test_an_open_breaker_of_its_agent_is_told(world: World, opened: OpenProjection) -> None:
    await world.event(EventType.RUN_STARTED, run_row("r1", 1))
    await world.event(EventType.TASK_DISPATCHED, None, task_row("a", 1, TaskState.DISPATCHED))
    alive, gone = manifest("scout", "a", NOW_MS), manifest("scout", "b", NOW_MS - 61_000)
    row = BreakerRow("crm", BreakerState.OPEN, 3_000, 12_000, 9, "OSError: nobody there")
    alive.breakers = gone.breakers = [row]
    await world.put(TOPICS.agents, "scout/a", encode(alive))
    await world.put(TOPICS.agents, "scout/b", encode(gone))
    found = await reasons(opened)
    assert found["breaker"].text == (
        "at a, 'crm' is out of reach since 7 s (OSError: nobody there): 9 calls and tasks are "
        "paused, no attempt is lost; the next call is let through at 1970-01-01 00:00:12 UTC"
    )
    row.state, row.until_ms = BreakerState.HALF_OPEN, None
    await world.put(TOPICS.agents, "scout/a", encode(alive))
    assert "a call is under way to find out" in (await reasons(opened))["breaker"].text


async def test_a_retry_names_the_failure_and_the_time(world: World, opened: OpenProjection) -> None:
    await world.event(EventType.RUN_STARTED, run_row("r1", 1))
    await world.event(EventType.TASK_RETRYING, None, task_row("a", 1, TaskState.RETRYING))
    found = await reasons(opened, now_ms=2_000)
    assert "due in 3 s: OSError: no disk" in found["retrying"].text


async def test_a_run_that_starts_later_says_when(world: World, opened: OpenProjection) -> None:
    row = run_row("r1", 1)
    row.start_ms = NOW_MS + 90_000
    await world.event(EventType.RUN_STARTED, row)
    text = "nothing of it starts before 1970-01-01 00:01:40 UTC, 90 s from now"
    assert (await reasons(opened))["delayed"].text == text
    assert "delayed" not in await reasons(opened, now_ms=NOW_MS + 90_000)


async def test_what_a_loop_counts_are_rounds(world: World, opened: OpenProjection) -> None:
    plan = Plan("looping")
    plan.task("a", "scout.list", repeat={"until": "`false`", "at_most": 9})
    row = task_row("a", 2, TaskState.EXPANDED)
    row.total, row.done = 9, 2
    await world.event(EventType.RUN_STARTED, run_row("r1", 1), plan=resolved(plan))
    await world.event(EventType.TASK_EXPANDED, None, row)
    assert (await reasons(opened))["loop"].text == "2 of at most 9 rounds are done"


async def test_a_map_tells_whose_items_are_still_arriving(
    world: World, opened: OpenProjection
) -> None:
    plan = Plan("arriving")
    plan.map("a", "scout.read", over=plan.task("b", "scout.list").emitted)
    row = task_row("a", 2, TaskState.EXPANDED)
    row.total, row.done = 9, 2
    await world.event(EventType.RUN_STARTED, run_row("r1", 1), plan=resolved(plan))
    await world.event(EventType.TASK_DISPATCHED, None, task_row("b", 1, TaskState.DISPATCHED))
    await world.event(EventType.TASK_EXPANDED, None, row)
    found = (await reasons(opened))["map.arriving"]
    assert found.text == "2 of 9 items are done; task 'b' is at work and may hand out more"
    assert found.remedy == "holdfast why r1/b"
    await world.event(EventType.TASK_SUCCEEDED, None, task_row("b", 2, TaskState.SUCCEEDED))
    assert (await reasons(opened))["map"].text == "2 of 9 items are done"


async def test_who_has_no_room_to_hand_out_more_is_told(
    world: World, opened: OpenProjection
) -> None:
    (found,) = await waiting(world, opened, ask_entry(EmitAsk(8, 4, None), None))
    assert (found.code, found.remedy) == ("waits.emit", "")
    assert found.text == (
        "waits for room to hand out items 8 to 11: a map over them has not begun, or is far"
        " behind; since 8 s"
    )


async def test_what_was_replayed_since_is_no_reason_of_an_end(
    world: World, opened: OpenProjection
) -> None:
    failed, mended = task_row("a", 1, TaskState.FAILED), task_row("b", 1, TaskState.SUCCEEDED)
    failed.attempt = mended.attempt = 2
    run = run_row("r1", 1, RunState.FAILED)
    run.finished_ms = 9_000
    await world.event(EventType.TASK_SUCCEEDED, None, mended)
    await world.event(EventType.TASK_FAILED, None, failed)
    await world.event(EventType.RUN_FAILED, run)
    why_not = DeadLetterReason.EXHAUSTED
    for task_id, attempt in (("a", 1), ("a", 2), ("b", 1)):
        name = f"r1/{task_id}/{attempt}"
        letter = DeadLetter(
            name, why_not, None, "r1", task_id, "scout", "list", attempt, None, None, 1_000
        )
        await world.put(TOPICS.dead_letters, "r1", encode(letter))
    found = await reasons(opened)
    assert found["dead-letter.exhausted"].remedy == "holdfast dead-letters show r1/a/2"


async def test_a_dead_letter_names_the_command(world: World, opened: OpenProjection) -> None:
    letter = DeadLetter(
        "d1", DeadLetterReason.EXHAUSTED, None, "r1", "a", "scout", "list", 3, None, None, 1_000
    )
    await world.event(EventType.RUN_WAITING, run_row("r1", 1, RunState.WAITING))
    await world.event(EventType.TASK_DEAD, None, task_row("a", 1, TaskState.DEAD, 3))
    await world.put(TOPICS.dead_letters, "r1", encode(letter))
    found = await reasons(opened)
    assert found["dead-letter"].remedy == "holdfast dead-letters replay d1"
    assert "(exhausted)" in found["dead-letter"].text


async def test_paused_and_pending(world: World, opened: OpenProjection) -> None:
    plan = '{"version":1,"plan":{"name":"audit","tasks":{"a":{},"b":{}}},"tasks":{}}'
    await world.event(EventType.RUN_PAUSED, run_row("r1", 1, RunState.PAUSED), plan=plan)
    await world.event(EventType.TASK_DISPATCHED, None, task_row("a", 1, TaskState.DISPATCHED))
    found = await reasons(opened)
    assert found["paused"].remedy == "holdfast run resume r1"
    assert found["pending"].text == "b has not begun: it waits for a"


async def test_a_run_that_has_ended(world: World, opened: OpenProjection) -> None:
    await world.event(EventType.RUN_SUCCEEDED, run_row("r1", 2, RunState.SUCCEEDED))
    assert "succeeded" in await reasons(opened)


# --- what handlers wait for ----------------------------------------------------------------------


async def waiting(
    world: World, opened: OpenProjection, *asks: AskEntry, now_ms: int = NOW_MS, alive: bool = True
) -> list[Reason]:
    await world.event(EventType.RUN_STARTED, run_row("r1", 1))
    await world.event(EventType.TASK_DISPATCHED, None, task_row("a", 1, TaskState.DISPATCHED))
    for entry in asks:
        await world.event(EventType.TASK_ASKED, ask=entry.row())
    if alive:
        await world.put(TOPICS.agents, "scout/a", encode(manifest("scout", "a", now_ms)))
    projection = opened()
    await projection.start()
    assert await projection.catch_up()
    found = await projection.query(lambda c: why(c, "r1", now_ms))
    assert found is not None
    return found


async def test_a_wait_for_a_signal_names_the_command(world: World, opened: OpenProjection) -> None:
    (found,) = await waiting(world, opened, VERDICT, now_ms=2_000 + 40 * 3_600_000)
    assert (found.subject, found.code) == ("a", "waits.signal")
    assert found.text == (
        "waits for signal 'verdict' since 40 h, at the longest until 1970-01-01 00:00:09 UTC; "
        "its payload: holdfast schemas show signal.verdict"
    )
    assert found.remedy == "holdfast signal r1 verdict PAYLOAD"


async def test_a_signal_that_was_refused_or_has_another_name_is_told(
    world: World, opened: OpenProjection
) -> None:
    refused = {"signal": word("bad"), "message": "grade: no", "at_ms": 5_000}
    await world.event(EventType.SIGNAL_REFUSED, **refused)  # type: ignore[arg-type]
    await world.event(EventType.SIGNAL_KEPT, signal=word("s2", "verdct"), at_ms=4_000)
    found = {r.code: r for r in await waiting(world, opened, VERDICT)}
    assert "that of ann was refused 5 s ago: grade: no" in found["waits.signal"].text
    assert found["signal-kept"].text == (
        "signal 'verdct' of ann is kept since 6 s: no task waits for one of this name"
    )


async def test_a_sleep_tells_when_it_ends_and_that_it_is_late(
    world: World, opened: OpenProjection
) -> None:
    (found,) = await waiting(world, opened, SLEEP, now_ms=6_000)
    assert (found.code, found.remedy) == ("waits.sleep", "")
    assert found.text == "sleeps ('nap') until 1970-01-01 00:00:09 UTC, 3 s from now"
    late = (await reasons(opened, 9_000 + 180_000))["waits.sleep"]
    assert "that was 3 min ago; is a coordinator running?" in late.text
    assert late.remedy == "holdfast doctor"


async def test_a_call_and_a_child_name_what_to_ask_next(
    world: World, opened: OpenProjection
) -> None:
    await world.event(EventType.TASK_DEAD, None, task_row("~00ab", 1, TaskState.DEAD))
    found = {r.code: r for r in await waiting(world, opened, CALL, CHILD)}
    assert found["waits.call"].text == (
        "waits for reviewer.review (task ~00ab), which is dead; since 8 s"
    )
    assert found["waits.call"].remedy == "holdfast why r1/~00ab"
    assert found["dead-letter"].subject == "~00ab"
    assert "no coordinator has taken in yet; since 8 s" in found["waits.run"].text
    assert found["waits.run"].remedy == "holdfast doctor"
    await world.event(EventType.RUN_PAUSED, run_row("r1.00cd", 1, RunState.PAUSED), run_id="c")
    now = await reasons(opened)
    assert now["waits.run"].text.startswith("waits for run r1.00cd (plan small), which is paused")
    assert now["waits.run"].remedy == "holdfast why r1.00cd"


async def test_who_waits_needs_its_agent_only_afterwards(
    world: World, opened: OpenProjection
) -> None:
    sleeps, agent = await waiting(world, opened, SLEEP, alive=False)
    assert sleeps.code == "waits.sleep"
    assert agent.code == "agent-down"
    assert agent.text.startswith("will go on once that has come, but no instance of it")


async def test_of_a_thousand_calls_some_are_shown(world: World, opened: OpenProjection) -> None:
    naps = [ask_entry(SleepAsk(7_000), name=f"nap{n}") for n in range(25)]
    found = await waiting(world, opened, *naps)
    assert [reason.code for reason in found] == ["waits.sleep"] * 20 + ["waits"]
    assert found[-1].text == "waits for 5 more things"


async def test_one_task_is_explained(world: World, opened: OpenProjection) -> None:
    await world.event(EventType.TASK_SUCCEEDED, None, task_row("done", 1, TaskState.SUCCEEDED))
    await world.event(EventType.TASK_DISPATCHED, None, task_row("~00ab", 1, TaskState.DISPATCHED))
    verdict = ask_entry(SignalAsk("two words", None, None), None, task_id="~00ab")
    await waiting(world, opened, CALL, verdict)
    projection = opened()
    await projection.start()

    async def codes(task_id: str) -> list[str] | None:
        found = await projection.query(lambda c: why_task(c, "r1", task_id, NOW_MS))
        return None if found is None else [reason.code for reason in found]

    assert await codes("a") == ["waits.call"]
    assert await codes("~00ab") == ["waits.signal", "called"]
    assert await codes("done") == ["succeeded"]
    assert await codes("nothing") is None
    found = await projection.query(lambda c: why_task(c, "r1", "~00ab", NOW_MS))
    assert found is not None
    assert found[0].remedy == "holdfast signal r1 'two words' PAYLOAD"


async def test_a_step_that_cannot_be_undone_is_named(world: World, opened: OpenProjection) -> None:
    owner = task_row("pay", 1, TaskState.FAILED)
    owner.steps = [StepSummary("charge", "visa", StepKind.EFFECT, 1, 1, 1)]
    dead = task_row(step_undoing_id("pay", "charge", "visa"), 2, TaskState.DEAD)
    await world.event(EventType.RUN_COMPENSATING, run_row("r1", 1, RunState.COMPENSATING))
    await world.event(EventType.TASK_FAILED, None, owner)
    await world.event(EventType.TASK_DEAD, None, dead)
    stuck = (await reasons(opened))["compensation-stuck"]
    assert stuck.text.startswith("step 'charge' (key 'visa') of 'pay' cannot be undone")


async def test_a_run_that_undoes_what_it_did_and_is_stuck(
    world: World, opened: OpenProjection
) -> None:
    await world.event(EventType.RUN_STARTED, run_row("r1", 1))
    row = run_row("r1", 2, RunState.COMPENSATING)
    row.deadline_ms = NOW_MS + 1
    await world.event(EventType.RUN_COMPENSATING, row)
    await world.event(EventType.TASK_DEAD, None, task_row("!items.3", 1, TaskState.DEAD))
    letter = DeadLetter(
        dead_letter_id="r1/!items.3/1",
        reason=DeadLetterReason.COMPENSATION,
        failure=None,
        run_id="r1",
        task_id="!items.3",
        agent="scout",
        task="undo",
        attempt=1,
        input=None,
        source=None,
        at_ms=1,
    )
    await world.put(TOPICS.dead_letters, "r1", encode(letter))
    found = await reasons(opened)
    assert "the last success first" in found["compensating"].text
    assert "deadline" not in found, "it is not cut off"
    stuck = found["compensation-stuck"]
    assert "'items.3' cannot be undone, and all before it waits" in stuck.text
    assert stuck.remedy == "holdfast dead-letters replay r1/!items.3/1"
