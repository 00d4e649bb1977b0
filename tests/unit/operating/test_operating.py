"""What operators do, from end to end: real agents, coordinator and engine, simulated world."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import BaseModel

from holdfast.agents import Agent, Context
from holdfast.client import BulkAction, BulkTarget, ClientError, CommandRefused, RunConflict
from holdfast.schemas import Plan, PlanError, Retry
from holdfast.testing import Simulation, crashes_in

reader, writer = Agent("reader", concurrency=2), Agent("writer")
FAILS: set[str] = set()
READ: list[str] = []
FORGOTTEN: list[str] = []


class Page(BaseModel):
    name: str = ""
    text: str | None = None


@reader.task(retry=Retry(attempts=2, initial_s=3_600))
async def read(ctx: Context, page: Page) -> Page:
    READ.append(page.name)
    if page.name in FAILS:
        raise ValueError(f"{page.name} cannot be read")
    await ctx.step("look", str.upper, page.name)
    if page.name == "stuck":
        await asyncio.sleep(10**6)
    return Page(name=page.name, text=f"text of {page.name}")


@reader.task
async def forget(ctx: Context, page: Page) -> None:
    FORGOTTEN.append(page.name)


@writer.task
async def write(ctx: Context, page: Page) -> Page:
    return Page(name=page.name, text=f"wrote {page.text}")


@pytest.fixture(autouse=True)
def fresh() -> None:
    FAILS.clear()
    READ.clear()
    FORGOTTEN.clear()


def chain(**settings: Any) -> Plan:
    plan = Plan("chain", **settings)
    first = plan.task("first", read, name="one")
    second = plan.task("second", read, name=plan.input("name"))
    plan.task("third", write, name=first["name"], text=second["text"])
    return plan


def call(simulation: Simulation, work: Any) -> Any:
    """Let the simulation's client do something."""
    simulation._settle()
    client = simulation._deployment.client
    return simulation.call(lambda: work(client), 600.0, lambda: "no answer", None)


def test_a_handler_that_is_stuck_is_skipped_and_the_run_goes_on() -> None:
    with Simulation([reader, writer]) as simulation:
        run = simulation.submit(chain(), {"name": "stuck"})
        simulation.until(lambda: "stuck" in READ)
        run.skip("second", reason="it hangs")
        assert run.result() == {"name": "one", "text": "wrote None"}
        assert run.tasks["second"].state == "skipped"
        ruling = run.tasks["second"].ruling
        assert ruling is not None
        assert ruling.reason == "it hangs"
        assert simulation.violations() == []


@pytest.mark.parametrize("dies", ["coordinator", "reader"])
def test_an_override_holds_whoever_dies_meanwhile(dies: str) -> None:
    with Simulation([reader, writer]) as simulation:
        run = simulation.submit(chain(), {"name": "stuck"})
        simulation.until(lambda: "stuck" in READ)
        run.override("second", {"name": "stuck", "text": "typed by hand"})
        simulation.crash(dies)
        assert run.result() == {"name": "one", "text": "wrote typed by hand"}
        assert simulation.violations() == []


def test_an_output_that_does_not_fit_is_refused_with_its_field() -> None:
    with Simulation([reader, writer]) as simulation:
        run = simulation.submit(chain(), {"name": "stuck"})
        simulation.until(lambda: "stuck" in READ)
        with pytest.raises(CommandRefused, match=r"does not fit task 'second'.*text"):
            run.override("second", {"name": "stuck", "text": 7})
        with pytest.raises(CommandRefused, match=r"'txet': is unknown; did you mean 'text'"):
            run.override("second", {"name": "x", "txet": "typed in haste"})
        run.override("second", {"name": "", "text": None})
        run.result()
        assert simulation.violations() == []


def test_a_task_that_waits_for_its_next_attempt_is_retried_now() -> None:
    FAILS.add("two")
    with Simulation([reader, writer]) as simulation:
        run = simulation.submit(chain(), {"name": "two"})
        simulation.until(lambda: "second" in run.tasks and run.tasks["second"].state == "retrying")
        before = simulation.now
        FAILS.clear()
        run.retry("second")
        assert run.result()["text"] == "wrote text of two"
        assert (simulation.now - before).total_seconds() < 60
        assert simulation.violations() == []


