"""The threads of synchronous handlers."""

from __future__ import annotations

import asyncio
import contextvars
import subprocess
import sys
import threading

import pytest

from holdfast.agents.threads import EXTRA_THREADS, HandlerThreads

HANGS = """
import asyncio, threading
from holdfast.agents.threads import HandlerThreads

async def main():
    threads, began = HandlerThreads("a", 1), threading.Event()
    threads(lambda: (began.set(), threading.Event().wait(60)))
    while not began.is_set():
        await asyncio.sleep(0.01)

asyncio.run(main())
"""


def test_a_handler_that_hangs_does_not_keep_its_process_alive() -> None:
    subprocess.run([sys.executable, "-c", HANGS], check=True, timeout=20)


async def test_calls_run_beside_each_other_up_to_the_limit_and_wait_beyond() -> None:
    threads = HandlerThreads("a", 2)
    gate, began = threading.Event(), threading.Semaphore(0)

    def call() -> str:
        began.release()
        gate.wait(10)
        return threading.current_thread().name

    most = 2 + EXTRA_THREADS
    waiting = [asyncio.ensure_future(threads(call)) for _ in range(most + 5)]
    for _ in range(most):
        assert await asyncio.to_thread(began.acquire, timeout=5)
    assert not began.acquire(timeout=0.05)
    gate.set()
    names = await asyncio.gather(*waiting)
    assert len(set(names)) <= most
    assert await threads(lambda: threading.current_thread().name) in names, "none was used again"
    threads.close()


async def test_errors_and_context_come_through_and_a_close_drops_what_waits() -> None:
    threads = HandlerThreads("a", 0)
    variable = contextvars.ContextVar("variable", default="none")
    variable.set("seen")
    assert await threads(variable.get) == "seen"

    def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await threads(fail)
    gate = threading.Event()
    held = [asyncio.ensure_future(threads(lambda: gate.wait(10))) for _ in range(EXTRA_THREADS)]
    late = asyncio.ensure_future(threads(fail))
    await asyncio.sleep(0.05)
    threads.close()
    gate.set()
    assert all(await asyncio.gather(*held))
    with pytest.raises(asyncio.CancelledError):
        await late
    with pytest.raises(RuntimeError, match="closed"):
        threads(fail)
