"""A world whose handlers may block: each in a thread that holds the baton while it runs."""

from __future__ import annotations

from dataclasses import replace

from holdfast.testing.sim import Process, SimLoop, SimTiming, World
from holdfast.testing.sim.threads import BatonThreads, ThreadedLoop
from holdfast.testing.sim.world import Main

__all__ = ["ThreadedWorld"]


class ThreadedWorld(World):
    """See `World`. The threads of a process that was killed stand still until the world ends."""

    def __init__(self, seed: int, timing: SimTiming | None = None) -> None:
        super().__init__(seed, timing)
        self._threads: list[BatonThreads] = []

    def start(self, name: str, main: Main) -> Process:
        """See `World.start`."""
        process = super().start(name, main)
        threads = BatonThreads()
        self._threads.append(threads)
        process.environment = replace(process.environment, run_blocking=threads)
        return process

    def close(self) -> None:
        """See `World.close`."""
        super().close()
        for threads in self._threads:
            threads.drop()

    def _new_loop(self) -> SimLoop:
        return ThreadedLoop(self.clock, self._announce, self._on_error)  # type: ignore[abstract]
