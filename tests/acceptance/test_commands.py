"""What operators do, over real processes, with the coordinator killed in the middle."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

from holdfast.client import Client, WaitTimeout
from holdfast.schemas import Plan
from tests.acceptance.deployment import Deployment, witnessed
from tests.waiting import until, until_sync

RUNS = 6


def chain() -> Plan:
    plan = Plan("operated")
    slow = plan.task("slow", "patient.long", text=plan.input("text"))
    plan.task("after", "first.begin", text=slow["text"], n=1)
    return plan


async def started(place: Deployment, lines: int) -> None:
    witness = place.folder / "long.witness"
    await until(lambda: len(witnessed(witness)) >= lines, f"{lines} starts", 60)


async def test_rulings_and_a_pause_hold_while_the_coordinator_is_killed(place: Deployment) -> None:
    place.coordinator("c1")
    place.agent("patient")
    place.agent("first")
    await asyncio.to_thread(place.wait_ready)
    async with Client(url=place.bus, namespace=place.namespace) as client:
        run = await client.submit(chain(), {"text": "x"}, run_id="one")
        await started(place, 1)
        paused = await client.agents.pause("first", reason="a bad deploy")
        assert "paused by" in paused.message
        # Nobody is there to take it: it stands on the bus, and counts once.
        place.kill("c1")
        place.kill("first-1")
        asked = asyncio.create_task(run.override("slow", {"text": "by hand"}, reason="it hangs"))
        place.again("c1")
        place.again("first-1")
        with contextlib.suppress(WaitTimeout):
            assert "override slow by" in (await asked).message
        place.kill("c1")
        place.again("c1")
        await asyncio.to_thread(place.wait_ready)

        async def stands() -> dict[str, str]:
            return {t.task_id: t.state.value for t in (await run.status()).tasks}

        wanted = {"slow": "succeeded", "after": "dispatched"}
        async with asyncio.timeout(60):
            while await stands() != wanted:
                await asyncio.sleep(0.1)
        assert witnessed(place.folder / "steps.witness") == []
        resumed = await client.agents.resume("first")
        assert "resumed by" in resumed.message
        assert await run.result(timeout_s=60) == {"text": "by hand first", "n": 2}
        ruled = [e.task async for e in run.past() if e.task is not None and e.task.ruling]
        assert {row.ruling.reason for row in ruled if row.ruling is not None} == {"it hangs"}
        assert ruled[-1].state == "succeeded"


async def test_a_bulk_that_was_interrupted_is_repeated(place: Deployment) -> None:
    place.coordinator("c1")
    place.agent("patient")
    place.agent("first")
    await asyncio.to_thread(place.wait_ready)

    def holdfast(*arguments: str, code: int = 0) -> Any:
        done = place.cli(*arguments)
        assert done.returncode == code, done.stdout + done.stderr
        return json.loads(done.stdout) if "--json" in arguments else done.stdout + done.stderr

    async with Client(url=place.bus, namespace=place.namespace) as client:
        runs = [
            await client.submit(chain(), {"text": "x"}, run_id=f"many-{n}") for n in range(RUNS)
        ]
        await started(place, 1)
        where = ("--where", "run~many- and task=slow")
        shown = await asyncio.to_thread(holdfast, "bulk", "skip", *where, "--dry-run")
        assert f"skip: {RUNS} in {RUNS} runs" in shown
        refused = await asyncio.to_thread(lambda: holdfast("bulk", "skip", *where, code=2))
        assert "give --yes" in refused
        bad = await asyncio.to_thread(
            lambda: holdfast("bulk", "skip", "--where", "run~many and tsk=slow", code=2)
        )
        assert "did you mean 'task'" in bad
        sending = asyncio.create_task(
            asyncio.to_thread(place.cli, "bulk", "skip", *where, "--yes", "--reason", "enough")
        )
        await asyncio.sleep(0.5)  # somewhere in the middle of it, or before
        place.kill("c1")
        place.again("c1")
        await asyncio.to_thread(place.wait_ready, "c1")
        await sending
        # Once more: what was done is done, what was not is.
        await asyncio.to_thread(holdfast, "bulk", "skip", *where, "--yes")
        for run in runs:
            end = await run.ended(timeout_s=60)
            assert end.type == "run.succeeded"
        words = [e.command async for e in runs[0].past() if e.type == "command.accepted"]
        assert len(words) == 1
        assert words[0] is not None
        assert words[0].bulk_id is not None


async def test_the_command_line(place: Deployment) -> None:
    place.coordinator("c1")
    place.agent("patient")
    place.agent("first")
    await asyncio.to_thread(place.wait_ready)

    def holdfast(*arguments: str, code: int = 0) -> Any:
        done = place.cli(*arguments)
        assert done.returncode == code, done.stdout + done.stderr
        return json.loads(done.stdout) if "--json" in arguments else done.stdout + done.stderr

    def all_of_it() -> None:
        holdfast("submit", "--task", "first.begin", "--input", "text=a", "--run-id", "a", "--wait")
        refused = holdfast("run", "skip", "a", "task", code=2)
        assert "is closed" in refused
        forked = holdfast("run", "retry", "a", "task", "--json")
        assert forked == {"run_id": "a.r1", "fork_of": "a", "from": "task"}
        assert "no task 'tsk'; did you mean 'task'" in holdfast(
            "run", "fork", "a", "--from", "tsk", code=2
        )
        other = holdfast("run", "fork", "a", "--from", "task", "--input", "text=b", "--json")
        until_sync(
            lambda: (
                holdfast("run", "show", other["run_id"], "--json")["output"]
                == {"text": "b first", "n": 1}
            ),
            "the fork has its own input",
        )
        holdfast("agents", "pause", "first", "--key", "ada", "--reason", "audit")
        holdfast("pause-key", "bob", "--agent", "first")
        listed = holdfast("agents")
        assert "ada" in listed
        assert "audit" in listed
        run = ("--task", "first.begin", "--order-key", "ada", "--run-id", "p")
        holdfast("submit", *run, "--input", "text=c")
        told = holdfast("why", "p")
        assert "order key 'ada' at agent first is paused by" in told
        assert "holdfast agents resume first --key ada" in told
        assert "is paused already" in holdfast("agents", "pause", "first", "--key", "ada", code=2)
        holdfast("run", "override", "p", "task", '{"text": "by hand"}', "--reason", "typed")
        until_sync(
            lambda: holdfast("run", "show", "p", "--json")["state"] == "succeeded", "it ends"
        )
        document = holdfast("run", "show", "p", "--json")
        (task,) = document["task_rows"]
        assert (task["ruling"]["action"], task["ruling"]["reason"]) == ("override", "typed")
        assert document["output"] == {"text": "by hand", "n": 0}
        holdfast("agents", "resume", "first", "--key", "ada")
        holdfast("resume-key", "bob", "--agent", "first")
        assert holdfast("agents", "--json")["pauses"] == []

    await asyncio.to_thread(all_of_it)
