"""Keyed state over real processes: counters stay exact while agent and coordinator are killed."""

from __future__ import annotations

import asyncio
import json

from holdfast.client import Client
from holdfast.schemas import Plan
from tests.acceptance.deployment import Deployment

KEYS = 8
RUNS_PER_KEY = 25
KILL_EVERY = 50


def plan() -> Plan:
    plan = Plan("count")
    plan.task(
        "count",
        "counter.count",
        order_key=plan.input("text"),
        text=plan.input("text"),
        n=plan.input("n"),
    )
    return plan


async def test_counters_per_key_are_exact_while_everything_is_killed(place: Deployment) -> None:
    place.coordinator("c1")
    place.agent("counter")
    place.agent("counter", "counter-2")
    await asyncio.to_thread(place.wait_ready)
    async with Client(url=place.bus, namespace=place.namespace) as client:
        runs = []
        for number in range(KEYS * RUNS_PER_KEY):
            key, n = f"key/{number % KEYS}", number // KEYS
            given = {"text": key, "n": n}
            runs.append(await client.submit(plan(), given, run_id=f"run-{number}"))
            if number % KILL_EVERY == KILL_EVERY - 1:
                victim = ("counter-1", "c1", "counter-2")[number // KILL_EVERY % 3]
                place.kill(victim)
                place.again(victim)
        results = await asyncio.wait_for(asyncio.gather(*(run.result() for run in runs)), 120)
        for key in range(KEYS):
            counted = sorted(result["n"] for result in results[key::KEYS])
            # Each success has counted once: no number twice, none left out.
            assert counted == list(range(1, RUNS_PER_KEY + 1))
            kept = await client.state("counter", f"key/{key}").documents()
            assert kept == {"count": RUNS_PER_KEY}
        places = [each async for each in client.states("counter")]
    assert len(places) == KEYS
    await asyncio.to_thread(_from_the_command_line, place)


def _from_the_command_line(place: Deployment) -> None:
    listed = place.cli("state", "list", "counter", "--json")
    assert listed.returncode == 0, listed.stderr
    assert {each["order_key"] for each in json.loads(listed.stdout)["state"]} == {
        f"key/{key}" for key in range(KEYS)
    }
    shown = place.cli("state", "get", "counter", "key/1", "count", "--json")
    assert json.loads(shown.stdout) == RUNS_PER_KEY
    gone = place.cli("state", "delete", "counter", "key/1", "--reason", "she asked", "--json")
    assert gone.returncode == 0, gone.stderr
    assert json.loads(gone.stdout)["deleted"] == ["count"]
    missing = place.cli("state", "get", "counter", "key/1", "count")
    assert missing.returncode == 4
    assert "keeps no 'count' under order key 'key/1'" in missing.stderr
    told = json.loads(place.cli("state", "deletions", "counter", "--json").stdout)["deletions"]
    assert [(each["order_key"], each["reason"], each["deleted"]) for each in told] == [
        ("key/1", "she asked", ["count"])
    ]
