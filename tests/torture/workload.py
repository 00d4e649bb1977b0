"""Submits runs without end, so many open at a time, and notes each in the evidence."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
from collections.abc import Callable

from holdfast.bus.errors import BusUnavailable
from holdfast.client import Client
from holdfast.testing import EvidenceFile, Submission
from tests.torture.plans import Work
from tests.torture.watch import Watch

__all__ = ["Workload"]

REPEATED_SHARE = 0.05
"""Of the runs that are submitted a second time under the same id."""
PAUSE_S = 0.5
"""Between two tries while the bus is away."""
LOOK_S = 0.25

Draw = Callable[[random.Random, int], Work]


class Workload:
    """Keeps `width` runs open until stopped. One task."""

    def __init__(
        self, client: Client, watch: Watch, evidence: EvidenceFile, draw: Draw, seed: int
    ) -> None:
        self._client = client
        self._watch = watch
        self._evidence = evidence
        self._draw = draw
        self._chance = random.Random(seed)
        self._stopped = False
        self.submitted: set[str] = set()

    @property
    def open_runs(self) -> set[str]:
        """Submitted, and not ended so far."""
        return self.submitted - self._watch.ended.keys()

    def stop(self) -> None:
        """Submit nothing more."""
        self._stopped = True

    async def run(self, width: int) -> None:
        """Submit until stopped. Raises what a client of users would have to deal with, except for
        a bus that is away: that submission is repeated, under its id."""
        number = 0
        while not self._stopped:
            if len(self.submitted) - len(self._watch.ended) >= width:
                await self._one_has_ended()
                continue
            work = self._draw(self._chance, number)
            run_id = f"run-{number}"
            number += 1
            await self._submit(work, run_id)
            if self._chance.random() < REPEATED_SHARE:
                await self._submit(work, run_id)

    async def _submit(self, work: Work, run_id: str) -> None:
        name = work.plan.document().name
        digest = hashlib.sha256(json.dumps(work.input, sort_keys=True).encode()).hexdigest()
        self.submitted.add(run_id)
        self._evidence.add(Submission(run_id, False, name, digest, work.order_key))
        while True:
            try:
                await self._client.submit(work.plan, work.input, run_id=run_id)
                break
            except BusUnavailable:
                await asyncio.sleep(PAUSE_S)
        self._evidence.add(Submission(run_id, True, name, digest, work.order_key))

    async def _one_has_ended(self) -> None:
        self._watch.news.clear()
        try:
            async with asyncio.timeout(LOOK_S):
                await self._watch.news.wait()
        except TimeoutError:
            return
