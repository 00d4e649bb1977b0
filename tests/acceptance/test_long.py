"""Handlers that outlast sessions, cancels that overtake a backlog, processes that stand still."""

from __future__ import annotations

import asyncio
import signal
import time

import pytest

from holdfast.client import Client, RunCancelled
from tests.acceptance.deployment import Deployment, witnessed
from tests.acceptance.observer import observing
from tests.waiting import until

SESSION_S = 6.0


async def test_a_handler_outlasts_three_sessions_while_members_come_and_go(
    place: Deployment,
) -> None:
    if place.bus.startswith("kafka"):
        place.bus += "?max_poll_interval_s=10"
    place.coordinator("c1")
    place.agent("patient", "patient-1")
    await asyncio.to_thread(place.wait_ready)
    async with Client(url=place.bus, namespace=place.namespace) as client:
        long = [
            await client.submit("patient.long", {"text": "x"}, run_id=f"long-{n}") for n in range(4)
        ]
        witness = place.folder / "long.witness"
        await until(lambda: len(witnessed(witness)) == 4)
        began = time.monotonic()
        short_s: list[float] = []
        joins = 0
        while time.monotonic() - began < 3 * SESSION_S + 1:
            name = f"patient-{2 + joins % 2}"
            place.agent("patient", name)
            await asyncio.to_thread(place.wait_ready, name)
            for n in range(10):
                asked = time.monotonic()
                run = await client.submit("patient.short", {"text": "y"}, run_id=f"s-{joins}-{n}")
                await run.result(timeout_s=30)
                short_s.append(time.monotonic() - asked)
            await asyncio.to_thread(place.stop, name)
            joins += 1
        for n in range(4):
            (place.folder / f"open-long-{n}").touch()
        for run in long:
            assert await run.result(timeout_s=30) == {"text": "x", "n": 0}
    starts = [line[1] for line in witnessed(witness) if line[0] == "start"]
    ends = [line[1] for line in witnessed(witness) if line[0] == "end"]
    assert sorted(ends) == [f"long-{n}" for n in range(4)], "a moved handler ended twice"
    pids = {line[1]: line[2] for line in witnessed(witness) if line[0] == "end"}
    home = str(place.services["patient-1"].process.pid)
    for n in range(4):
        if starts.count(f"long-{n}") == 1:
            assert pids[f"long-{n}"] == home
    assert joins >= 2
    assert sorted(short_s)[len(short_s) // 2] < 2.0, "neighbours were held up"


async def test_a_cancel_overtakes_ten_thousand_waiting_tasks(place: Deployment) -> None:
    place.coordinator("c1")
    place.agent("slow")
    await asyncio.to_thread(place.wait_ready)
    witness = place.folder / "cancel.witness"
    async with (
        observing(place) as seen,
        Client(url=place.bus, namespace=place.namespace) as client,
    ):
        first = await client.submit("slow.hold", {"text": "x"}, run_id="held")
        await until(lambda: len(witnessed(witness)) == 1)
        for start in range(0, 10_000, 500):
            await asyncio.gather(
                *(
                    client.submit("slow.hold", {"text": "y"}, run_id=f"waiting-{n}")
                    for n in range(start, start + 500)
                )
            )
        # All of them are handed over: they wait at the agent, before the cancel.
        await until(lambda: len(seen.dispatched()) == 10_001, "10,000 tasks handed over", 60)
        asked = time.monotonic()
        await first.cancel(reason="enough")
        await until(lambda: any(line[0] == "end" for line in witnessed(witness)))
        took_s = time.monotonic() - asked
        with pytest.raises(RunCancelled):
            await first.result(timeout_s=10)
    print(f"cancelled after {took_s:.3f} s")
    assert took_s < 1.0


async def test_a_process_that_stood_still_neither_commits_nor_takes_slots_back(
    place: Deployment,
) -> None:
    place.coordinator("c1")
    place.agent("patient", "patient-1")
    await asyncio.to_thread(place.wait_ready)
    witness = place.folder / "long.witness"
    async with Client(url=place.bus, namespace=place.namespace) as client:
        run = await client.submit("patient.long", {"text": "x"}, run_id="long")
        await until(lambda: len(witnessed(witness)) == 1)
        place.send("patient-1", signal.SIGSTOP)
        place.agent("patient", "patient-2")
        await until(lambda: len(witnessed(witness)) == 2, "nobody took over", 25)
        await asyncio.sleep(6)  # the process must be stopped for 12 s in all: that is the fault
        place.send("patient-1", signal.SIGCONT)
        await until(lambda: not place.alive("patient-1"), "the stopped process lives on", 5)
        (place.folder / "open-long").touch()
        assert await run.result(timeout_s=30) == {"text": "x", "n": 0}
    ends = [line for line in witnessed(witness) if line[0] == "end"]
    assert [line[2] for line in ends] == [str(place.services["patient-2"].process.pid)]
    assert place.alive("patient-2")
