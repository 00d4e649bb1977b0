"""A whole small system in one world: coordinator, agents, client; crashes and lost answers.

python -m tests.unit.testing.small_system SEED [FILE]: prints the digest of everything that happened
in it, in order; with FILE also writes it there, a line for each callback, to be compared.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel

from holdfast.agents import Agent, AgentRuntime, AgentSettings, Context, Retry
from holdfast.bus.port import Environment
from holdfast.client import Client, ClientSettings
from holdfast.coordinator import CoordinatorRuntime, ProcessSettings
from holdfast.schemas import Plan
from holdfast.testing.sim import Fate, Process, Request, RequestKind, World
from holdfast.testing.sim.world import Main

NAMES = ("a", "b", "c")
RUNS = 12
PARTITIONS = 2
BOUND_S = 300.0


class Word(BaseModel):
    text: str


@dataclass
class Trace:
    """What happened: (virtual time, process, its step), one after the other; and every record."""

    lines: list[str] = field(default_factory=list)

    def digest(self) -> str:
        return hashlib.sha256("\n".join(self.lines).encode()).hexdigest()


def make_agent(name: str) -> Agent:
    agent = Agent(name, concurrency=4)

    async def say(text: str) -> str:
        return text + name

    @agent.task(retry=Retry(attempts=5, initial_s=0.05, max_s=0.2))
    async def work(ctx: Context, word: Word) -> Word:
        text = await ctx.step("say", say, word.text)
        await asyncio.sleep(0.2)  # so that a crash finds several at once
        return Word(text=text)

    return agent


def agent_main(agent: Agent, instance: str) -> Main:
    async def main(environment: Environment) -> None:
        runtime = AgentRuntime(environment, agent, AgentSettings(instance, PARTITIONS, "ns"))
        await runtime.start()
        await runtime.run()

    return main


async def coordinator_main(environment: Environment) -> None:
    runtime = CoordinatorRuntime(environment, ProcessSettings("c1", PARTITIONS, "ns"))
    await runtime.start()
    await runtime.run()


def client_main(results: dict[str, object]) -> Main:
    async def main(environment: Environment) -> None:
        settings = ClientSettings(bus="sqlite:///unused.db", namespace="ns")
        async with Client(environment=environment, settings=settings) as client:
            plan = Plan("chain")
            one = plan.task("one", "a.work", text=plan.input("text"))
            two = plan.task("two", "b.work", text=one["text"])
            plan.task("three", "c.work", text=two["text"])
            runs = [
                await client.submit(plan, {"text": f"x{n}"}, run_id=f"r{n}") for n in range(RUNS)
            ]
            for run in runs:
                results[run.id] = await run.result(timeout_s=BOUND_S)

    return main


def hurt(world: World, chance: random.Random) -> Callable[[Process], None]:
    """Lose every 40th request or answer; kill each service once, in its work. It comes back."""
    kills = {name: chance.randint(400, 1_000) for name in (*NAMES, "coordinator")}
    lossy = (RequestKind.END, RequestKind.PRODUCE, RequestKind.OPEN_WRITER, RequestKind.READ)

    def lose(request: Request) -> Fate | None:
        if request.kind not in lossy or chance.random() > 1 / 40:
            return None
        return chance.choice((Fate.LOSE_REQUEST, Fate.LOSE_REPLY))

    def kill(process: Process) -> None:
        if process.steps >= kills.get(process.name, sys.maxsize):
            del kills[process.name]
            world.crash(process)

    def again(name: str) -> None:
        world.restart(name)

    def start_again(process: Process) -> None:
        if process.name != "client":
            world.at(world.clock.now + 1.0, lambda: again(process.name))

    world.on_death.append(start_again)
    world.broker.network.fates.append(lose)
    return kill


def run(seed: int) -> tuple[Trace, dict[str, object]]:
    """Run the system of this seed to its end."""
    world, trace = World(seed), Trace()
    results: dict[str, object] = {}
    kill = hurt(world, random.Random(seed + 1))

    def record(process: Process) -> None:
        trace.lines.append(
            f"{world.clock.now!r} {process.name}-{process.incarnation} {process.steps}"
        )

    world.watchers += [record, kill]
    world.start("coordinator", coordinator_main)
    for name in NAMES:
        world.start(name, agent_main(make_agent(name), f"{name}-1"))
    world.run_for(3.0)
    client = world.start("client", client_main(results))
    world.run(lambda: not client.alive, BOUND_S, "the client ends")
    assert client.reason == "ended", client.reason
    trace.lines += [repr(record) for log in world.broker.history().values() for record in log]
    world.close()
    return trace, results


def main(seed: int, path: str | None = None) -> None:
    trace, results = run(seed)
    if path is not None:
        Path(path).write_text("\n".join(trace.lines))
    assert len(results) == RUNS
    print(len(trace.lines), trace.digest())


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
