"""The public kit: a crash at every step, and the users' mistakes that it finds."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel

from holdfast.agents import Agent, Context, Retry, SyncContext
from holdfast.client import RunFailed
from holdfast.schemas import Plan
from holdfast.testing import Crash, Moment, Simulation, SimulationError


class Order(BaseModel):
    item: str


class Receipt(BaseModel):
    text: str


class Outside:
    """A receiver of letters: it drops those whose key it knows."""

    def __init__(self) -> None:
        self.letters: list[str] = []
        self.keys: set[str] = set()

    def send(self, text: str, *, idempotency_key: str) -> str:
        if idempotency_key not in self.keys:
            self.keys.add(idempotency_key)
            self.letters.append(text)
        return text

    def send_regardless(self, text: str, *, idempotency_key: str) -> str:
        self.letters.append(text)
        return text

    def clear(self) -> None:
        self.letters.clear()
        self.keys.clear()


outside = Outside()


async def price(item: str) -> int:
    return len(item)


def one_task(name: str, handler: Callable[..., Any]) -> Agent:
    agent = Agent("shop")
    agent.task(name=name)(handler)
    return agent


async def careful(ctx: Context, order: Order) -> Receipt:
    cost = await ctx.step("price", price, order.item)
    return Receipt(text=await ctx.effect("send", outside.send, f"{cost}", idempotent=True))


def careful_in_a_thread(ctx: SyncContext, order: Order) -> Receipt:
    cost = ctx.step("price", len, order.item)
    return Receipt(text=ctx.effect("send", outside.send, f"{cost}", idempotent=True))


async def deaf_to_keys(ctx: Context, order: Order) -> Receipt:
    text = await ctx.effect("send", outside.send_regardless, order.item, idempotent=True)
    return Receipt(text=text)


async def changing_arguments(ctx: Context, order: Order) -> Receipt:
    ticket = f"{order.item}-{random.random()}"
    return Receipt(text=str(await ctx.step("price", price, ticket)))


async def clock_between_steps(ctx: Context, order: Order) -> Receipt:
    began = await ctx.step("began", time.time)
    if time.time() - began < 0.5:
        await ctx.step("early", price, order.item)
    await ctx.step("price", price, order.item)
    return Receipt(text="sold")


def crashes_of(handler: Callable[..., Any], **choices: Any) -> list[Crash]:
    agent = one_task("sell", handler)
    return list(Simulation.crashes("shop.sell", {"item": "hat"}, agents=[agent], **choices))


def wrong(crashes: list[Crash], letters: int | None = None) -> dict[str, str]:
    """What goes wrong in which crash."""
    found = {}
    for crash in crashes:
        outside.clear()
        run = crash.run()
        try:
            run.result()
        except RunFailed as error:
            found[str(crash)] = str(error)
        if letters is not None and len(outside.letters) != letters:
            found[str(crash)] = f"{len(outside.letters)} letters"
    return found


@pytest.mark.parametrize("handler", [careful, careful_in_a_thread])
def test_a_careful_handler_survives_a_crash_at_every_step(handler: Callable[..., Any]) -> None:
    crashes = crashes_of(handler)
    assert {crash.point.moment for crash in crashes} == set(Moment)
    assert {crash.process for crash in crashes} == {"shop", "coordinator"}
    for crash in crashes:
        outside.clear()
        run = crash.run(check_invariants=True)
        assert run.result() == {"text": "3"}, crash
        assert run.effects("send") == len(outside.letters) == 1, crash


def test_a_crash_really_happens_where_it_says() -> None:
    [crash] = [c for c in crashes_of(careful) if "effect 'send'" in str(c) and "returned" in str(c)]
    assert str(crash) == "shop dies when effect 'send' of run-1/task attempt 1 has returned"
    outside.clear()
    run = crash.run()
    assert [call.process for call in run.calls("send")] == ["shop#1", "shop#2"]
    assert [call.outcome for call in run.calls("send")] == ["returned", "returned"]
    assert len({call.idempotency_key for call in run.calls("send")}) == 1
    assert [call.process for call in run.calls("price")] == ["shop#1"]
    assert run.tasks["task"].resumes >= 1


def test_only_the_processes_asked_for_die() -> None:
    crashes = crashes_of(careful, of=["shop"])
    assert {crash.process for crash in crashes} == {"shop"}
    with pytest.raises(SimulationError, match="did you mean"):
        crashes_of(careful, of=["shops"])


def test_an_effect_that_ignores_its_key_is_found() -> None:
    found = wrong(crashes_of(deaf_to_keys), letters=1)
    assert "shop dies when effect 'send' of run-1/task attempt 1 has returned" in found
    assert set(found.values()) == {"2 letters"}
    assert wrong(crashes_of(careful), letters=1) == {}


def test_arguments_that_change_are_found() -> None:
    found = wrong(crashes_of(changing_arguments))
    assert found
    assert all("was journaled with other arguments" in told for told in found.values())
    assert all(told.startswith("shop dies") for told in found)


def test_a_clock_that_is_read_between_steps_is_found() -> None:
    found = wrong(crashes_of(clock_between_steps))
    assert found
    assert all("without asking for" in told for told in found.values())


def test_code_that_does_something_else_each_time_is_told_so() -> None:
    next_draws = iter([0, 1, 1, 1, 1])

    async def handler(ctx: Context, order: Order) -> Receipt:
        if next(next_draws) == 0:
            await ctx.step("first", price, order.item)
        return Receipt(text="sold")

    [crash] = [
        c
        for c in crashes_of(handler, of=["shop"])
        if "step 'first'" in str(c) and "begins" in str(c)
    ]
    with pytest.raises(SimulationError, match="never came to this in the second run"):
        crash.run()


def test_the_failure_names_the_crash() -> None:
    [crash] = [
        c
        for c in crashes_of(changing_arguments, of=["shop"])
        if "behind the commit of run-1/task, accepted, step 'price'" in str(c)
    ]
    with pytest.raises(RunFailed, match="other arguments") as caught:
        crash.run().result()
    assert caught.value.__notes__[-1] == f"In the simulation in which {crash}"


def test_what_fails_without_any_crash_is_raised_at_once() -> None:
    async def broken(ctx: Context, order: Order) -> Receipt:
        raise ValueError(order.item)

    agent = Agent("shop")
    agent.task(name="sell", retry=Retry(attempts=1))(broken)
    with pytest.raises(RunFailed, match="ValueError: hat"):
        next(iter(Simulation.crashes("shop.sell", {"item": "hat"}, agents=[agent])))


def test_plans_of_several_agents_too() -> None:
    first, second = Agent("first"), Agent("second")

    @first.task
    async def ask(ctx: Context, order: Order) -> Receipt:
        return Receipt(text=await ctx.step("ask", str.upper, order.item))

    @second.task
    async def answer(ctx: Context, receipt: Receipt) -> Receipt:
        return receipt

    plan = Plan("talk")
    plan.task("answer", answer, text=plan.task("ask", ask, item=plan.input("item"))["text"])
    crashes = list(Simulation.crashes(plan, {"item": "a"}, agents=[first, second]))
    assert {crash.process for crash in crashes} == {"first", "second", "coordinator"}
    for crash in crashes[::3]:
        assert crash.run().result() == {"text": "A"}, crash
