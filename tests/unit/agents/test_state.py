"""Keyed state in one slot: written with the success, read the same in each execution, deletable."""

from __future__ import annotations

import asyncio

import pytest
from pydantic import BaseModel

from holdfast.agents import Agent, Context
from holdfast.agents.keyed_state import STATE_WRITTEN_BYTES_MAX
from holdfast.agents.ledger import state as ledger_state
from holdfast.schemas import STATE_NAMES_MAX, STATE_VALUE_BYTES_MAX
from holdfast.schemas.records import Failed, Outcome, StateDeletion, StateEntry, TaskEnvelope
from tests.unit.agents.fake_slot import TOPICS, FakeSlot
from tests.unit.agents.workers import CANCEL, RELEASE, Number, Text, World, check


class Budget(BaseModel):
    spent: int = 0
    note: str = ""


class BudgetWithLimit(BaseModel):
    spent: int = 0
    limit: int


def keeper(world: World) -> Agent:
    """An agent that counts by order key, in ways that go wrong."""
    agent = Agent("worker", concurrency=4)

    @agent.task
    async def count(ctx: Context, number: Number) -> Number:
        seen = await ctx.state.get("n", int, 0)
        world.seen.append((ctx.task_id, ctx.attempt, seen))
        ctx.state.set("n", seen + number.n)
        assert await ctx.state.get("n", int) == seen + number.n
        return Number(n=seen + number.n)

    @agent.task
    async def held(ctx: Context, number: Number) -> Number:
        seen = await ctx.state.get("n", int, 0)
        ctx.state.set("n", seen + number.n)
        world.seen.append((ctx.task_id, ctx.attempt, seen))
        await world.gate.wait()
        return Number(n=await ctx.state.get("n", int, -1))

    @agent.task
    async def fails_once(ctx: Context, number: Number) -> Number:
        seen = await ctx.state.get("n", int, 0)
        world.seen.append((ctx.task_id, ctx.attempt, seen))
        ctx.state.set("n", seen + number.n)
        if ctx.attempt == 1:
            raise ValueError("no luck")
        return Number(n=seen + number.n)

    @agent.task
    async def spend(ctx: Context, number: Number) -> Number:
        budget = await ctx.state.get("budget", Budget, Budget())
        ctx.state.set("budget", Budget(spent=budget.spent + number.n, note="spent"))
        ctx.state.delete("n")
        return Number(n=budget.spent)

    @agent.task
    async def spend_otherwise(ctx: Context, number: Number) -> Number:
        try:
            await ctx.state.get("budget", BudgetWithLimit)
        except Exception:
            world.seen.append("caught")
        return number

    @agent.task
    async def forget(ctx: Context) -> None:
        ctx.state.delete("n")
        assert await ctx.state.get("n", int) is None

    @agent.task
    async def say(ctx: Context, text: Text) -> None:
        ctx.state.set("text", text.text)

    @agent.task
    async def many(ctx: Context, number: Number) -> None:
        for each in range(number.n):
            ctx.state.set(f"name-{each}", each)

    @agent.task
    async def much(ctx: Context, number: Number) -> None:
        for each in range(number.n):
            ctx.state.set(f"name-{each}", "x" * (STATE_VALUE_BYTES_MAX - 100))

    return agent


@pytest.fixture
def slot(world: World) -> FakeSlot:
    """A slot of `keeper(world)`, not booted."""
    return FakeSlot(keeper(world))


async def value(slot: FakeSlot, order_key: str = "k", task_id: str = "read") -> int:
    """Return what a task of the key reads."""
    slot.send("count", task_id, value=Number(n=0), order_key=order_key)
    await slot.work()
    found: int = slot.output(task_id)["n"]
    return found


def kept(slot: FakeSlot) -> dict[str, StateEntry]:
    return {k: body for k, body in slot.journal.items() if isinstance(body, StateEntry)}


# --- what is written -----------------------------------------------------------------------------


