"""Tasks that fail for good, and handlers that kill their process."""

from __future__ import annotations

import asyncio
import json

import pytest

from holdfast.client import Client, RunFailed
from holdfast.schemas.records import DeadLetterReason, EventType
from tests.acceptance.deployment import Deployment, witnessed
from tests.acceptance.observer import observing
from tests.waiting import until

RUNS = 1_000


async def test_exactly_the_poisonous_tasks_are_in_the_dead_letters(place: Deployment) -> None:
    place.coordinator("c1")
    place.agent("fragile")
    await asyncio.to_thread(place.wait_ready)
    poisonous = {f"run-{n}" for n in range(RUNS) if n % 20 == 7}
    async with (
        observing(place, dead_letters=True) as seen,
        Client(url=place.bus, namespace=place.namespace) as client,
    ):
        runs = [
            await client.submit(
                "fragile.maybe",
                {"text": "poison" if f"run-{n}" in poisonous else "good", "n": n},
                run_id=f"run-{n}",
            )
            for n in range(RUNS)
        ]
        answers = await asyncio.wait_for(
            asyncio.gather(*(run.result() for run in runs), return_exceptions=True), 120
        )
        await until(lambda: len(seen.ends()) == RUNS and len(seen.dead_letters) >= len(poisonous))
    failed = {f"run-{n}" for n, a in enumerate(answers) if isinstance(a, RunFailed)}
    assert failed == poisonous
    assert all(
        a == {"text": "good", "n": n} for n, a in enumerate(answers) if f"run-{n}" not in failed
    )
    assert sorted(letter.run_id or "" for letter in seen.dead_letters) == sorted(poisonous)
    for letter in seen.dead_letters:
        assert letter.reason is DeadLetterReason.EXHAUSTED
        assert letter.attempt == 2
        assert letter.failure is not None
        assert "cannot digest" in letter.failure.message
        assert isinstance(letter.input, bytes)
        assert b"poison" in letter.input, "the input is not whole"
    assert all(len(ends) == 1 for ends in seen.ends().values())


async def keep_running(place: Deployment, name: str, stopping: asyncio.Event) -> int:
    """Start a service again whenever it has died; return how often."""
    restarts = 0
    while not stopping.is_set():
        if not place.alive(name):
            place.again(name)
            restarts += 1
        await asyncio.sleep(0.05)
    return restarts


async def test_the_first_task_of_all_kills_its_process_and_is_poison_too(
    place: Deployment,
) -> None:
    """Nothing was committed when it died: only the slot's own mark can tell."""
    place.coordinator("c1")
    place.agent("fragile")
    await asyncio.to_thread(place.wait_ready)
    stopping = asyncio.Event()
    supervisor = asyncio.create_task(keep_running(place, "fragile-1", stopping))
    async with Client(url=place.bus, namespace=place.namespace) as client:
        run = await client.submit("fragile.maybe_kill", {"text": "kill"}, run_id="first")
        with pytest.raises(RunFailed, match="poison"):
            await run.result(timeout_s=60)
    stopping.set()
    await supervisor
    kills = witnessed(place.folder / "fragile.witness")
    assert 5 <= len(kills) <= 7, f"{len(kills)} starts"


async def test_a_handler_that_kills_its_process_ends_as_poison_and_takes_nobody_along(
    place: Deployment,
) -> None:
    place.coordinator("c1")
    place.agent("fragile")
    await asyncio.to_thread(place.wait_ready)
    stopping = asyncio.Event()
    supervisor = asyncio.create_task(keep_running(place, "fragile-1", stopping))
    async with (
        observing(place, dead_letters=True) as seen,
        Client(url=place.bus, namespace=place.namespace) as client,
    ):
        runs = [
            await client.submit(
                "fragile.maybe_kill",
                {"text": "kill" if n == 20 else "good", "n": n},
                run_id=f"run-{n}",
            )
            for n in range(60)
        ]
        answers = await asyncio.wait_for(
            asyncio.gather(*(run.result() for run in runs), return_exceptions=True), 150
        )
        await until(lambda: len(seen.ends()) == 60 and bool(seen.dead_letters))
    stopping.set()
    restarts = await supervisor
    bad = [n for n, a in enumerate(answers) if isinstance(a, BaseException)]
    assert bad == [20], f"struck: {[(n, answers[n]) for n in bad]}"
    (letter,) = seen.dead_letters
    assert letter.reason is DeadLetterReason.POISON
    assert letter.run_id == "run-20"
    kills = [line for line in witnessed(place.folder / "fragile.witness") if line[0] == "kill"]
    # Its first start, one resume in company, then alone: 3 strikes. A restart that finds it
    # amid others may cost one more in company.
    assert 5 <= len(kills) <= 7, f"{len(kills)} starts"
    assert restarts == len(kills)
    assert seen.ends()["run-20"] == [EventType.RUN_FAILED]
    listed = place.cli("dead-letters", "list", "--json")
    assert listed.returncode == 0, listed.stderr
    assert "run-20" in json.dumps(json.loads(listed.stdout))
