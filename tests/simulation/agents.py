"""The agents of a simulated world: one task that does whatever its input says, and in worlds with
lists that still arrive those that hand out, work and fold their items.

Each body that begins and ends tells the evidence, as do the effects at a ledger outside that
honours idempotency keys.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from pydantic import BaseModel

from holdfast.agents import Agent, CallFailed, Context, EffectNotApplied, Retry, SyncContext
from holdfast.schemas import PlanChange
from holdfast.testing.evidence import BodyEnd, BodyStart, EffectSeen, Evidence
from holdfast.testing.sim import World
from tests.simulation.arriving import Arrived, Doing, Item, Seek, doings
from tests.simulation.living import PLANNER, Grown, Grows, do_growth, next_change
from tests.simulation.waiting import Waited, Waits, do_waits

AGENTS = ("alpha", "beta", "gamma")
PUBLISHED = "outside.words"
"""A topic of the users' own."""
RETRY = Retry(attempts=4, initial_s=0.05, max_s=0.4)


class Said(BaseModel):
    """What a task gives on."""

    text: str = ""
    n: int = 0


class Word(BaseModel):
    """What a task is told to do.

    `fails`: so many attempts raise. `kills`: so many executions end their process. `sleep_ms`: how
    long the handler takes. `steps`, `effects`: how many of each. `pad`: so many characters more in
    the output. `publish`: one record to a topic outside. `gather`: all steps at once. `wires`: one
    effect that must not be called twice. `waits`: what it waits for, see `waiting`; `grows`: what
    it adds to its run's plan, see `living`.
    """

    text: str = ""
    n: int = 0
    fails: int = 0
    kills: int = 0
    sleep_ms: int = 0
    steps: int = 1
    effects: int = 0
    pad: int = 0
    publish: bool = False
    gather: bool = False
    wires: bool = False
    waits: Waits | None = None
    grows: Grows | None = None


class Part(BaseModel):
    """What a reducer is given."""

    previous: Said | None
    items: list[Said]


class Broken(Exception):
    """What a handler raises when it was told to."""


@dataclass
class Outside:
    """What is outside of the system: the evidence, and a ledger with idempotency keys."""

    world: World
    evidence: Evidence = field(default_factory=Evidence)
    ledger: dict[str, int] = field(default_factory=dict)
    executions: Counter[tuple[str, str]] = field(default_factory=Counter)
    healed: set[tuple[str, str]] = field(default_factory=set)
    """Tasks that somebody has repaired: they are not broken any more."""
    keys: dict[tuple[str, str, str], str] = field(default_factory=dict)
    """The idempotency key of each effect: the same in every attempt and resume."""
    surprises: list[str] = field(default_factory=list)
    waited: Waited = field(init=False)
    grown: Grown = field(init=False)
    arrived: Arrived = field(init=False)

    def __post_init__(self) -> None:
        self.arrived = Arrived(self.surprises)
        self.grown = Grown(self.surprises)
        self.waited = Waited(lambda: self.world.clock.now, self.surprises)

    @contextmanager
    def body(
        self, ctx: Context | SyncContext, step: str | None = None, key: str = ""
    ) -> Iterator[None]:
        """Tell of a body's start and end."""
        process = self.world.current
        assert process is not None
        name = f"{process.name}#{process.incarnation}"
        told = (ctx.run_id, ctx.task_id, ctx.attempt, step, key, process.name, name)
        now_ms = self.world.now_ms()
        self.evidence.add(BodyStart(*told, now_ms, len(self.world.broker.commits)))
        outcome = "raised"
        try:
            yield
            outcome = "returned"
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        finally:
            if process.alive:
                self.evidence.add(BodyEnd(*told, self.world.now_ms(), outcome))  # type: ignore[arg-type]

    def post(self, ctx: Context, name: str, amount: int, idempotency_key: str) -> int:
        """Apply an effect, or answer as before."""
        effect = (ctx.run_id, ctx.task_id, f"{name}/{amount}")
        if self.keys.setdefault(effect, idempotency_key) != idempotency_key:
            self.surprises.append(f"I2 at {effect}: its idempotency key has changed")
        known = idempotency_key in self.ledger
        self.evidence.add(EffectSeen(idempotency_key, "repeated" if known else "applied"))
        return self.ledger.setdefault(idempotency_key, amount)

    def execution(self, ctx: Context, kills: int) -> None:
        """Count an execution; end the process if it was told to."""
        process = self.world.current
        assert process is not None
        task = (ctx.run_id, ctx.task_id)
        self.executions[task] += 1
        if self.executions[task] <= kills:
            self.world.crash(process, "a handler killed it")
            raise SystemExit(9)

    @contextmanager
    def handing_out(self, ctx: Context | SyncContext, doing: Doing) -> Iterator[None]:
        """Tell of items before they are handed out, and once they are taken."""
        self.arrived.hands_out(ctx, doing.numbers)
        try:
            yield
        except CallFailed as error:
            self.surprises.append(f"I7 at {ctx.run_id}/{ctx.task_id}: {doing}: {error}")
            raise
        self.arrived.took(ctx, doing.numbers)