@check
async def test_state_goes_from_task_to_task_of_its_key_and_of_no_other(slot: FakeSlot) -> None:
    slot.boot(clean=True)
    for number in range(1, 4):
        slot.send("count", f"a{number}", value=Number(n=number), order_key="a/b/cancelled")
    slot.send("count", "b1", value=Number(n=10), order_key="b")
    slot.send("count", "b2", value=Number(n=5), order_key="b")
    await slot.work()
    assert [slot.output(f"a{n}")["n"] for n in (1, 2, 3)] == [1, 3, 6]
    assert [slot.output(f"b{n}")["n"] for n in (1, 2)] == [10, 15]
    assert set(slot.journal) == {"/state/n/a/b/cancelled", "/state/n/b"}
    assert slot.journal["/state/n/b"].task == "r/b2"


@check
async def test_state_stands_in_the_commit_of_the_success(slot: FakeSlot) -> None:
    slot.boot(clean=True)
    slot.send("count", value=Number(n=1), order_key="k")
    await slot.settle()
    slot.collect()
    slot.crash()  # the commit is lost, and with it both
    slot.boot()
    await slot.work()
    assert slot.output()["n"] == 1
    assert await value(slot) == 1


@check
async def test_state_survives_a_restart_and_is_decoded_late(slot: FakeSlot) -> None:
    slot.boot(clean=True)
    slot.send("count", value=Number(n=7), order_key="k")
    await slot.work()
    slot.crash()
    slot.boot()
    assert slot.machine.state.values == 1
    assert await value(slot) == 7
    slot.send("forget", "gone", order_key="k")
    await slot.work()
    assert kept(slot) == {}
    assert slot.machine.state.values == slot.machine.state.size_bytes == 0


@check
async def test_an_attempt_that_fails_leaves_nothing(world: World, slot: FakeSlot) -> None:
    slot.boot(clean=True)
    slot.send("count", "first", value=Number(n=1), order_key="k")
    slot.send("fails_once", value=Number(n=10), order_key="k")
    slot.send("count", "behind", value=Number(n=100), order_key="k")
    await slot.work()
    assert [len(kept(slot)), slot.journal["r/t"]] == [1, Failed(1, "k", 1)]
    slot.crash()
    slot.boot()
    slot.send("fails_once", value=Number(n=10), order_key="k", attempt=2)
    await slot.work()
    # Both attempts have read the same, although a task waited behind and the process had died.
    assert world.seen == [("first", 1, 0), ("t", 1, 1), ("t", 2, 1), ("behind", 1, 11)]
    assert await value(slot) == 111


@check
async def test_a_cancelled_attempt_leaves_nothing(world: World, slot: FakeSlot) -> None:
    slot.boot(clean=True)
    slot.send("held", value=Number(n=10), order_key="k")
    await slot.settle()
    slot.tell(CANCEL)
    await slot.work()
    assert slot.result().outcome is Outcome.CANCELLED
    slot.tell(RELEASE)
    assert await value(slot) == 0


@check
async def test_a_task_that_was_given_up_writes_nothing_when_it_succeeds(
    world: World, slot: FakeSlot
) -> None:
    slot.boot(clean=True)
    slot.send("held", value=Number(n=10), order_key="k")
    await asyncio.sleep(0.03)
    slot.commit()
    slot.tell(RELEASE)  # the run was ended by force: nobody waits for this end
    world.gate.set()
    await slot.work()
    assert slot.result().outcome is Outcome.SUCCEEDED
    assert await value(slot) == 0


@check
async def test_a_body_that_outlives_its_attempt_neither_reads_nor_writes(
    world: World, slot: FakeSlot
) -> None:
    @slot.agent.task
    async def stubborn(ctx: Context) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            for what in (lambda: ctx.state.set("n", 99), lambda: ctx.state.delete("n")):
                with pytest.raises(asyncio.CancelledError):
                    what()
            with pytest.raises(asyncio.CancelledError):
                await ctx.state.get("n", int)
            world.seen.append("refused")

    slot.boot(clean=True)
    slot.send("stubborn", order_key="k")
    await slot.settle()
    slot.tell(CANCEL)
    await slot.work()
    assert world.seen == ["refused"]


