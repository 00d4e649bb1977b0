"""The agents that coordinators know: what they published of themselves.

A submission was resolved against the same topic by its client; it is checked again here, since
anybody can write to the coordinator's topic. An agent seen once stays known while it is down: one
that took its manifest back is remembered by this process, and by another at least by its task
topic.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Mapping

from holdfast.bus.errors import BusError
from holdfast.bus.port import Environment, Received, TopicPartition
from holdfast.bus.topics import SOURCE_PREFIX, Topics
from holdfast.schemas.codec import decode
from holdfast.schemas.errors import HoldfastError, did_you_mean
from holdfast.schemas.records import Manifest
from holdfast.schemas.resolution import ResolvedPlan, ResolvedTask

__all__ = ["Directory", "offered_task"]

logger = logging.getLogger(__name__)

POLL_S = 5.0
PAUSE_S = 2.0
"""Before following again, after the bus was away."""
ANSWERS_MAX = 256
"""Plans whose check is remembered, until another manifest comes."""


def offered_task(manifest: Manifest, task: str) -> ResolvedTask | str:
    """Return what an agent says of a task of its own, or why there is none."""
    for offered in manifest.tasks:
        if offered.name == task:
            return ResolvedTask(
                agent=manifest.agent,
                task=task,
                input_schema_id=offered.input_schema_id,
                output_schema_id=offered.output_schema_id,
                retry=offered.retry,
                timeout_ms=offered.timeout_ms,
                queue_timeout_ms=offered.queue_timeout_ms,
                progress_timeout_ms=offered.progress_timeout_ms,
            )
    names = [offered.name for offered in manifest.tasks]
    return f"agent {manifest.agent!r} has no task {task!r}{did_you_mean(task, names)}"


class Directory:
    """Follows the `agents` topic; used on one event loop."""

    def __init__(self, environment: Environment, topics: Topics) -> None:
        self._bus = environment.bus
        self._partition = TopicPartition(topics.agents, 0)
        self._tasks_prefix = topics.tasks("x").removesuffix("x")
        self._position = 0
        self._by_key: dict[str, Manifest] = {}
        self._newest: dict[str, Manifest] = {}
        self._with_topics: frozenset[str] = frozenset()
        self._partitions: dict[str, int] = {}
        self._control_prefix = topics.control("x").removesuffix("x")
        self._sources: frozenset[str] = frozenset()
        self._answers: OrderedDict[str, str | None] = OrderedDict()
        self._reading = asyncio.Lock()
        self._follower: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read all that was published, and follow. Raises `BusUnavailable`, `TopicMissing`."""
        await self.refresh()
        self._follower = asyncio.create_task(self._follow(), name="coordinator-directory")

    async def close(self) -> None:
        """Stop following; never raises."""
        follower, self._follower = self._follower, None
        if follower is not None:
            follower.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await follower

    async def refresh(self) -> None:
        """Read everything that was published by now. Raises `BusUnavailable`."""
        async with self._reading:
            names = await self._bus.describe_topics()
            prefix = self._tasks_prefix
            known = frozenset(n.removeprefix(prefix) for n in names if n.startswith(prefix))
            heard = {n.removeprefix(self._control_prefix) for n in names}
            self._partitions = {a: names[prefix + a].partitions for a in known}
            self._sources = frozenset(group for group in heard if group.startswith(SOURCE_PREFIX))
            if known != self._with_topics:
                self._with_topics = known
                self._answers.clear()
            async for records in self._bus.read(*self._partition, self._position):
                self._take(records)

    def problem(self, plan: str) -> str | None:
        """Return why a resolved plan (JSON) cannot be run with these agents, or None."""
        if plan in self._answers:
            self._answers.move_to_end(plan)
            return self._answers[plan]
        try:
            tasks = ResolvedPlan.from_json(plan).tasks
        except HoldfastError:
            return None  # the engine refuses it, and says why
        answer = next(self._problems(tasks.items()), None)
        self._answers[plan] = answer
        if len(self._answers) > ANSWERS_MAX:
            self._answers.popitem(last=False)
        return answer

    def partitions(self, agent: str) -> int | str:
        """See `ports.Agents`."""
        found = self._partitions.get(agent)
        if found is not None:
            return found
        hint = did_you_mean(agent, sorted(self._partitions))
        return f"agent {agent!r} has no topics here{hint}; start it once, or correct the name"

    def task(self, agent: str, task: str) -> ResolvedTask | str:
        """See `ports.Agents`."""
        manifest = self._newest.get(agent)
        if manifest is None:
            known = sorted({*self._newest, *self._with_topics})
            return (
                f"no agent {agent!r} is known{did_you_mean(agent, known)}; start it, or correct "
                "the name"
            )
        return offered_task(manifest, task)

    def manifests(self, agents: Collection[str]) -> Mapping[str, Manifest]:
        """See `ports.Agents`."""
        return {name: self._newest[name] for name in agents if name in self._newest}

    def silent(self, before_ms: int) -> list[str]:
        """Return the keys of manifests whose instance gave no sign of life since `before_ms`."""
        return [key for key, manifest in self._by_key.items() if manifest.seen_ms < before_ms]

    def agents(self) -> list[str]:
        """Return the names of the agents that have topics."""
        return sorted(self._with_topics)

    def sources(self) -> list[str]:
        """Return the groups of the sources that have topics."""
        return sorted(self._sources)

    def _problems(self, tasks: Iterable[tuple[str, ResolvedTask]]) -> Iterator[str]:
        for task_id, task in tasks:
            manifest = self._newest.get(task.agent)
            if manifest is None:
                if task.agent not in self._with_topics:
                    known = sorted({*self._newest, *self._with_topics})
                    yield (
                        f"task {task_id!r}: no agent {task.agent!r} is known"
                        f"{did_you_mean(task.agent, known)}; start it, or correct the name"
                    )
                continue
            names = [offered.name for offered in manifest.tasks]
            if task.task not in names:
                yield (
                    f"task {task_id!r}: agent {task.agent!r} has no task {task.task!r}"
                    f"{did_you_mean(task.task, names)}"
                )

    async def _follow(self) -> None:
        while True:
            try:
                reader = await self._bus.open_reader({self._partition: self._position})
                try:
                    while True:
                        records = await reader.poll(POLL_S)
                        async with self._reading:
                            self._take(records)
                finally:
                    await reader.close()
            except BusError as error:
                logger.warning("cannot follow the agents' manifests: %s", error)
            except Exception:
                # Nobody awaits this task: ended, it would leave this process with old manifests.
                logger.exception("cannot follow the agents' manifests; it is tried again")
            await asyncio.sleep(PAUSE_S)

    def _take(self, records: Iterable[Received]) -> None:
        for received in records:
            if received.offset < self._position or received.key is None:
                continue
            self._position = received.offset + 1
            key = received.key.decode("utf-8", "replace")
            if received.value is None:
                self._by_key.pop(key, None)
                continue
            try:
                self._add(key, decode(Manifest, received.value))
            except HoldfastError as error:
                logger.warning("%s is no manifest: %s", received.position, error)

    def _add(self, key: str, manifest: Manifest) -> None:
        self._by_key[key] = manifest
        known = self._newest.get(manifest.agent)
        # Of two builds that run side by side the one started last counts, whoever spoke last.
        if known is not None and known.started_ms > manifest.started_ms:
            return
        self._newest[manifest.agent] = manifest
        if known is None or known.tasks != manifest.tasks:
            self._answers.clear()