def _cut(ctx: Context | SyncContext, seek: Seek) -> None:
    if ctx.attempt <= seek.cuts:
        raise Broken(f"attempt {ctx.attempt} was cut")


def make_agents(outside: Outside, concurrency: int, *, arriving: bool) -> dict[str, Agent]:
    """Return the agents of one world; `arriving`: some of its lists arrive."""
    agents = {name: _make_agent(name, outside, concurrency) for name in AGENTS}
    for agent in agents.values() if arriving else ():
        _add_seekers(agent, outside)
        _add_readers(agent, outside)
    return agents


def _make_agent(name: str, outside: Outside, concurrency: int) -> Agent:
    # A version: else each start of a process reads the source of this module for its build id.
    agent = Agent(name, concurrency=concurrency, version="1")
    other = AGENTS[(AGENTS.index(name) + 1) % len(AGENTS)]

    @agent.task(name="work", retry=RETRY)
    async def work(ctx: Context, word: Word) -> Said:
        async def read(number: int) -> int:
            with outside.body(ctx, "read", str(number)):
                # Who begins last ends first: steps at once are journaled out of their order.
                await asyncio.sleep(word.sleep_ms / 5_000 / (1 + number))
                return number + 1

        async def pay(amount: int, *, idempotency_key: str) -> int:
            with outside.body(ctx, "pay", str(amount)):
                await asyncio.sleep(word.sleep_ms / 10_000)
                return outside.post(ctx, "pay", amount, idempotency_key)

        async def wire(amount: int, *, idempotency_key: str) -> int:
            with outside.body(ctx, "wire", str(amount)):
                if idempotency_key in outside.ledger:
                    outside.surprises.append(f"I2 at {idempotency_key}: called again blindly")
                return outside.post(ctx, "wire", amount, idempotency_key)

        async def settle(amount: int, *, idempotency_key: str) -> int:
            if idempotency_key not in outside.ledger:
                raise EffectNotApplied(idempotency_key)
            return outside.ledger[idempotency_key]

        with outside.body(ctx):
            total = 0
            if word.gather:
                reads = (ctx.step("read", read, n, key=str(n)) for n in range(word.steps))
                total = sum(await asyncio.gather(*reads))
            else:
                for number in range(word.steps):
                    total += await ctx.step("read", read, number, key=str(number))
            if word.waits is not None:
                total += await do_waits(ctx, word.waits, other, outside.waited)
            if word.grows is not None:
                total += await do_growth(ctx, word.grows, other, outside.grown)
            outside.execution(ctx, word.kills)
            await asyncio.sleep(word.sleep_ms / 1_000)
            for number in range(word.effects):
                await ctx.effect("pay", pay, number, idempotent=True, key=str(number))
            if word.wires:
                await ctx.effect("wire", wire, 1, reconcile=settle, key="1")
            if word.publish:
                ctx.publish(PUBLISHED, key=f"{ctx.run_id}/{ctx.task_id}", value=str(ctx.attempt))
            if ctx.attempt <= word.fails and (ctx.run_id, ctx.task_id) not in outside.healed:
                raise Broken(f"attempt {ctx.attempt} was told to fail")
            return Said(text=f"{word.text[:20]}{name[0]}" + "x" * word.pad, n=word.n + total)

    if agent.name == PLANNER.partition(".")[0]:

        @agent.task(name="plan", retry=RETRY)
        async def plan(ctx: Context, word: Word) -> PlanChange:
            with outside.body(ctx):
                outside.execution(ctx, word.kills)
                await asyncio.sleep(word.sleep_ms / 1_000)
                return next_change(ctx.task_id, word.grows or Grows(), other)

    return agent


