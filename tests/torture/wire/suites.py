"""Whole runs of one family of faults: from a fresh broker to outcomes as the results page wants."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from holdfast.bus.kafka import KafkaBus
from tests.kafka.proxy import ApiKey, Fault, Injection
from tests.torture.results import Outcome, commit, machine
from tests.torture.wire import brokers, cuts, orphans, torn
from tests.torture.wire.bed import (
    Bed,
    bed,
    proxied_broker,
    proxied_cluster,
    settings_for,
)
from tests.torture.wire.check import Violation
from tests.torture.wire.lanes import Lane

__all__ = ["SUITES", "Order", "Suite"]

TORN_LANES = 4
ORPHAN_LANES = 10
STOCK_REQUEST_S = 20.0
"""The client's request time-out as delivered, where a bound of recovery is measured."""


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be run. `folder` is for the broker's data."""

    count: int
    seed: int
    folder: Path
    tell: Callable[[str], None] = lambda _text: None


@dataclass
class Run:
    """What came of it, by fault and point."""

    order: Order
    bound_s: float | None = None
    started: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    began: float = field(default_factory=time.monotonic)
    recovery_s: defaultdict[tuple[str, str], list[float]] = field(
        default_factory=lambda: defaultdict(list)
    )
    violations: list[Violation] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    commits: int = 0

    def hit(self, fault: str, point: str, recovery_s: float) -> None:
        """Note one fault that struck."""
        self.recovery_s[fault, point].append(round(recovery_s, 4))
        self.order.tell(f"{fault} {point} {recovery_s:.3f}")

    def hang(self, fault: str, point: str, error: BaseException) -> None:
        """Note one after which something did not go on."""
        told = f"{fault} {point}: {type(error).__name__} {error}"
        self.violations.append(Violation("I9", told, "run"))
        self.order.tell(f"!! {told}")

    async def judge(self, made: Bed) -> None:
        """Stop the lanes and look at what they left."""
        self.violations += await made.verdict()
        self.commits += sum(len(lane.acknowledged) for lane in made.lanes.all)

    def outcomes(self) -> list[Outcome]:
        """Return one for each fault and point; the violations stand in the first."""
        seconds = round(time.monotonic() - self.began, 1)
        total = sum(len(found) for found in self.recovery_s.values()) or 1
        made = [
            Outcome(
                "torture",
                "kafka",
                fault,
                point,
                len(found),
                0,
                self.commits * len(found) // total,
                [],
                found,
                self.bound_s,
                self.order.seed,
                commit(),
                self.started,
                seconds,
                machine(),
                "; ".join(["tasks are commits of lanes, over the bus alone", *self.notes]),
            )
            for (fault, point), found in sorted(self.recovery_s.items())
        ]
        if made:
            made[0].violations += [violation._asdict() for violation in self.violations]
        return made


Suite = Callable[[Order], Coroutine[Any, Any, list[Outcome]]]


def _namespace() -> str:
    return f"wire-{uuid.uuid4().hex[:8]}"


async def run_cuts(order: Order, faults: tuple[Fault, ...] = cuts.CUTS) -> list[Outcome]:
    """Cut (or slow, or silence) connections at each kind of request that is in use."""
    run = Run(order)
    async with (
        proxied_broker(order.folder) as proxied,
        bed(_namespace(), proxied.kafka.bootstrap, proxied.proxies) as made,
    ):
        async with cuts.traffic(made) as traffic:
            kinds = await cuts.used(made, traffic)
            for fault, kind in cuts.plan(faults, kinds, order.count, order.seed):
                try:
                    hit = await cuts.strike(made, traffic, fault, kind)
                except (TimeoutError, AssertionError) as error:
                    run.hang(fault.value, kind.name.lower(), error)
                else:
                    run.hit(fault.value, kind.name.lower(), hit.recovery_s)
        bus = KafkaBus(settings_for(made.direct))
        await bus.start()
        run.violations += await traffic.check(bus)
        await bus.close()
        await run.judge(made)
    return run.outcomes()


async def run_slow(order: Order) -> list[Outcome]:
    """Delays, trickles, half-open connections, swallowed answers."""
    return await run_cuts(order, cuts.SLOW)


