"""Steps of handlers on their way into the journal, and who waits for them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from holdfast.agents.ledger import Ledger, Phase, StepWrite
from holdfast.agents.runs import Run
from holdfast.bus.port import Record
from holdfast.schemas.records import StepEntry

__all__ = ["StepCommits"]


class StepCommits:
    """The step writes of one slot; `wake` has what waits collected."""

    def __init__(self, ledger: Ledger, wake: Callable[[], None]) -> None:
        self._ledger = ledger
        self._wake = wake
        self._waiting: dict[StepWrite, asyncio.Future[None]] = {}
        self._closed = False

    def __len__(self) -> int:
        return len(self._waiting)

    async def write(
        self, run: Run, name: str, key: str, entry: StepEntry | None, record: Record | None = None
    ) -> None:
        """Return once a step is committed, and `record` with it."""
        if not run.live or self._closed or run.entry.phase is not Phase.RUNNING:
            raise asyncio.CancelledError
        write = self._ledger.write_step(run.entry, name, key, entry, record)
        waiting = self._waiting[write] = asyncio.get_running_loop().create_future()
        run.writes.add(waiting)
        self._wake()
        try:
            await waiting
        finally:
            run.writes.discard(waiting)
            self._waiting.pop(write, None)

    def settled(self, write: StepWrite) -> None:
        """Its commit is acknowledged."""
        waiting = self._waiting.pop(write, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    def close(self) -> None:
        """The slot is lost: nobody hears of anything any more."""
        self._closed = True
        for waiting in self._waiting.values():
            waiting.cancel()
        self._waiting.clear()
