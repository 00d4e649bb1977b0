"""Liveness by progress, names of instances, and the way a service ends."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from holdfast.cli.failures import BadInput, ExitCode
from holdfast.cli.invocation import Invocation
from holdfast.cli.service import ServiceOptions, _Health, _serve
from tests.waiting import until

OPTIONS = ServiceOptions("test", None, None)


class Service:
    """Serves until it is stopped, or broken."""

    def __init__(self) -> None:
        self.host: Any = SimpleNamespace(polled_at=0.0)
        self.started = asyncio.Event()
        self.slow_start = False
        self.stops = 0
        self._end: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def start(self) -> None:
        self.started.set()
        if self.slow_start:
            await asyncio.sleep(600)

    async def run(self) -> None:
        await self._end

    async def stop(self) -> None:
        self.stops += 1
        self._end.set_result(None)

    def break_down(self) -> None:
        self._end.set_exception(RuntimeError("the group is lost"))


def test_liveness_is_progress() -> None:
    now = 100.0
    service = cast(Any, SimpleNamespace(host=SimpleNamespace(polled_at=0.0)))
    health = _Health(lambda: now)
    assert health.problem() is None  # it is still starting
    now = 300.0
    assert "still starting after 200 s" in str(health.problem())
    health.service = service
    service.host.polled_at = 299.0
    assert health.problem() is None
    now = 315.0
    assert "has not come round for 16 s" in str(health.problem())


def test_without_an_instance_each_start_has_a_name_of_its_own() -> None:
    names = {OPTIONS.instance_name() for _ in range(20)}
    assert len(names) == 20
    for name in names:
        assert len(name) <= 64
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert ServiceOptions("x", "mine").instance_name() == "mine"


@pytest.fixture
def quiet(home: Path) -> Iterator[None]:
    yield
    logging.getLogger().handlers.clear()


async def serve(service: Service) -> asyncio.Task[ExitCode]:
    invocation = Invocation({"bus": "sqlite:///bus.db"})
    serving = asyncio.create_task(_serve(invocation, OPTIONS, lambda _: service))
    await asyncio.wait_for(service.started.wait(), 10)
    await asyncio.sleep(0)
    return serving


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("port", ["abc", "in use"])
async def test_a_port_that_cannot_be_had_is_told_before_anything_is_begun(port: str) -> None:
    async with await asyncio.start_server(lambda _r, _w: None, "127.0.0.1", 0) as taken:
        number = taken.sockets[0].getsockname()[1]
        given = f"127.0.0.1:{number}" if port == "in use" else port
        options = ServiceOptions("test", None, given)
        invocation = Invocation({"bus": "sqlite:///bus.db"})
        with pytest.raises(BadInput, match="--metrics-port"):
            await _serve(invocation, options, lambda _: Service())
    assert not Path("bus.db").exists()


@pytest.mark.usefixtures("quiet")
async def test_a_signal_stops_gracefully() -> None:
    service = Service()
    serving = await serve(service)
    os.kill(os.getpid(), signal.SIGTERM)
    assert await asyncio.wait_for(serving, 10) is ExitCode.OK
    assert service.stops == 1


@pytest.mark.usefixtures("quiet")
async def test_a_signal_during_the_start_ends_it() -> None:
    service = Service()
    service.slow_start = True
    serving = await serve(service)
    os.kill(os.getpid(), signal.SIGINT)
    assert await asyncio.wait_for(serving, 10) is ExitCode.OK


@pytest.mark.usefixtures("quiet")
async def test_what_ends_a_member_asks_for_a_restart() -> None:
    service = Service()
    serving = await serve(service)
    await until(lambda: not serving.done())
    service.break_down()
    assert await asyncio.wait_for(serving, 10) is ExitCode.RESTART
