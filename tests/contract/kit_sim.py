"""The simulated bus for the contract suite: a broker in this process, in real time here.

What other kits do to processes is done to connections: one that is killed neither says nor hears
anything any more, one that is stopped says and hears it all when it is woken.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest

from holdfast.bus.port import Bus
from holdfast.testing.sim import Fate, Request, RequestKind, SimBroker, SimBus, SimTiming
from holdfast.testing.sim.network import Link
from tests.contract import child
from tests.contract.kit import PATIENCE_S, BusKit, Child, HeldCommit, Timing

DELAY_S = 0.001
REBALANCE_S = 0.05

_places: dict[str, SimBroker] = {}
"""By URL: `build` has nothing else to know a place by."""
_connections = itertools.count(1)


def wall_ms() -> int:
    return time.time_ns() // 1_000_000


class Held(HeldCommit):
    """A commit whose records are written and whose end stands at the broker's door."""

    def __init__(self, bus: SimBus) -> None:
        self._bus = bus
        self._reached = asyncio.Event()
        self._network = bus.broker.network
        self._hold = self._network.hold(self._wants)

    def _wants(self, request: Request) -> bool:
        if request.kind is not RequestKind.END or request.link is not self._bus.link:
            return False
        self._reached.set()
        return True

    async def reached(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            await self._reached.wait()

    def release(self) -> None:
        self._network.release(self._hold)


class SimChild(Child):
    """A client in this process that plays one of its own."""

    def __init__(self, bus: SimBus, request: dict[str, Any]) -> None:
        self._bus = bus
        self._said: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        playing = child.play(SimKit, bus, request, self._said.put_nowait)
        self._task = asyncio.create_task(playing, name="child")

    async def said(self, event: str) -> dict[str, Any]:
        async with asyncio.timeout(PATIENCE_S):
            while (answer := await self._said.get())["event"] != event:
                pass
        return answer

    async def kill(self) -> None:
        # What is killed runs no `finally`: it is cut off, and unwound when the test is over.
        self._link.dead = True

    async def bury(self) -> None:
        """Let it unwind."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def stop(self) -> None:
        self._link.frozen = True

    def wake(self) -> None:
        self._link.thaw()

    @property
    def _link(self) -> Link:
        return self._bus.connected()


class SimKit(BusKit):
    name: ClassVar[str] = "sim"

    def __init__(self) -> None:
        super().__init__()
        seed = random.randrange(2**32)
        print(f"seed of the simulated bus: {seed}")
        self._broker = SimBroker(
            asyncio.get_running_loop,
            lambda: asyncio.get_running_loop().time(),
            wall_ms,
            random.Random(seed),
            SimTiming(delay_s=DELAY_S, rebalance_s=REBALANCE_S),
        )
        _places[self.url] = self._broker

    @classmethod
    def create(cls, request: pytest.FixtureRequest, folder: Path) -> SimKit:
        return cls()

    @property
    def url(self) -> str:
        return f"sim://{self.namespace}"

    @classmethod
    def build(cls, url: str, timing: Timing) -> SimBus:
        mine = SimTiming(
            connect_timeout_s=timing.connect_s,
            operation_timeout_s=timing.operation_s,
            session_s=timing.session_s,
            heartbeat_s=min(0.5, timing.session_s / 6),
        )
        name = f"{url.removeprefix('sim://')}-{next(_connections)}"
        return SimBus(_places[url], name, wall_ms, mine)

    @classmethod
    @asynccontextmanager
    async def hold_commit(cls, bus: Bus) -> AsyncIterator[Held]:
        assert isinstance(bus, SimBus)
        held = Held(bus)
        try:
            yield held
        finally:
            held.release()

    @asynccontextmanager
    async def lose_answer(self, bus: Bus, *, committed: bool) -> AsyncIterator[None]:
        assert isinstance(bus, SimBus)
        link, fates = bus.link, self._broker.network.fates

        def lost(request: Request) -> Fate | None:
            if request.kind is not RequestKind.END or request.link is not link:
                return None
            fates.remove(lost)
            return Fate.LOSE_REPLY if committed else Fate.LOSE_REQUEST

        fates.append(lost)
        yield

    async def cut(self) -> None:
        self._broker.away()

    async def restore(self) -> None:
        self._broker.comes_back()

    async def compact(self, bus: Bus, topic: str) -> bool:
        for where, log in self._broker.logs.items():
            if where.topic == topic:
                log.compact(log.end, wall_ms())
        return True

    async def dispose(self) -> None:
        for member in self._children:
            assert isinstance(member, SimChild)
            await member.bury()
        del _places[self.url]

    async def _spawn(self, request: dict[str, Any], timing: Timing) -> Child:
        member = SimChild(self.build(self.url, timing), request)
        self._children.append(member)
        return member
