"""Keyed state in the simulation: exactly once, read and deleted from outside, all invariants."""

from __future__ import annotations

from itertools import pairwise

import pytest
from pydantic import BaseModel

from holdfast.agents import Agent, Context, Retry, SyncContext
from holdfast.client import RunFailed, WaitTimeout
from holdfast.schemas import Plan
from holdfast.schemas.records import EventType
from holdfast.testing import Simulation


class Amount(BaseModel):
    n: int = 1


class Total(BaseModel):
    n: int


class Log(BaseModel):
    entries: list[str] = []
    last: int | None = None


def counter() -> Agent:
    """An agent that counts by order key, in ways that wait and fail."""
    agent = Agent("counter", state={"total": int, "log": Log})

    @agent.task
    async def add(ctx: Context, amount: Amount) -> Total:
        total = await ctx.state.get("total", int, 0) + amount.n
        ctx.state.set("total", total)
        log = await ctx.state.get("log", Log, Log())
        ctx.state.set("log", Log(entries=[*log.entries, ctx.task_id], last=total))
        return Total(n=total)

    @agent.task
    def add_in_thread(ctx: SyncContext, amount: Amount) -> Total:
        total = ctx.state.get("total", int, 0) + amount.n
        ctx.state.set("total", total)
        seen = ctx.state.get("total", int)
        assert seen == total
        return Total(n=total)

    @agent.task
    async def add_slowly(ctx: Context, amount: Amount) -> Total:
        before = await ctx.state.get("total", int, 0)
        ctx.state.set("total", before + amount.n)
        await ctx.sleep("night", 8 * 3600)
        assert await ctx.state.get("total", int) == before + amount.n
        return Total(n=before + amount.n)

    @agent.task(retry=Retry(attempts=3, initial_s=1))
    async def add_at_last(ctx: Context, amount: Amount) -> Total:
        total = await ctx.state.get("total", int, 0) + amount.n
        ctx.state.set("total", total)
        if ctx.attempt < 3:
            raise ValueError("not yet")
        return Total(n=total)

    return agent


def sums(agent: Agent, names: list[str], order: str = "strict") -> Plan:
    """A plan of several tasks, each adding 1 to the same key, one after the other."""
    plan = Plan("sums")
    for number, name in enumerate(names):
        plan.task(f"t{number}", f"{agent.name}.{name}", order_key="k/1", order=order, n=1)
    return plan


ALL = ["add", "add_in_thread", "add_slowly", "add_at_last", "add"]


def test_every_success_counts_once_whatever_it_went_through() -> None:
    agent = counter()
    with Simulation([agent]) as simulation:
        run = simulation.submit(sums(agent, ALL))
        run.result()
        state = simulation.state("counter", "k/1")
        assert state.get("total") == 5
        assert state.get("log", Log) == Log(entries=["t0", "t4"], last=5)
        assert state.documents() == {
            "log": {"entries": ["t0", "t4"], "last": 5},
            "total": 5,
        }
        assert {name: place.task for name, place in state.places().items()} == {
            "log": "run-1/t4",
            "total": "run-1/t4",
        }
        assert simulation.state("counter", "another").documents() == {}
        assert simulation.violations() == []


def test_a_crash_at_any_moment_counts_nothing_twice() -> None:
    agent = counter()
    plan = sums(agent, ["add", "add_at_last", "add"])
    plan.task("sum", "counter.add", order_key="k/1", n=0, after=["t0", "t1", "t2"])
    visited = 0
    for crash in Simulation.crashes(plan, agents=[agent], of=["counter"]):
        run = crash.run(check_invariants=True)
        assert run.result()["n"] == 3, crash
        visited += 1
    assert visited > 15


def test_a_handler_that_sleeps_reads_the_same_when_it_is_replayed() -> None:
    agent = counter()
    with Simulation([agent]) as simulation:
        simulation.submit(sums(agent, ["add"]), run_id="first").result()
        slow = simulation.submit(sums(agent, ["add_slowly"]), run_id="slow")
        behind = simulation.submit(sums(agent, ["add"]), run_id="behind")
        simulation.skip(hours=2)
        simulation.crash("counter")
        simulation.skip(hours=2)
        assert simulation.state("counter", "k/1").get("total") == 1
        assert slow.result()["n"] == 2
        assert behind.result()["n"] == 3
        assert simulation.violations() == []


