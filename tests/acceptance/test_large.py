"""The claim check: an output of 20 MB goes from one agent through the coordinator to the next."""

from __future__ import annotations

import asyncio

import pytest

from holdfast.client import Client
from holdfast.schemas import Plan
from tests.acceptance.deployment import Deployment

SIZE_BYTES = 20_000_000


def plan() -> Plan:
    plan = Plan("large")
    made = plan.task("make", "heavy.make", size=plan.input("size"))
    weighed = plan.task("weigh", "heavy.weigh", text=made["text"])
    plan.output = {"text": made["text"], "size": weighed["size"]}
    return plan


async def test_twenty_megabytes_pass(place: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    if blobs := place.variables().get("HOLDFAST_BLOBS"):
        monkeypatch.setenv("HOLDFAST_BLOBS", blobs)  # on Kafka the client needs the store too
    place.coordinator("c1")
    place.agent("heavy")
    await asyncio.to_thread(place.wait_ready)
    async with Client(url=place.bus, namespace=place.namespace) as client:
        run = await client.submit(plan(), {"size": SIZE_BYTES}, run_id="large")
        result = await run.result(timeout_s=60)
    assert result["size"] == SIZE_BYTES
    assert result["text"] == "0123456789" * (SIZE_BYTES // 10)
