"""What handlers need is away for some seconds, and the coordinator is killed meanwhile.

Each task has one attempt: whatever an outage counted as one would be a dead letter.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

from holdfast.client import Client
from holdfast.schemas import Plan
from tests.acceptance.deployment import Deployment, witnessed
from tests.waiting import until

MODULE = "tests.acceptance.dependents"
BEFORE, DURING = 6, 14
AWAY_S = 8.0


class Dependency:
    """A server of lines; while it is away its port refuses connections."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._server: asyncio.Server | None = None
        self._port = 0

    async def come(self) -> None:
        self._server = await asyncio.start_server(self._answer, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]
        (self._folder / "port").write_text(str(self._port))

    async def go(self) -> None:
        assert self._server is not None
        self._server.close()
        await self._server.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.readline()).upper())
        await writer.drain()
        writer.close()


def plan_of_both() -> Plan:
    plan = Plan("both")
    plan.task("look-up", "caller.look_up", text=plan.input("text"))
    plan.task("book", "booker.book", text=plan.input("text"))
    return plan


async def cli_document(place: Deployment, *arguments: str) -> dict[str, list[dict[str, object]]]:
    done = await asyncio.to_thread(place.cli, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    document: dict[str, list[dict[str, object]]] = json.loads(done.stdout)
    return document


async def test_an_outage_pauses_work_and_costs_no_task(place: Deployment) -> None:
    dependency = Dependency(place.folder)
    await dependency.come()
    place.coordinator("c1")
    place.agent("caller", module=MODULE)
    place.agent("booker", module=MODULE)
    await asyncio.to_thread(place.wait_ready)
    async with Client(url=place.bus, namespace=place.namespace) as client:
        runs = [
            await client.submit(plan_of_both(), {"text": f"before-{n}"}, run_id=f"before-{n}")
            for n in range(BEFORE)
        ]
        await asyncio.wait_for(asyncio.gather(*(run.result() for run in runs)), 60)
        await dependency.go()
        already = len(witnessed(place.folder / "asked.witness"))
        for n in range(DURING):
            run_id = f"during-{n}"
            runs.append(await client.submit(plan_of_both(), {"text": run_id}, run_id=run_id))
        for agent, breaker in (("caller-1", "crm"), ("booker-1", "books")):
            await until(said(place, agent, f"breaker '{breaker}' is open"), f"{breaker} opens", 30)
        await asyncio.sleep(AWAY_S / 2)
        place.kill("c1")
        place.again("c1")
        await asyncio.to_thread(place.wait_ready, "c1")
        await asyncio.sleep(AWAY_S / 2)
        during = len(witnessed(place.folder / "asked.witness")) - already
        await dependency.come()
        results = await asyncio.wait_for(asyncio.gather(*(run.result() for run in runs)), 90)
    # Per breaker: three that open it, those under way by then, and a trial about each second.
    assert 6 <= during <= 80, during
    assert [r["look-up"]["text"] for r in results[BEFORE:]] == [
        f"DURING-{n}" for n in range(DURING)
    ]
    assert all(r["look-up"] == r["book"] for r in results)
    letters = await cli_document(place, "dead-letters", "list")
    assert letters == {"dead_letters": []}, letters
    for agent in ("caller-1", "booker-1"):
        assert "is closed again" in place.text(agent)


def said(place: Deployment, name: str, text: str) -> Callable[[], bool]:
    return lambda: text in place.text(name)


async def test_why_and_agents_tell_of_an_open_breaker(place: Deployment) -> None:
    dependency = Dependency(place.folder)
    await dependency.come()
    await dependency.go()
    place.coordinator("c1")
    place.agent("booker", module=MODULE)
    await asyncio.to_thread(place.wait_ready)
    plan = Plan("one")
    plan.task("book", "booker.book", text="word")
    async with Client(url=place.bus, namespace=place.namespace) as client:
        run = await client.submit(plan, {}, run_id="one")

        async def told() -> str:
            reasons = (await cli_document(place, "why", "one"))["reasons"]
            return " ".join(str(reason["text"]) for reason in reasons)

        text = ""
        for _ in range(30):  # a sign of life comes every ten seconds
            text = await told()
            if "calls and tasks are paused" in text:
                break
            await asyncio.sleep(1)
        assert "'books' is out of reach" in text, text
        await dependency.come()
        assert (await asyncio.wait_for(run.result(), 60))["text"] == "WORD"
