"""All invariants over the history of a real deployment: none is violated, each saw something."""

from __future__ import annotations

import asyncio
from pathlib import Path

from holdfast.testing import Verdict, check
from tests.unit.testing.stage import Stage, chain, deployment, mapped, slow
from tests.waiting import until

BOUND_S = 30.0


async def ended(
    stage: Stage, *run_ids: str, key: str | None = None, how: str = "run.succeeded"
) -> None:
    for run_id in run_ids:
        run = await stage.client.run(run_id, key)
        event = await run.ended(timeout_s=BOUND_S)
        assert event.type == how, f"{run_id}: {event.type} {event.message}"


async def mixed_load(stage: Stage) -> None:
    """Chains, retries, maps, repeats, order keys, a cancel, poison, dead letters, a restart."""
    await stage.submit("plain-1", chain(), times=3)
    await stage.submit("plain-2", chain())
    await stage.submit("retried", chain(fails=2))
    await stage.submit("failed", chain(fails=9))
    await stage.submit("waiting", chain(fails=9, on_dead_letter="wait"))
    await stage.submit("mapped", mapped())
    for number in range(4):
        await stage.submit(f"ordered-{number}", chain(fails=number % 2, order_key="k"))
    await stage.poison("first", b"\0\0\0\0\3nothing that anybody can read")
    await stage.poison("second", b"")
    await stage.submit("cancelled", slow())
    await until(lambda: any(e.run_id == "cancelled" for e in _starts(stage)), "it runs", BOUND_S)
    await (await stage.client.run("cancelled")).cancel()
    await ended(stage, "plain-1", "retried")
    await ended(stage, "cancelled", how="run.cancelled")
    await stage.submit("late", mapped())
    await stage.restart_agents()
    waiting = await stage.client.run("waiting")
    async with asyncio.timeout(BOUND_S):
        async for event in waiting.events():
            if event.type == "task.dead":
                break
    await waiting.discard("one")
    await ended(stage, "plain-2", "mapped", "late")
    await ended(stage, "failed", "waiting", how="run.failed")
    for number in range(4):
        await ended(stage, f"ordered-{number}", key="k")


def _starts(stage: Stage) -> list:  # type: ignore[type-arg]
    from holdfast.testing import BodyStart

    return stage.outside.evidence.of(BodyStart)


async def settled(stage: Stage) -> Verdict:
    """Check once all has come to rest; what is still on its way is asked for again."""
    stage.quiet()
    async with asyncio.timeout(BOUND_S):
        while True:
            history = await stage.recorder.history()
            verdict = check(history, stage.outside.evidence)
            if not verdict.of("I9"):
                return verdict
            await asyncio.sleep(0.05)


async def test_nothing_is_violated_and_everything_was_looked_at(tmp_path: Path) -> None:
    async with deployment(tmp_path) as stage:
        await mixed_load(stage)
        verdict = await settled(stage)
    print(verdict.report())
    assert verdict.ok, verdict.report()
    for name in ("I1", "I2", "I3", "I4", "I5", "I6", "I7", "I8", "I9", "I10", "I11", "I13"):
        assert verdict.seen(name), f"{name} has seen nothing"