def test_a_run_that_has_ended_is_retried_from_a_task() -> None:
    with Simulation([reader, writer]) as simulation:
        run = simulation.submit(chain(), {"name": "two"})
        run.result()
        with pytest.raises(CommandRefused, match="is closed"):
            run.retry("second")
        again = call(simulation, lambda c: c.retry_from(run.id, "second"))
        assert again.id == "run-1.r1"
        assert simulation.run(again.id).result()["text"] == "wrote text of two"
        assert sorted(READ) == ["one", "two", "two"]
        same = call(simulation, lambda c: c.retry_from(run.id, "second"))
        assert same.id == again.id, "to ask twice is to ask once"
        other = call(simulation, lambda c: c.retry_from(run.id, "first"))
        assert other.id == "run-1.r2"
        simulation.run(other.id).result()
        assert READ.count("one") == 2
        assert READ.count("two") == 2, "what does not follow from it is reused"
        assert simulation.violations() == []


def test_an_open_run_is_cancelled_for_a_retry_only_if_so_asked() -> None:
    with Simulation([reader, writer]) as simulation:
        run = simulation.submit(chain(), {"name": "stuck"})
        simulation.until(lambda: "stuck" in READ and run.tasks["first"].state == "succeeded")
        with pytest.raises(ClientError, match=r"is running: cancel it in the same word"):
            call(simulation, lambda c: c.retry_from(run.id, "second"))
        with pytest.raises(ClientError, match="no task 'secon'"):
            call(simulation, lambda c: c.retry_from(run.id, "secon", cancel=True))
        assert run.state == "running"
        again = call(simulation, lambda c: c.retry_from(run.id, "second", cancel=True))
        assert run.state == "cancelled"
        new = simulation.run(again.id)
        simulation.until(lambda: READ.count("stuck") == 2)
        new.override("second", {"text": "by hand"})
        assert new.result()["text"] == "wrote by hand"
        assert READ.count("one") == 1
        assert simulation.violations() == []


def test_a_fork_from_a_task_may_have_another_input() -> None:
    with Simulation([reader, writer]) as simulation:
        run = simulation.submit(chain(), {"name": "two"})
        run.result()
        forked = call(
            simulation, lambda c: c.fork(run.id, from_task="second", input={"name": "other"})
        )
        assert simulation.run(forked.id).result()["text"] == "wrote text of other"
        with pytest.raises(PlanError):
            call(simulation, lambda c: c.fork(run.id, from_task="second", input={"no": "name"}))
        told = call(
            simulation,
            lambda c: c.fork(run.id, from_task="third", new_run_id="mine", reason="what if"),
        )
        begun = simulation.run(told.id).events[0].message
        assert begun.startswith(f"once more {run.id} from task 'third', by ")
        assert begun.endswith(": what if")
        with pytest.raises(RunConflict, match="'mine' exists"):
            call(simulation, lambda c: c.fork(run.id, from_task="second", new_run_id="mine"))
        assert simulation.violations() == []


def test_what_was_skipped_stays_skipped_in_a_fork() -> None:
    with Simulation([reader, writer]) as simulation:
        run = simulation.submit(chain(), {"name": "stuck"})
        simulation.until(lambda: "stuck" in READ)
        run.skip("second")
        run.result()
        again = simulation.run(call(simulation, lambda c: c.retry_from(run.id, "third")).id)
        assert again.result() == {"name": "one", "text": "wrote None"}
        assert READ.count("stuck") == 1
        assert simulation.violations() == []


def test_a_paused_agent_begins_nothing_through_restarts_of_everybody() -> None:
    with Simulation([reader, writer]) as simulation:
        call(simulation, lambda c: c.agents.pause("reader", reason="a bad deploy"))
        simulation.skip(seconds=5)
        run = simulation.submit(chain(), {"name": "two"})
        simulation.skip(hours=1)
        for name in ("reader", "coordinator"):
            simulation.crash(name)
            simulation.skip(hours=1)
        assert READ == []
        paused = call(simulation, lambda c: c.agents.paused("reader"))
        assert [(p.order_key, p.reason) for p in paused] == [(None, "a bad deploy")]
        with pytest.raises(CommandRefused, match="is paused already"):
            call(simulation, lambda c: c.agents.pause("reader"))
        call(simulation, lambda c: c.agents.resume("reader"))
        assert run.result()["text"] == "wrote text of two"
        assert call(simulation, lambda c: c.agents.paused("reader")) == []
        assert simulation.violations() == []


def test_a_paused_order_key_holds_up_its_own_runs_alone() -> None:
    with Simulation([reader, writer]) as simulation:
        call(simulation, lambda c: c.agents.pause("reader", order_key="ada"))
        simulation.skip(seconds=5)
        ada = simulation.submit(chain(order_key="ada"), {"name": "two"}, run_id="a")
        bob = simulation.submit(chain(order_key="bob"), {"name": "two"}, run_id="b")
        assert bob.result()
        simulation.crash("reader")
        simulation.skip(hours=1)
        assert len(READ) == 2
        call(simulation, lambda c: c.agents.resume("reader", order_key="ada"))
        assert ada.result()
        assert simulation.violations() == []