@check
async def test_a_slot_that_is_lost_meanwhile_takes_its_state_along(
    world: World, slot: FakeSlot
) -> None:
    slot.boot(clean=True)
    slot.send("count", "before", value=Number(n=1), order_key="k")
    slot.send("held", value=Number(n=10), order_key="k")
    await slot.work(seconds=0.1)
    slot.crash()  # as a slot ends that another process has taken
    slot.boot()
    world.gate.set()
    await slot.work()
    assert [seen for seen in world.seen if seen[0] == "t"] == [("t", 1, 1)] * 2
    assert slot.output()["n"] == 11
    assert await value(slot) == 11


# --- what is refused -----------------------------------------------------------------------------


@check
async def test_without_an_order_key_there_is_no_state(slot: FakeSlot) -> None:
    slot.boot(clean=True)
    slot.send("count", value=Number(n=1))
    slot.send("count", "loose", value=Number(n=1), order_key="k", loose_order=True)
    slot.control.elsewhere.add(b"o:far")
    slot.send("count", "far", value=Number(n=1), order_key="far")
    await slot.work()
    for task_id, told in (("t", "no order key"), ("loose", "order: strict"), ("far", "partition")):
        failure = slot.result(task_id).failure
        assert failure is not None
        assert told in failure.message
        assert not failure.retryable
    assert kept(slot) == {}


@check
async def test_a_record_under_a_key_of_elsewhere_is_forwarded(slot: FakeSlot) -> None:
    slot.boot(clean=True)
    slot.control.elsewhere.add(b"o:far")
    envelope = slot.send("count", value=Number(n=1), order_key="far", deliver=False)
    slot.log.tasks[-1] = slot.log.tasks[-1]._replace(key=b"o:far")
    slot.deliver()
    await slot.work()
    assert [record.key for record in slot.log.written] == [b"o:far"]
    assert isinstance(envelope, TaskEnvelope)
    assert slot.journal == {}


@check
async def test_too_large_a_value_names_state_key_and_agent(slot: FakeSlot) -> None:
    slot.boot(clean=True)
    slot.send("say", value=Text(text="x" * STATE_VALUE_BYTES_MAX), order_key="k")
    slot.send("many", "names", value=Number(n=STATE_NAMES_MAX + 1), order_key="n")
    slot.send("many", "fits", value=Number(n=STATE_NAMES_MAX), order_key="f")
    most = STATE_WRITTEN_BYTES_MAX // STATE_VALUE_BYTES_MAX
    slot.send("much", "bytes", value=Number(n=most + 1), order_key="m")
    await slot.work()
    for task_id, told in (("t", "keep less"), ("names", "number 65"), ("bytes", "this attempt")):
        failure = slot.result(task_id).failure
        assert failure is not None
        assert "order key" in failure.message
        assert "'worker'" in failure.message
        assert told in failure.message
        assert not failure.retryable
    assert slot.result("fits").outcome is Outcome.SUCCEEDED


