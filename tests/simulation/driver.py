"""The client of a simulated world: submits its jobs, again and again after it was killed, and does
for each run what its job says, until all have ended."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from contextlib import suppress

from holdfast.bus.errors import BusUnavailable
from holdfast.bus.port import Environment
from holdfast.client import (
    Client,
    CommandRefused,
    Run,
    RunCancelled,
    RunConflict,
    RunFailed,
    WaitTimeout,
)
from holdfast.client.settings import ClientSettings
from holdfast.schemas import agents_of
from holdfast.schemas.records import Event, EventType
from holdfast.testing.evidence import Submission
from tests.simulation.agents import Outside
from tests.simulation.plans import Care, Job, Words
from tests.simulation.waiting import signal_name

NAMESPACE = "sim"
CARE_AGAIN_S = 0.5
OPERATOR_SHARE = 0.5


class Driver:
    """Drives `jobs`; `main` is its process. What must not happen stands in `surprises`."""

    def __init__(self, outside: Outside, jobs: Sequence[Job]) -> None:
        self.done = False
        self.surprises: list[str] = []
        self._outside = outside
        self._jobs = jobs
        self._ended: set[str] = set()

    async def main(self, environment: Environment) -> None:
        """Drive all jobs to their ends."""
        settings = ClientSettings(bus="sqlite:///unused", namespace=NAMESPACE)
        async with (
            Client(environment=environment, settings=settings) as client,
            asyncio.TaskGroup() as group,
        ):
            for job in self._jobs:
                group.create_task(self._drive(client, job))
            group.create_task(self._operate(client))
        self.done = True

    async def _operate(self, client: Client) -> None:
        """Pause an agent, or an order key at it, for a while, as drawn; one that was killed in
        between does all of it again, and ends with the resume."""
        # Of its own, so that what else is drawn in a world does not depend on it.
        drawn = random.Random(f"operator of {[(job.run_id, job.start_s) for job in self._jobs]}")
        if drawn.random() < OPERATOR_SHARE:
            return
        job = drawn.choice(self._jobs)
        agent = drawn.choice(sorted(agents_of(job.plan.document())))
        order_key = None
        if job.plan.order_key is not None and drawn.random() < OPERATOR_SHARE:
            order_key = str(job.plan.order_key)
        await asyncio.sleep(drawn.uniform(0.0, 1.0))
        with suppress(CommandRefused, WaitTimeout, BusUnavailable):
            await client.agents.pause(agent, order_key=order_key, reason="drawn")
        await asyncio.sleep(drawn.uniform(0.0, 1.0))
        while True:
            with suppress(WaitTimeout, BusUnavailable):
                with suppress(CommandRefused):
                    await client.agents.resume(agent, order_key=order_key, reason="drawn")
                return

    async def _drive(self, client: Client, job: Job) -> None:
        await asyncio.sleep(job.start_s - self._outside.world.clock.now)
        for _ in range(job.times):
            run = await self._submit(client, job)
        if job.conflict:
            await self._conflict(client, job)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._command(run, job))
            for words in job.words:
                group.create_task(self._tell(run, job, words))
            async for event in run.events():
                if event.type is EventType.TASK_DEAD and job.care is not Care.NONE:
                    group.create_task(self._care(run, job, event))
            self._ended.add(job.run_id)
            if job.plan.continue_as_new is not None:
                with suppress(RunFailed, RunCancelled):
                    await run.result()  # of the last in the row

    async def _submit(self, client: Client, job: Job) -> Run[object]:
        evidence, plan = self._outside.evidence, job.plan
        key = None if plan.order_key is None else str(plan.order_key)
        while True:
            evidence.add(Submission(job.run_id, False, plan.name, order_key=key))
            try:
                run = await client.submit(plan, job.given, run_id=job.run_id)
            except BusUnavailable:
                continue
            evidence.add(Submission(job.run_id, True, plan.name, order_key=key))
            return run

    async def _conflict(self, client: Client, job: Job) -> None:
        try:
            run = await client.submit(job.plan, {"other": 1}, run_id=job.run_id)
            await run.accepted()
            self.surprises.append(f"I10 at {job.run_id}: another input was accepted")
        except (RunConflict, BusUnavailable):
            pass

    async def _command(self, run: Run[object], job: Job) -> None:
        """Pause and resume, or cancel, as drawn; a run may have ended by itself meanwhile."""
        if job.pause_s is not None:
            await asyncio.sleep(job.pause_s)
            with suppress(CommandRefused):
                await run.pause(reason="drawn")
            await asyncio.sleep(job.pause_s)
            with suppress(CommandRefused):
                await run.resume(reason="drawn")
        if job.cancel_s is not None:
            await asyncio.sleep(job.cancel_s)
            with suppress(CommandRefused):
                await run.cancel(reason="drawn")

    async def _tell(self, run: Run[object], job: Job, words: Words) -> None:
        """Send the signals that a task waits for; one of a wrong type must be refused, or never
        be heard."""
        await asyncio.sleep(words.after_s)
        name = signal_name(words.task_id)
        if words.wrong:
            await self._signal(run, name, {"number": "none"}, "wrong")
        for number in range(words.count):
            for _ in range(1 + words.twice):
                await self._signal(run, name, {"number": number}, str(number))

    async def _signal(self, run: Run[object], name: str, payload: object, signal_id: str) -> None:
        """Send a signal until it was answered, or the run is over."""
        while run.id not in self._ended:
            with suppress(BusUnavailable, WaitTimeout):
                with suppress(CommandRefused):
                    await run.signal(name, payload, signal_id=f"{run.id}/{name}/{signal_id}")
                return

    async def _care(self, run: Run[object], job: Job, event: Event) -> None:
        """Replay or give up a dead task; not while the run is paused, so again until it ends."""
        assert event.task is not None
        task_id = event.task.task_id
        while job.run_id not in self._ended:
            with suppress(CommandRefused):
                if job.care is Care.REPLAY:
                    self._outside.healed.add((job.run_id, task_id))
                    await run.replay(task_id, reason="repaired")
                else:
                    await run.discard(task_id, reason="given up")
                return
            await asyncio.sleep(CARE_AGAIN_S)