def test_one_word_to_many_under_one_id() -> None:
    FAILS.add("bad")
    with Simulation([reader, writer]) as simulation:
        runs = [simulation.submit(chain(), {"name": "bad"}, run_id=f"r{n}") for n in range(4)]
        simulation.skip(days=1)
        assert {run.state for run in runs} == {"failed"}
        FAILS.clear()
        targets = [BulkTarget(run.id, task_id="second", ended=True) for run in runs]
        targets.append(BulkTarget("nobody", task_id="second"))

        async def send(client: Any) -> list[Any]:
            found = client.bulk(BulkAction.RETRY, targets, reason="it is mended")
            return [each async for each in found]

        results = call(simulation, send)
        assert sorted(str(r.outcome) for r in results) == ["accepted"] * 4 + ["refused"]
        for result in results:
            if result.outcome == "accepted":
                simulation.run(result.message.split("'")[-2]).result()
        again = call(simulation, send)
        assert sorted(str(r.outcome) for r in again) == ["accepted"] * 4 + ["refused"]
        assert len(simulation.run_ids()) == 8, "to repeat it forks nothing twice"
        assert simulation.violations() == []


def test_a_bulk_of_commands_is_audited_one_by_one() -> None:
    with Simulation([reader, writer]) as simulation:
        runs = [simulation.submit(chain(), {"name": "stuck"}, run_id=f"r{n}") for n in range(3)]
        simulation.until(lambda: READ.count("stuck") >= 1)
        targets = [BulkTarget(run.id) for run in runs]

        async def send(client: Any) -> list[Any]:
            found = client.bulk(BulkAction.CANCEL, targets, reason="over", bulk_id="b1", parallel=2)
            return [each async for each in found]

        assert [str(r.outcome) for r in call(simulation, send)] == ["accepted"] * 3
        simulation.skip(hours=1)
        for run in runs:
            command = next(e.command for e in run.events if e.command is not None)
            assert (command.bulk_id, command.reason) == ("b1", "over")
            assert run.state == "cancelled"
        assert simulation.violations() == []


@pytest.mark.parametrize(
    ("compensate_on", "compensate", "undone"),
    [
        ("both", None, 2),
        ("both", False, 0),
        ("failure", None, 0),
        ("failure", True, 2),
    ],
)
def test_a_bulk_of_cancels_undoes_as_it_says(
    compensate_on: str, compensate: bool | None, undone: int
) -> None:
    plan = Plan("noted", compensate_on=compensate_on)
    first = plan.task("first", read, name="one", compensate=forget)
    plan.task("second", read, name="stuck", after=[first])
    with Simulation([reader, writer]) as simulation:
        runs = [simulation.submit(plan, run_id=f"r{n}") for n in range(2)]
        simulation.until(lambda: READ.count("stuck") == 2)

        async def send(client: Any) -> list[Any]:
            targets = [BulkTarget(run.id) for run in runs]
            found = client.bulk(BulkAction.CANCEL, targets, compensate=compensate)
            return [each async for each in found]

        assert [str(r.outcome) for r in call(simulation, send)] == ["accepted"] * 2
        simulation.skip(hours=1)
        assert {run.state for run in runs} == {"cancelled"}
        assert len(FORGOTTEN) == undone
        assert simulation.violations() == []


def test_crashes_at_every_moment_of_an_override_and_a_pause() -> None:
    def scene(simulation: Simulation) -> list[Any]:
        READ.clear()
        first = simulation.submit(chain(), {"name": "stuck"}, run_id="first")
        simulation.until(lambda: "stuck" in READ)
        call(simulation, lambda c: c.agents.pause("writer"))
        first.override("second", {"name": "stuck", "text": "by hand"})
        simulation.skip(minutes=3)
        assert first.state == "running"
        assert first.tasks["third"].attempt == 1
        assert first.calls("write") == [], "a paused agent begins nothing"
        call(simulation, lambda c: c.agents.resume("writer"))
        return [first.result()]

    seen: set[str] = set()
    for crash in crashes_in(scene, agents=[reader, writer]):
        assert crash.run() == [{"name": "one", "text": "wrote by hand"}], crash
        seen.add(crash.point.process)
    assert seen == {"reader", "writer", "coordinator"}