def test_an_operator_deletes_between_two_tasks_and_the_audit_trail_says_so() -> None:
    agent = counter()
    with Simulation([agent]) as simulation:
        simulation.submit(sums(agent, ["add", "add"])).result()
        state = simulation.state("counter", "k/1")
        assert state.delete("log", reason="she asked").names == ("log",)
        assert state.documents() == {"total": 2}
        simulation.submit(sums(agent, ["add_slowly"]), run_id="slow")
        simulation.skip(hours=1)
        with pytest.raises(WaitTimeout, match="follows its end"):
            state.delete(reason="all of it")
        simulation.crash("counter")
        simulation.skip(hours=8)
        assert state.documents() == {}
        events = simulation.events("state/counter")
        assert [event.type for event in events] == [EventType.STATE_DELETED] * 2
        told = [event.deletion for event in events if event.deletion is not None]
        assert [(each.reason, each.deleted) for each in told] == [
            ("she asked", ["log"]),
            ("all of it", ["total"]),
        ]
        assert all("@" in each.actor for each in told)
        assert simulation.submit(sums(agent, ["add"]), run_id="anew").result()["n"] == 1
        assert simulation.violations() == []


@pytest.mark.parametrize("seed", range(4))
def test_a_deletion_at_any_moment_loses_no_addition_that_follows_it(seed: int) -> None:
    agent = counter()
    with Simulation([agent], seed=seed) as simulation:
        runs = [simulation.submit(sums(agent, ["add"]), run_id=f"r{number}") for number in range(4)]
        if seed % 2:
            simulation.crash("counter")
        simulation.state("counter", "k/1").delete(reason="anew", timeout_s=60)
        late = simulation.submit(sums(agent, ["add"]), run_id="late")
        results = [run.result()["n"] for run in [*runs, late]]
        total = simulation.state("counter", "k/1").get("total")
        ups = sum(after > before for before, after in pairwise(results))
        # It counts up but for one place at most, where it began anew.
        assert ups >= len(results) - 2
        assert results[-1] == total
        assert simulation.violations() == []


def test_what_has_no_key_of_its_own_or_a_loose_one_has_no_state() -> None:
    agent = counter()
    with Simulation([agent]) as simulation:
        with pytest.raises(RunFailed, match="has no order key"):
            simulation.submit("counter.add", {"n": 1}).result()
        with pytest.raises(RunFailed, match="Let the plan declare order: strict"):
            simulation.submit(sums(agent, ["add"], order="loose")).result()
        assert simulation.state("counter", "k/1").documents() == {}


def test_a_task_that_dies_for_good_leaves_the_state_as_it_was() -> None:
    agent = counter()

    @agent.task(retry=Retry(attempts=2, initial_s=1))
    async def never(ctx: Context, amount: Amount) -> Total:
        ctx.state.set("total", 1_000)
        raise ValueError("no")

    with Simulation([agent]) as simulation:
        simulation.submit(sums(agent, ["add"]), run_id="first").result()
        with pytest.raises(RunFailed):
            simulation.submit(sums(agent, ["never"]), run_id="dies").result()
        assert simulation.submit(sums(agent, ["add"]), run_id="after").result()["n"] == 2
        assert simulation.violations() == []


def test_what_an_agent_does_not_declare_it_does_not_keep() -> None:
    agent = Agent("strict", state={"total": int})

    @agent.task
    async def wrong_name(ctx: Context) -> None:
        ctx.state.set("totl", 1)

    @agent.task
    async def wrong_type(ctx: Context) -> None:
        ctx.state.set("total", "one", kind=str)

    @agent.task
    async def nothing(ctx: Context) -> None:
        ctx.state.set("total", None)

    with Simulation([agent]) as simulation:
        for task, told in (
            ("wrong_name", "it has: total"),
            ("wrong_type", "declared as int, and used as str"),
            ("nothing", "delete it"),
        ):
            plan = Plan("one")
            plan.task("t", f"strict.{task}", order_key="k")
            with pytest.raises(RunFailed, match=told):
                simulation.submit(plan).result()