def _add_seekers(agent: Agent, outside: Outside) -> None:
    """Add what hands out items, as a coroutine and in a thread."""

    @agent.task(name="seek", retry=RETRY)
    async def seek(ctx: Context, what: Seek) -> Said:
        async def listed(burst: int, numbers: list[int]) -> list[int]:
            with outside.body(ctx, "list", str(burst)):
                await asyncio.sleep(what.item_ms / 1_000)
                return numbers

        items: list[Item] = []
        with outside.body(ctx):
            for doing in doings(what):
                key = str(doing.burst)
                if doing.kind == "list":
                    found = await ctx.step("list", listed, doing.burst, doing.numbers, key=key)
                    items += what.items(ctx.task_id, found)
                elif doing.kind == "cut":
                    outside.execution(ctx, what.kills)
                    _cut(ctx, what)
                elif doing.kind == "rest":
                    if what.naps:
                        await ctx.sleep("rest", what.pause_ms / 1_000, key=key)
                    else:
                        await asyncio.sleep(what.pause_ms / 1_000)
                else:
                    with outside.handing_out(ctx, doing):
                        if what.singly:
                            await ctx.emit(items[doing.numbers[0]])
                        else:
                            await ctx.emit_many(items[number] for number in doing.numbers)
            return Said(text=ctx.task_id, n=len(items))

    @agent.task(name="seek-sync", retry=RETRY)
    def seek_sync(ctx: SyncContext, what: Seek) -> Said:
        def listed(burst: int, numbers: list[int]) -> list[int]:
            with outside.body(ctx, "list", str(burst)):
                return numbers

        items: list[Item] = []
        with outside.body(ctx):
            for doing in doings(what):
                key = str(doing.burst)
                if doing.kind == "list":
                    found = ctx.step("list", listed, doing.burst, doing.numbers, key=key)
                    items += what.items(ctx.task_id, found)
                elif doing.kind == "cut":
                    _cut(ctx, what)
                elif doing.kind == "rest":
                    ctx.sleep("rest", what.pause_ms / 1_000, key=key)
                else:
                    with outside.handing_out(ctx, doing):
                        if what.singly:
                            ctx.emit(items[doing.numbers[0]])
                        else:
                            ctx.emit_many(items[number] for number in doing.numbers)
            return Said(text=ctx.task_id, n=len(items))


def _add_readers(agent: Agent, outside: Outside) -> None:
    """Add what works one item, and what folds what came of them."""

    @agent.task(name="look", retry=RETRY)
    async def look(ctx: Context, item: Item) -> Said:
        async def read(number: int) -> int:
            with outside.body(ctx, "read", str(number)):
                await asyncio.sleep(item.sleep_ms / 1_000)
                return number

        async def pay(amount: int, *, idempotency_key: str) -> int:
            with outside.body(ctx, "pay", str(amount)):
                return outside.post(ctx, "pay", amount, idempotency_key)

        with outside.body(ctx):
            outside.arrived.works(ctx, item)
            number = await ctx.step("read", read, item.number, key=str(item.number))
            await ctx.effect("pay", pay, number, idempotent=True, key=str(number))
            if ctx.attempt <= item.fails:
                raise Broken(f"attempt {ctx.attempt} was told to fail")
            return Said(text=item.text, n=number)

    @agent.task(name="fold", retry=RETRY)
    async def fold(ctx: Context, part: Part) -> Said:
        with outside.body(ctx):
            await asyncio.sleep(0.01)
            before = part.previous or Said()
            text = before.text + "".join(f"{said.text}|" for said in part.items)
            return Said(text=text, n=before.n + len(part.items))