@check
async def test_a_full_slot_says_what_to_do(slot: FakeSlot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.agents.run_journal.STATE_SLOT_BYTES_MAX", 100)
    assert ledger_state.STATE_SLOT_BYTES_MAX > 100
    slot.boot(clean=True)
    slot.send("say", value=Text(text="x" * 50), order_key="a")
    await slot.work()
    slot.send("say", "full", value=Text(text="x" * 50), order_key="b")
    await slot.work()
    assert slot.result().outcome is Outcome.SUCCEEDED
    failure = slot.result("full").failure
    assert failure is not None
    assert "holdfast state list worker" in failure.message


@check
async def test_what_cannot_be_read_parks_the_task_whatever_its_handler_catches(
    world: World, slot: FakeSlot
) -> None:
    slot.boot(clean=True)
    slot.send("spend", value=Number(n=3), order_key="k")
    slot.send("spend", "again", value=Number(n=4), order_key="k")
    slot.send("spend_otherwise", "other", value=Number(n=1), order_key="k")
    await slot.work()
    assert slot.output("again")["n"] == 3
    failure = slot.result("other").failure
    assert world.seen == ["caught"]
    assert failure is not None
    assert (failure.error_class, failure.retryable) == ("StateMismatch", False)
    for word in ("'budget'", "'k'", "'worker'", "is now named", "holdfast state delete worker"):
        assert word in failure.message


# --- deletions -----------------------------------------------------------------------------------


@check
async def test_a_deletion_takes_all_names_in_one_commit(slot: FakeSlot) -> None:
    slot.boot(clean=True)
    slot.send("many", value=Number(n=3), order_key="k")
    slot.send("count", "other", value=Number(n=1), order_key="o")
    await slot.work()
    slot.delete_state("k")
    assert slot.commit()
    assert set(slot.journal) == {"/state/n/o"}
    assert slot.log.offsets[TOPICS.control] == 1
    names = [f"name-{n}" for n in range(3)]
    assert slot.deletions == [StateDeletion("d", "k", None, "ada", "she asked", 0, names)]
    assert slot.machine.state.values == 1


@check
async def test_a_deletion_of_nothing_is_told_as_that(slot: FakeSlot) -> None:
    slot.boot(clean=True)
    slot.delete_state("k", "n")
    await slot.work()
    assert [each.deleted for each in slot.deletions] == [[]]
    assert slot.log.offsets[TOPICS.control] == 1


@check
@pytest.mark.parametrize("crash", ["never", "before", "between"])
async def test_a_deletion_waits_for_the_task_at_work(
    world: World, slot: FakeSlot, crash: str
) -> None:
    slot.boot(clean=True)
    slot.send("count", "before", value=Number(n=1), order_key="k")
    slot.send("held", value=Number(n=10), order_key="k")
    slot.send("count", "behind", value=Number(n=100), order_key="k")
    await slot.work(seconds=0.1)
    slot.delete_state("k")
    if crash == "before":
        slot.collect()
        slot.crash()
        slot.boot()
    await slot.work()
    assert slot.log.offsets[TOPICS.control] == 1  # it is kept in the journal: no need to hold it
    assert slot.deletions == []
    if crash == "between":
        slot.crash()
        slot.boot()
    world.gate.set()
    await slot.work()
    assert slot.output()["n"] == 11
    assert [each.deleted for each in slot.deletions] == [["n"]]
    assert slot.output("behind")["n"] == 100
    assert set(slot.journal) == {"/state/n/k"}


@check
async def test_no_task_begins_while_a_deletion_is_under_way(world: World, slot: FakeSlot) -> None:
    slot.boot(clean=True)
    slot.send("count", "before", value=Number(n=1), order_key="k")
    await slot.work()
    slot.delete_state("k")
    slot.collect()
    slot.send("count", value=Number(n=10), order_key="k")
    slot.delete_state("k")
    await slot.settle()
    assert [seen[0] for seen in world.seen] == ["before"]
    slot.acknowledge()
    await slot.work()
    assert len(slot.deletions) == 2
    assert slot.output()["n"] == 10


@check
async def test_a_deletion_waits_for_a_task_between_two_attempts(slot: FakeSlot) -> None:
    slot.boot(clean=True)
    slot.send("count", "first", value=Number(n=1), order_key="k")
    slot.send("fails_once", value=Number(n=10), order_key="k")
    await slot.work()
    slot.delete_state("k")
    await slot.work()
    slot.crash()
    slot.boot()
    await slot.work()
    assert slot.deletions == []
    slot.tell(RELEASE)
    await slot.work()
    assert [each.deleted for each in slot.deletions] == [["n"]]
    assert slot.journal == {}


@check
async def test_a_deletion_under_a_foreign_key_goes_to_the_dead_letters(slot: FakeSlot) -> None:
    slot.boot(clean=True)
    slot.delete_state("k")
    slot.crash()
    slot.log.control[0] = slot.log.control[0]._replace(key=b"o:other")
    slot.boot()
    await slot.work()
    assert slot.deletions == []
    assert [record.topic for record in slot.log.written] == [TOPICS.dead_letters]
    assert slot.log.offsets[TOPICS.control] == 1
