"""A world that leaves out the hours in which nothing happens.

Processes that wait for days still beat, poll and look about, some fifty times a second each. What
they do so changes nothing, and after three days of it a test has run for minutes. So:

    quiet     for `SETTLE_S` nobody has written, joined or run a user's code
    idle      a timer that was set since then, by code that is not the user's: set by a loop that
              looks about and sets it anew. Everything that waits for a moment (a retry, a time-out,
              a deadline, a user's sleep) was set before, or by the user's code
    skip      to `LEAD_S` before the first timer that is not idle; idle ones move along

To the processes it is as if the hours had gone by with all their beats: nobody's session ends, and
nobody takes the gap for a stop of its own.
"""

# ruff: noqa: SLF001 the clock and the handles of asyncio are this module's subject

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

from holdfast.bus.port import AssignmentListener
from holdfast.testing.sim.broker import SimTiming
from holdfast.testing.sim.bus import SimBus
from holdfast.testing.sim.loop import SimLoop
from holdfast.testing.sim.network import Request, RequestKind
from holdfast.testing.sim.reading import SimSubscription
from holdfast.testing.sim.threads import BatonHeld, BatonThreads, ThreadedLoop
from holdfast.testing.sim.world import Main, Process, World

__all__ = ["USERS_CODE", "SkippingWorld"]

SETTLE_S = 2.0
"""More than any answer takes, and than any timer by which something that was begun goes on."""
LEAD_S = 1.0
"""So long before the moment the world wakes: time for a beat of everybody."""
SKIP_MIN_S = 1.0
"""It is not worth it for less."""
SKIP_MAX_S = 5 * 86_400.0
SIGN_OF_LIFE_S = 15.0
"""At once, and how long everybody then lives through before the next: an agent that gives no sign
of life for 7 days is forgotten."""
STRETCH = 4.0
"""By how much more than what is left out a member may be silent: half of it ends a process."""

USERS_CODE: ContextVar[bool] = ContextVar("holdfast-users-code", default=False)
"""Set while a user's function runs: what it waits for is never left out."""

_IDLE_REQUESTS = frozenset({RequestKind.HEARTBEAT, RequestKind.READ, RequestKind.ADMIN})


class _SkippingBus(SimBus):
    """A connection that knows its memberships."""

    subscriptions: tuple[SimSubscription, ...] = ()

    async def subscribe(
        self, group: str, topics: Sequence[str], *, member: str, listener: AssignmentListener
    ) -> SimSubscription:
        """See `Bus.subscribe`."""
        subscription = await super().subscribe(group, topics, member=member, listener=listener)
        self.subscriptions += (subscription,)
        return subscription


class SkippingWorld(World):
    """See `World`; also runs blocking calls in threads.

    `idle_writers`: names of the processes whose publications change nothing (signs of life).
    """

    def __init__(self, seed: int, timing: SimTiming | None = None) -> None:
        super().__init__(seed, timing)
        self.skipped_s = 0.0
        """How much was left out."""
        self.idle_writers: set[str] = set()
        self._active_at = 0.0
        self._mark: int | None = None
        self._next_at = 0.0
        self._rest_until = 0.0
        self._held: BatonHeld | None = None
        self._threads: dict[str, list[BatonThreads]] = {}
        self.broker.network.watchers.append(self._look)

    def start(self, name: str, main: Main) -> Process:
        """See `World.start`."""
        process = super().start(name, main)
        bus = _SkippingBus(self.broker, process.bus.name, lambda: self.now_ms(process))
        threads = BatonThreads()
        self._threads.setdefault(name, []).append(threads)
        process.bus = bus
        process.environment = replace(process.environment, bus=bus, run_blocking=threads)
        self.active()
        return process

    def active(self) -> None:
        """Something happens: what waits for it is not idle."""
        self._active_at = self.clock.now
        self._mark, self._next_at = None, 0.0

    def crash(self, process: Process, reason: str = "killed") -> None:
        """See `World.crash`."""
        super().crash(process, reason)
        self.active()

    def wake(self, process: Process) -> None:
        """See `World.wake`."""
        super().wake(process)
        self.active()

    def close(self) -> None:
        """See `World.close`."""
        super().close()
        for threads in self._threads.values():
            for of_process in threads:
                of_process.drop()

    def _new_loop(self) -> SimLoop:
        return ThreadedLoop(self.clock, self._announce, self._on_error)  # type: ignore[abstract]

    def _on_error(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, BatonHeld):
            self._held = error  # asyncio lets nothing through to whoever steps the loop
        super()._on_error(context)

    def _turn(self, limit: float) -> bool:
        if self._held is not None:
            raise self._held
        if not self._busy and self.clock.now - self._active_at > SETTLE_S:
            self._skip(limit)
        return super()._turn(limit)

    def _look(self, request: Request, moment: str) -> None:
        if moment != "applied" or request.kind in _IDLE_REQUESTS:
            return
        writer = request.link.name.rpartition("-")[0]
        if request.kind is not RequestKind.PUBLISH or writer not in self.idle_writers:
            self.active()

    def _skip(self, limit: float) -> None:
        clock = self.clock
        if self._mark is None:
            self._mark, self._next_at = next(clock._sequence), 0.0
        if clock.now < self._rest_until or clock.now < self._next_at < limit:
            return
        if any(_on_its_way(timer[2]) for timer in clock._timers):
            self.active()
            return
        waits = [timer[0] for timer in clock._timers if not self._idle(timer)]
        moment = min([*waits, limit])
        seconds = min(moment - LEAD_S - clock.now, SKIP_MAX_S)
        if seconds < SKIP_MIN_S:
            self._next_at = moment  # not worth another look before
            return
        if self.broker.open_transactions() or self._stopped():
            return
        clock._timers = [
            (timer[0] + seconds, *timer[1:]) if self._idle(timer) else timer
            for timer in clock._timers
        ]
        heapq.heapify(clock._timers)
        clock.now += seconds
        self.skipped_s += seconds
        if seconds == SKIP_MAX_S:
            self._rest_until = clock.now + SIGN_OF_LIFE_S
        self._keep_sessions(seconds)

    def _idle(self, timer: tuple[float, int, asyncio.Handle, SimLoop]) -> bool:
        assert self._mark is not None
        _, sequence, handle, loop = timer
        if handle.cancelled() or loop.dead:
            return True
        context = handle._context  # type: ignore[attr-defined]
        return sequence > self._mark and not context.get(USERS_CODE, False)

    def _stopped(self) -> bool:
        return any(process.alive and process.stopped for process in self.processes.values())

    def _keep_sessions(self, seconds: float) -> None:
        for group in self.broker.groups.values():
            for seen in group.members.values():
                seen.seen_at = self.clock.now
        members = [
            subscription
            for process in self.processes.values()
            if process.alive and isinstance(process.bus, _SkippingBus)
            for subscription in process.bus.subscriptions
        ]
        for member in members:
            member.session_timeout_s += STRETCH * seconds

        def as_before() -> None:
            for member in members:
                member.session_timeout_s -= STRETCH * seconds

        # Everybody has looked at its clock by then, so that nobody sees the gap any more.
        self.net.call_later(LEAD_S * 0.9, as_before)


def _on_its_way(handle: asyncio.Handle) -> bool:
    """Whether this is a request that changes something, or the answer to it."""
    args = handle._args
    return bool(
        args
        and isinstance(args[0], Request)
        and args[0].kind not in _IDLE_REQUESTS
        and args[0].kind is not RequestKind.PUBLISH
        and not handle.cancelled()
    )
