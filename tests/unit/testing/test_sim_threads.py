"""Threads under a virtual clock: one at a time, in an order that the seed decides."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from holdfast.bus.port import Environment
from holdfast.testing import BatonHeld
from holdfast.testing.sim import threads
from holdfast.testing.sim.skipping import USERS_CODE, SkippingWorld
from holdfast.testing.sim.threads import halt_thread, sleep_in_thread


def in_world(
    main: Callable[[Environment], Coroutine[Any, Any, object]], seed: int = 1
) -> SkippingWorld:
    """Run a process to its end; all that it does counts as a user's."""

    async def users(environment: Environment) -> None:
        USERS_CODE.set(True)
        await main(environment)

    world = SkippingWorld(seed)
    try:
        process = world.start("p", users)
        world.run(lambda: not process.alive, 100_000, "the process ends")
        assert process.reason == "ended", process.reason
    finally:
        world.close()
    return world


def test_a_blocking_call_answers_from_a_thread_of_its_own() -> None:
    seen: list[object] = []

    async def main(environment: Environment) -> None:
        seen.append(await environment.run_blocking(threading.current_thread))
        with pytest.raises(ZeroDivisionError):
            await environment.run_blocking(lambda: 1 / 0)

    in_world(main)
    assert seen != [threading.current_thread()]


def test_the_world_stands_still_while_a_thread_runs() -> None:
    log: list[str] = []

    async def ticking() -> None:
        while True:
            log.append("tick")
            await asyncio.sleep(0)

    def work() -> None:
        log.append("begin")
        time.sleep(0.05)
        log.append("end")

    async def main(environment: Environment) -> None:
        task = asyncio.create_task(ticking())
        await asyncio.sleep(0)
        await environment.run_blocking(work)
        task.cancel()

    in_world(main)
    assert log[log.index("begin") + 1] == "end"


def order_of_threads(seed: int) -> tuple[list[tuple[int, int]], float]:
    log: list[tuple[int, int]] = []

    async def answer() -> float:
        await asyncio.sleep(3_600)
        return asyncio.get_running_loop().time()

    async def main(environment: Environment) -> None:
        loop = asyncio.get_running_loop()

        def work(number: int) -> None:
            for turn in range(3):
                log.append((number, turn))
                asyncio.run_coroutine_threadsafe(answer(), loop).result()

        await asyncio.gather(
            *[environment.run_blocking(lambda n=n: work(n)) for n in range(4)]  # type: ignore[misc]
        )

    world = in_world(main, seed)
    return log, world.clock.now


def test_threads_that_ask_their_loop_take_turns_in_a_fixed_order() -> None:
    log, now_s = order_of_threads(1)
    assert (log, now_s) == order_of_threads(1)
    assert len(log) == 12
    assert 3 * 3_600 <= now_s < 3 * 3_600 + 5


def test_sleep_in_a_thread_is_virtual_and_ends_in_order() -> None:
    woken: list[float] = []

    async def main(environment: Environment) -> None:
        def nap(seconds: float) -> None:
            assert sleep_in_thread(seconds)
            woken.append(seconds)

        await asyncio.gather(
            *[environment.run_blocking(lambda s=s: nap(s)) for s in (300.0, 100.0, 200.0)]  # type: ignore[misc]
        )

    real = time.monotonic()
    in_world(main)
    assert woken == [100.0, 200.0, 300.0]
    assert time.monotonic() - real < 20
    assert not sleep_in_thread(0)


def test_a_wait_with_a_time_out_ends_in_virtual_time() -> None:
    outcome: list[str] = []

    async def main(environment: Environment) -> None:
        loop = asyncio.get_running_loop()

        def work() -> None:
            asking = asyncio.run_coroutine_threadsafe(asyncio.sleep(1_000), loop)
            try:
                asking.result(timeout=5)
            except TimeoutError:
                outcome.append(f"timed out at {loop.time():.0f}")

        await environment.run_blocking(work)

    in_world(main)
    assert outcome == ["timed out at 5"]


def test_a_thread_that_blocks_for_real_is_told_where(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "BATON_S", 0.2)
    release = threading.Event()

    def block_here() -> None:
        release.wait(30)

    async def main(environment: Environment) -> None:
        await environment.run_blocking(block_here)

    world = SkippingWorld(1)
    world.start("p", main)
    with pytest.raises(BatonHeld, match="block_here"):
        world.run_for(10)
    release.set()
    world.close()


def test_threads_of_a_dead_process_go_no_further_and_end_with_the_world() -> None:
    log: list[str] = []

    async def main(environment: Environment) -> None:
        loop = asyncio.get_running_loop()

        def asks() -> None:
            log.append("asked")
            try:
                asyncio.run_coroutine_threadsafe(asyncio.sleep(1_000), loop).result()
            finally:
                log.append("unwound")
            log.append("answered")

        await asyncio.gather(environment.run_blocking(asks), environment.run_blocking(halt_thread))

    before = threading.active_count()
    world = SkippingWorld(1)
    process = world.start("p", main)
    world.run_for(10)
    world.crash(process)
    world.run_for(5_000)
    assert log == ["asked"]
    assert threading.active_count() == before + 2
    world.close()
    assert log == ["asked", "unwound"]
    assert threading.active_count() == before


def test_a_call_that_is_cancelled_before_it_begins_never_does() -> None:
    log: list[str] = []

    async def main(environment: Environment) -> None:
        calling = asyncio.ensure_future(environment.run_blocking(lambda: log.append("ran")))
        calling.cancel()
        await asyncio.sleep(1)

    in_world(main)
    assert log == []


def test_the_standard_library_sleeps_for_real_to_look_at_a_child() -> None:
    from holdfast.testing.sim.time_module import virtual_time

    seen: list[float] = []

    async def main(environment: Environment) -> None:
        USERS_CODE.set(True)

        def work() -> None:
            subprocess.run([sys.executable, "-c", "pass"], check=True, timeout=60)
            seen.append(time.monotonic())
            time.sleep(500)
            seen.append(time.monotonic())

        await environment.run_blocking(work)

    world = SkippingWorld(1)
    process = world.start("p", main)
    with virtual_time(world.now_ms, lambda: world.clock.now):
        world.run(lambda: not process.alive, 100_000)
    world.close()
    assert seen[0] < 1
    assert seen[1] - seen[0] == pytest.approx(500)
