"""An agent's slot is restored without decoding its steps; what is damaged is found all the same."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from holdfast.agents import Agent, Context
from holdfast.agents.ledger import folded
from holdfast.agents.ledger.keys import fold_step, step_key
from holdfast.schemas import Undecodable, encode
from holdfast.schemas.records import AgentJournal, Cancelled, StepEntry, StepKind
from tests.unit.agents.fake_slot import FakeSlot
from tests.unit.agents.virtual import run_virtual
from tests.unit.agents.workers import Number

STEPS = 20


class Died(BaseException):
    """What `Environment.die` does in tests."""


class Counting:
    """An agent whose task takes many steps and waits; `bodies` counts those that ran."""

    def __init__(self) -> None:
        self.agent = Agent("worker")
        self.bodies = 0
        self.gate = asyncio.Event()
        agent = self.agent

        @agent.task
        async def count(ctx: Context) -> Number:
            total = 0
            for number in range(STEPS):
                total += await ctx.step("add", self.add, number, key=str(number))
            await self.gate.wait()
            return Number(n=total)

    async def add(self, number: int) -> int:
        self.bodies += 1
        return number

    async def crashed(self) -> FakeSlot:
        """Return a slot whose process died with all steps journaled, and nothing running."""
        slot = FakeSlot(self.agent)
        slot.boot(clean=True)
        slot.send("count")
        await slot.work(lambda: self.bodies == STEPS and not slot.machine.idle(), seconds=0.5)
        await slot.work(seconds=0.1)
        slot.crash()
        return slot


def test_steps_are_decoded_when_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    run_virtual(lambda: _decoded_when_asked_for(monkeypatch))


async def _decoded_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    counting, decoded = Counting(), 0
    slot = await counting.crashed()
    real = folded.FoldedStep.unfold

    def unfold(step: folded.FoldedStep) -> StepEntry:
        nonlocal decoded
        decoded += 1
        return real(step)

    monkeypatch.setattr(folded.FoldedStep, "unfold", unfold)
    counting.gate.set()
    slot.boot()
    assert decoded == 0, "a restore decodes no step"
    await slot.work(seconds=0.1)
    assert counting.bodies == STEPS, "none ran again"
    assert decoded == STEPS, "each was decoded once"
    assert slot.output() == {"n": sum(range(STEPS))}


def test_a_damaged_step_ends_the_process_and_no_body_runs_in_its_place() -> None:
    run_virtual(_damaged_step)


async def _damaged_step() -> None:
    counting, died = Counting(), []
    slot = await counting.crashed()
    key = step_key("r/t", "add", "7")
    at = max(n for n, (name, _) in enumerate(slot.log.journal) if name == key)
    value = slot.log.journal[at][1]
    assert value is not None
    slot.log.journal[at] = (key, value[:-3])
    slot.boot()

    def die(reason: str) -> None:
        died.append(reason)
        raise Died(reason)

    machine = slot.machine
    machine._environment = replace(machine._environment, die=die)  # type: ignore[arg-type]
    await slot.work(lambda: bool(died), seconds=0.2)
    assert "r/t" in died[0]
    assert "damaged" in died[0]
    assert counting.bodies == STEPS


def test_only_a_step_s_key_is_folded_and_only_a_step_comes_out() -> None:
    entry = StepEntry("s", "a/b", StepKind.STEP, 3, "d", b"x", 1, 2)
    found = fold_step(step_key("r/t", "s", "a/b"), encode(AgentJournal(entry, "build")))
    assert found is not None
    assert (found.task, found.name, found.key) == ("r/t", "s", "a/b")
    assert found.attempt == 3
    assert found.unfold() == replace(entry, build_id="build")
    for key in ("r/t", "r/t/cancelled", "r/t/other/s/k", "r"):
        assert fold_step(key, b"") is None
    wrong = fold_step(step_key("r/t", "s", ""), encode(AgentJournal(Cancelled(1, 1, False), "b")))
    assert wrong is not None
    with pytest.raises(Undecodable, match="Cancelled under the journal key of step 's'"):
        wrong.unfold()
