"""What handlers of a simulated world wait for, and what must be true when they go on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel

from holdfast.agents import CallFailed, Context, RunFailed, SignalTimeout
from holdfast.schemas import Plan

__all__ = ["Heard", "Waited", "Waits", "child_plan", "do_waits", "signal_name"]

HEARD_IN_VAIN = -1
CLOCK_SLACK_S = 0.05
"""A sleep may end so much before its time: clocks are read in milliseconds, here and there."""


class Waits(BaseModel):
    """What one handler waits for, one after the other, or all at once (`gather`).

    `nap_ms`: a sleep. `hears`: so many signals of its own name, each at most `hear_ms` (0: for
    ever). `race`: signal and sleep at once, and the first one counts. `calls`: so many called
    tasks, of which `broken` never succeed. `spawn`: a child run; `detached`: one that lives on.
    """

    nap_ms: int = 0
    hears: int = 0
    hear_ms: int = 0
    race: bool = False
    calls: int = 0
    broken: int = 0
    spawn: bool = False
    detached: bool = False
    gather: bool = False


class Heard(BaseModel):
    """What a signal says."""

    number: int


@dataclass
class Waited:
    """What was seen of waits from outside."""

    now: Callable[[], float]
    surprises: list[str]
    clocks_jump: bool = False
    """A coordinator's clock may run ahead: then a sleep ends early by as much."""
    asked: dict[tuple[str, ...], float] = field(default_factory=dict)
    heard: dict[tuple[str, str, int], str] = field(default_factory=dict)
    answers: dict[tuple[str, ...], str] = field(default_factory=dict)

    def ask(self, ctx: Context, name: str) -> None:
        """A handler begins to wait, perhaps not for the first time."""
        self.asked.setdefault((ctx.run_id, ctx.task_id, name), self.now())

    def slept(self, ctx: Context, name: str, seconds: float) -> None:
        """A sleep is over: not before its time."""
        where = (ctx.run_id, ctx.task_id, name)
        slept_s = self.now() - self.asked[where]
        if slept_s < seconds - CLOCK_SLACK_S and not self.clocks_jump:
            self.surprises.append(f"I2 at {where}: slept {slept_s:.3f} s of {seconds} s")

    def hear(self, ctx: Context, name: str, number: int) -> None:
        """A signal was heard: by one wait only, whatever was sent twice."""
        known = self.heard.setdefault((ctx.run_id, signal_name(ctx.task_id), number), name)
        if known != name:
            self.surprises.append(f"I2 at {ctx.run_id}/{ctx.task_id}: {number} heard twice")

    def answered(self, ctx: Context, name: str, answer: object) -> None:
        """Each execution gets the same answer."""
        where = (ctx.run_id, ctx.task_id, name)
        known = self.answers.setdefault(where, repr(answer))
        if known != repr(answer):
            self.surprises.append(f"I2 at {where}: answered {known}, then {answer!r}")


def signal_name(task_id: str) -> str:
    """Return the name of the signals that a task waits for."""
    return f"go-{task_id}"


def child_plan(agent: str) -> Plan:
    """Return the plan of a child run: two tasks, one after the other."""
    plan = Plan("child")
    first = plan.task("first", f"{agent}.work", text="first", n=1)
    plan.task("second", f"{agent}.work", text=first["text"], n=1, sleep_ms=20)
    return plan


async def do_waits(ctx: Context, waits: Waits, other: str, seen: Waited) -> int:
    """Wait for all that is told; calls and child runs go to the agent `other`. Return a sum that
    tells what came of it."""
    tasks: list[Callable[[], Awaitable[int]]] = []
    if waits.nap_ms and not waits.race:
        tasks.append(lambda: _nap(ctx, waits.nap_ms / 1_000, seen))
    if waits.race:
        tasks.append(lambda: _race(ctx, waits, seen))
    else:
        tasks += [_hearing(ctx, waits, n, seen) for n in range(waits.hears)]
    if waits.calls:
        tasks.append(lambda: _call(ctx, waits, other, seen))
    if waits.spawn:
        tasks.append(lambda: _spawn(ctx, other, seen, detached=waits.detached))
    return sum(await _all(tasks, gather=waits.gather))


async def _all(tasks: Iterable[Callable[[], Awaitable[int]]], *, gather: bool) -> list[int]:
    if gather:
        return list(await asyncio.gather(*(task() for task in tasks)))
    return [await task() for task in tasks]


async def _nap(ctx: Context, seconds: float, seen: Waited) -> int:
    seen.ask(ctx, "nap")
    await ctx.sleep("nap", seconds)
    seen.slept(ctx, "nap", seconds)
    return 1


def _hearing(ctx: Context, waits: Waits, number: int, seen: Waited) -> Callable[[], Awaitable[int]]:
    return lambda: _hear(ctx, waits, number, seen)


async def _hear(ctx: Context, waits: Waits, number: int, seen: Waited) -> int:
    key = str(number)
    timeout = waits.hear_ms / 1_000 if waits.hear_ms else None
    said = HEARD_IN_VAIN
    try:
        word = await ctx.wait_for(signal_name(ctx.task_id), Heard, timeout=timeout, key=key)
        said = word.number
        seen.hear(ctx, f"hear/{key}", said)
    except SignalTimeout:
        pass
    seen.answered(ctx, f"hear/{key}", said)
    return 1


async def _race(ctx: Context, waits: Waits, seen: Waited) -> int:
    racers: set[asyncio.Task[Any]] = {
        asyncio.create_task(_hear(ctx, waits, 0, seen)),
        asyncio.create_task(_nap(ctx, waits.nap_ms / 1_000, seen)),
    }
    try:
        done, _ = await asyncio.wait(racers, return_when=asyncio.FIRST_COMPLETED)
        return max(task.result() for task in done)
    finally:
        for task in racers:
            task.cancel()


async def _call(ctx: Context, waits: Waits, other: str, seen: Waited) -> int:
    given = [
        {"text": f"c{n}", "n": n, "fails": 1_000 if n < waits.broken else 0}
        for n in range(waits.calls)
    ]
    outcomes = await ctx.call_many(f"{other}.work", given, max_parallel=2, name="call")
    for number, outcome in enumerate(outcomes):
        failed = isinstance(outcome, CallFailed)
        seen.answered(ctx, f"call/{number}", "failed" if failed else outcome)
        if not failed and number < waits.broken:
            seen.surprises.append(f"I2 at {ctx.run_id}/{ctx.task_id}: call {number} succeeded")
    return len(outcomes)


async def _spawn(ctx: Context, other: str, seen: Waited, *, detached: bool) -> int:
    answer: object = "failed"
    with suppress(RunFailed):
        answer = await ctx.start_run(child_plan(other), detached=detached)
    seen.answered(ctx, "spawn", answer)
    return 1
