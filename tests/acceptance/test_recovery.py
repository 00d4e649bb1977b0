"""How soon work goes on, on a broker as it comes."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from holdfast.client import Client
from tests.acceptance.deployment import Deployment, deployment, witnessed
from tests.broker import local_broker
from tests.waiting import until

RESTART_S = 2.0
TAKEOVER_S = 9.0
STOP_S = 2.0


@pytest.fixture
def stock(tmp_path: Path) -> Iterator[Deployment]:
    with (
        local_broker(stock=True) as broker,
        deployment(f"kafka://{broker.bootstrap}", tmp_path, f"t{uuid.uuid4().hex[:8]}") as place,
    ):
        yield place


async def resumed(place: Deployment, lines: int) -> None:
    witness = place.folder / "long.witness"
    await until(lambda: len(witnessed(witness)) >= lines, f"{lines} starts", 30)


@pytest.mark.kafka
async def test_recovery_times_on_a_stock_broker(stock: Deployment) -> None:
    place = stock
    place.coordinator("c1")
    place.agent("patient", "patient-1")
    await asyncio.to_thread(place.wait_ready)
    async with Client(url=place.bus, namespace=place.namespace) as client:
        run = await client.submit("patient.long", {"text": "x"}, run_id="long")
        await resumed(place, 1)

        place.kill("patient-1")
        began = time.monotonic()
        place.again("patient-1")
        await resumed(place, 2)
        restart_s = time.monotonic() - began

        place.kill("patient-1")
        began = time.monotonic()
        place.agent("patient", "patient-2")
        await resumed(place, 3)
        takeover_s = time.monotonic() - began

        place.again("patient-1")
        await asyncio.to_thread(place.wait_ready, "patient-1")
        owner = witnessed(place.folder / "long.witness")[-1][2]
        holder = next(n for n, s in place.services.items() if str(s.process.pid) == owner)
        # What runs is not cut short within the grace: the stop is measured from its end.
        (place.folder / "open-long").touch()
        assert await run.result(timeout_s=30) == {"text": "x", "n": 0}
        stop_s = await asyncio.to_thread(place.stop, holder)
        began = time.monotonic()
        after = await client.submit("patient.short", {"text": "y"})
        await after.result(timeout_s=30)
        handed_over_s = time.monotonic() - began
    print(
        f"restart {restart_s:.2f} s, takeover {takeover_s:.2f} s, "
        f"graceful stop {stop_s:.2f} s, first result after it {handed_over_s:.2f} s"
    )
    assert restart_s < RESTART_S
    assert takeover_s < TAKEOVER_S
    assert stop_s < STOP_S
