"""The load keeps its pace, and holds back when nothing ends; a planted leak leaks."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from holdfast.agents import Agent, Context
from holdfast.bus.topics import Topics
from holdfast.schemas.records import EventType
from holdfast.testing import EvidenceFile
from tests.soak import load
from tests.soak.leak import leaking
from tests.soak.load import PacedLoad, draw_mixed
from tests.torture.watch import Watch
from tests.waiting import until


class Word(BaseModel):
    text: str


class Clientlike:
    """Takes submissions; ends them at once if told so."""

    def __init__(self, watch: Watch, *, ends: bool) -> None:
        self.taken: list[str] = []
        self._watch = watch
        self._ends = ends

    async def submit(self, plan: Any, given: Any, *, run_id: str) -> None:
        self.taken.append(run_id)
        if self._ends:
            self._watch.ended[run_id] = EventType.RUN_SUCCEEDED


def made(tmp_path: Path, *, ends: bool) -> tuple[PacedLoad, Clientlike]:
    watch = Watch(Topics("ns"))
    client = Clientlike(watch, ends=ends)
    evidence = EvidenceFile(tmp_path / "evidence.jsonl")
    made = PacedLoad(client, watch, evidence, draw_mixed, 1)  # type: ignore[arg-type]
    made.prefix = "w3"
    return made, client


async def test_so_many_runs_a_second_under_ids_of_the_window(tmp_path: Path) -> None:
    paced, client = made(tmp_path, ends=True)
    began = asyncio.get_running_loop().time()
    working = asyncio.create_task(paced.pace(200.0))
    await until(lambda: len(set(client.taken)) >= 100, "a hundred runs", 10)
    took_s = asyncio.get_running_loop().time() - began
    paced.stop()
    await working
    assert took_s > 0.4, "not faster than asked for"
    assert client.taken[0] == "w3-0"
    assert len(client.taken) > len(set(client.taken)), "some are submitted twice"


async def test_it_holds_back_when_nothing_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "OPEN_MAX", 20)
    paced, client = made(tmp_path, ends=False)
    working = asyncio.create_task(paced.pace(5_000.0))
    await until(lambda: paced.held_s > 0.2, "it holds back", 10)
    paced.stop()
    await working
    assert len(set(client.taken)) == 20


def test_dead_letters_come_now_and_then() -> None:
    chance = random.Random(1)
    names = [draw_mixed(chance, number).plan.document().name for number in range(1_000)]
    assert names.count("refused") == 10
    assert {"chain", "spread", "retry", "diamond", "ordered"} <= set(names)


async def test_a_planted_leak_keeps_what_it_was_given() -> None:
    agent = Agent("greedy")

    @agent.task
    async def eat(ctx: Context, word: Word) -> Word:
        return word

    handler = leaking(agent, 8_192).tasks["eat"].handler
    kept = next(
        cell.cell_contents
        for cell in handler.__closure__ or ()
        if isinstance(cell.cell_contents, list)
    )
    words = [Word(text="a"), Word(text="b")]
    assert [await handler(None, word) for word in words] == words
    assert [(value, len(room)) for value, room in kept] == [(word, 8_192) for word in words]
