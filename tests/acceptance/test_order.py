"""Order keys: per key, every agent sees the runs in the order of their submission."""

from __future__ import annotations

import asyncio
from collections import defaultdict

from holdfast.client import Client
from holdfast.schemas import Plan
from tests.acceptance.deployment import Deployment, witnessed

KEYS = 10
RUNS_PER_KEY = 200


def plan() -> Plan:
    plan = Plan("in-order")
    plan.order_key = plan.input("text")
    one = plan.task("one", "first.ordered", text=plan.input("text"), n=plan.input("n"))
    two = plan.task("two", "second.ordered", text=one["text"], n=one["n"])
    plan.task("three", "third.ordered", text=two["text"], n=two["n"])
    return plan


async def test_runs_of_one_key_pass_every_agent_in_order(place: Deployment) -> None:
    place.coordinator("c1")
    for agent in ("first", "second", "third"):
        place.agent(agent)
    await asyncio.to_thread(place.wait_ready)
    async with Client(url=place.bus, namespace=place.namespace) as client:
        runs = []
        for n in range(RUNS_PER_KEY):
            runs += await asyncio.gather(
                *(
                    client.submit(plan(), {"text": f"key-{key}", "n": n}, run_id=f"k{key}-n{n}")
                    for key in range(KEYS)
                )
            )
            if n == RUNS_PER_KEY // 4:
                place.kill("second-1")
                place.again("second-1")
            if n == RUNS_PER_KEY // 2:
                place.agent("third", "third-2")
        await asyncio.wait_for(asyncio.gather(*(run.result() for run in runs)), 240)
    seen: dict[tuple[str, str], list[int]] = defaultdict(list)
    overlaps = 0
    open_keys: dict[str, set[str]] = defaultdict(set)
    for who, key, n, _attempt, what, *_ in witnessed(place.folder / "order.witness"):
        if what == "end":
            seen[who, key].append(int(n))
            open_keys[who].discard(key)
        else:
            open_keys[who].add(key)
            overlaps += len(open_keys[who]) > 1
    assert len(seen) == 3 * KEYS
    for (who, key), order in seen.items():
        # A kill may repeat an end whose commit it forestalled; never put it behind a later one.
        assert order == sorted(order), f"{who} saw {key} out of order"
        assert sorted(set(order)) == list(range(RUNS_PER_KEY))
    assert overlaps > RUNS_PER_KEY, "different keys did not run side by side"