async def run_torn(order: Order) -> list[Outcome]:
    """Late requests of old transactions."""
    run, codes = Run(order), Counter[str]()
    todo = iter(list(torn.plan(order.count, order.seed)))
    async with (
        proxied_broker(order.folder) as proxied,
        bed(_namespace(), proxied.kafka.bootstrap, proxied.proxies, lanes=TORN_LANES) as made,
    ):

        async def work(lane: Lane) -> None:
            for one in todo:
                try:
                    told = await torn.strike(made, made.proxy, lane, one)
                except (TimeoutError, AssertionError) as error:
                    run.hang("torn", one.point, error)
                    continue
                codes[f"{told.code}"] += 1
                run.hit("torn", one.point, told.recovery_s)

        await asyncio.gather(*map(work, made.lanes.all))
        run.notes.append(f"what the broker answered to the late request: {dict(codes)}")
        await run.judge(made)
    return run.outcomes()


async def run_broker(order: Order, *, stock: bool = True) -> list[Outcome]:
    """Kill the only broker and start it again."""
    run, choose = Run(order, brokers.BACK_BOUND_S), random.Random(order.seed)
    run.notes.append("a stock broker" if stock else "a broker with short time-outs")
    async with (
        proxied_broker(order.folder, stock=stock) as proxied,
        bed(
            _namespace(),
            proxied.kafka.bootstrap,
            proxied.proxies,
            request_timeout_s=STOCK_REQUEST_S,
        ) as made,
    ):
        for _ in range(order.count):
            try:
                back = await brokers.kill_only(made, proxied.kafka, choose)
            except AssertionError as error:
                run.hang("kill-broker", "", error)
            else:
                run.hit("kill-broker", "", back.back_s)
        await run.judge(made)
    return run.outcomes()


async def run_cluster(order: Order, *, stock: bool = True) -> list[Outcome]:
    """Kill one of three brokers, the coordinator of a lane's transactions, and start it again."""
    run, choose = Run(order, brokers.BACK_BOUND_S), random.Random(order.seed)
    taken_over: list[float] = []
    async with (
        proxied_cluster(order.folder, stock=stock) as proxied,
        bed(
            _namespace(),
            proxied.kafka.bootstrap,
            proxied.proxies,
            request_timeout_s=STOCK_REQUEST_S,
        ) as made,
    ):
        for _ in range(order.count):
            try:
                back = await brokers.kill_coordinator(made, proxied.kafka, choose)
            except AssertionError as error:
                run.hang("kill-broker-of-three", "transaction-coordinator", error)
            else:
                run.hit("kill-broker-of-three", "transaction-coordinator", back.back_s)
                taken_over.append(round(back.taken_over_s or 0.0, 2))
        await run.judge(made)
    run.notes += [
        "stock brokers" if stock else "brokers with short time-outs",
        f"seconds from the kill until the other two had taken over: {taken_over}",
    ]
    return run.outcomes()


async def run_orphans(order: Order) -> list[Outcome]:
    """Let processes die inside their commits, many at once, each beside a lane of its own."""
    run = Run(order, orphans.NEIGHBOUR_BOUND_S)
    run.notes.append("a stock broker")
    victims = iter(range(order.count))
    async with (
        proxied_broker(order.folder, stock=True) as proxied,
        bed(_namespace(), proxied.kafka.bootstrap, proxied.proxies, lanes=ORPHAN_LANES) as made,
    ):

        async def work(lane: Lane) -> None:
            lane.pause_s = 0.05
            for victim in victims:
                try:
                    run.hit("open-transaction", "", await orphans.strike(made, lane, victim))
                except AssertionError as error:
                    run.hang("open-transaction", "", error)

        await asyncio.gather(*map(work, made.lanes.all))
        await run.judge(made)
    return run.outcomes()


async def run_answers(order: Order) -> list[Outcome]:
    """Swallow the answers to commits alone: the broker did it, the client never hears."""
    run = Run(order)
    async with (
        proxied_broker(order.folder) as proxied,
        bed(_namespace(), proxied.kafka.bootstrap, proxied.proxies, lanes=TORN_LANES) as made,
    ):
        for _ in range(order.count):
            injection = made.proxy.inject(Injection(Fault.LOSE_ANSWER, ApiKey.END_TXN))
            await asyncio.wait_for(injection.struck.wait(), torn.STRIKE_S)
            recovery_s = await made.lanes.progress(time.monotonic())
            run.hit(Fault.LOSE_ANSWER.value, "end_txn", recovery_s)
        await run.judge(made)
    return run.outcomes()


SUITES: dict[str, Suite] = {
    "cuts": run_cuts,
    "slow": run_slow,
    "answers": run_answers,
    "torn": run_torn,
    "broker": run_broker,
    "cluster": run_cluster,
    "orphans": run_orphans,
}
