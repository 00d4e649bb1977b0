"""The client: submits runs and follows them, with nothing but the bus."""

from __future__ import annotations

import asyncio
import getpass
import socket
from collections.abc import AsyncIterator, Iterable
from datetime import datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

from holdfast.bus.partition import partition_for
from holdfast.bus.port import Environment
from holdfast.bus.topics import Topics
from holdfast.client.agents import Agents
from holdfast.client.bulk import (
    PARALLEL,
    BulkAction,
    BulkResult,
    BulkTarget,
    bulk_arguments,
    send_all,
)
from holdfast.client.delay import Start
from holdfast.client.directory import MANIFEST_WAIT_S, Directory
from holdfast.client.errors import ClientClosed, ClientError, RunConflict
from holdfast.client.feed import EventFeed
from holdfast.client.fork import (
    Changed,
    Fork,
    build_fork,
    downstream,
    fork_id,
    retry_ids,
)
from holdfast.client.outbox import Outbox
from holdfast.client.payloads import Payloads
from holdfast.client.run import COMMAND_WAIT_S, Connection, Run
from holdfast.client.schedules import Schedules
from holdfast.client.settings import ClientSettings, load
from holdfast.client.state import KeyState, StatePlace, list_state
from holdfast.client.submission import Resolved, Submissions, Work
from holdfast.client.surroundings import Surroundings, open_surroundings
from holdfast.client.watch import Watch
from holdfast.schemas import CommandAction, Payload, Plan, PlanDocument, RunState, Submission, Task
from holdfast.schemas.run_ids import check_run_id

if TYPE_CHECKING:
    from holdfast.client.sync import SyncClient

__all__ = ["Client"]

In = TypeVar("In")
Out = TypeVar("Out")

ID_CHARACTERS = 16
CANCEL_WAIT_S = 180.0
"""How long a retry waits for the end of the run that it takes the place of."""
_STOPPABLE = (RunState.RUNNING, RunState.WAITING, RunState.PAUSED)


class Client:
    """Submits runs and follows them. Used on one event loop; connects at its first use.

        async with Client() as client:
            run = await client.submit(plan, {"folder": "."}, run_id="audit-2026-11-21")
            print(await run.result())

    `url`, `namespace`: where; by default `HOLDFAST_BUS` and `HOLDFAST_NAMESPACE`, else the table
    `[tool.holdfast]` of `pyproject.toml`, else `sqlite:///.holdfast/bus.db` and `holdfast`.
    `settings` instead gives all of it. `environment`: a bus that is open already, and stays so.
    `manifest_wait_s`: how long a submission waits for agents that have not published themselves,
    and the first use for topics that a coordinator is about to create.

    Raises `ConfigurationError` at once; `BusUnavailable` and `TopicMissing` at its first use.
    """

    def __init__(
        self,
        url: str | None = None,
        namespace: str | None = None,
        *,
        settings: ClientSettings | None = None,
        environment: Environment | None = None,
        manifest_wait_s: float = MANIFEST_WAIT_S,
    ) -> None:
        given = {"bus": url, "namespace": namespace}
        self.settings = settings or load(ClientSettings, given)
        self._given_environment = environment
        self._manifest_wait_s = manifest_wait_s
        self._opening = asyncio.Lock()
        self._connected: _Connected | None = None
        self._closed = False

    @staticmethod
    def sync(
        url: str | None = None,
        namespace: str | None = None,
        *,
        settings: ClientSettings | None = None,
    ) -> SyncClient:
        """Return a client for scripts and the interactive prompt: the same without `await`."""
        from holdfast.client.sync import SyncClient

        return SyncClient(settings or load(ClientSettings, {"bus": url, "namespace": namespace}))

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def start(self) -> None:
        """Connect now. Raises `BusUnavailable`, `TopicMissing`, `TopicMismatch`."""
        await self._connect()

    async def close(self) -> None:
        """Send what waits and let go; what still waits for a run raises `ClientClosed`."""
        self._closed = True
        connected, self._connected = self._connected, None
        if connected is not None:
            await connected.close()

    @overload
    async def submit(
        self,
        work: Task[In, Out],
        input: In | Any = None,
        *,
        run_id: str | None = None,
        order_key: str | None = None,
        deadline_s: float | None = None,
        start_at: datetime | None = None,
        start_in: timedelta | None = None,
    ) -> Run[Out]: ...

    @overload
    async def submit(
        self,
        work: Plan | PlanDocument | str,
        input: Any = None,
        *,
        run_id: str | None = None,
        order_key: str | None = None,
        deadline_s: float | None = None,
        start_at: datetime | None = None,
        start_in: timedelta | None = None,
    ) -> Run[Any]: ...

    async def submit(
        self,
        work: Work,
        input: Any = None,  # noqa: A002 - it is the word of the plan's format
        *,
        run_id: str | None = None,
        order_key: str | None = None,
        deadline_s: float | None = None,
        start_at: datetime | None = None,
        start_in: timedelta | None = None,
    ) -> Run[Any]:
        """Submit a plan, a task or a task's name (`agent.task`); return once the bus keeps it.

        The run id is made before anything is sent: to be safe over crashes give your own, and
        repeat the call with it as often as you like; there is one run. `order_key` and `deadline_s`
        stand over the plan's own. Agents that have not published themselves are waited for, at
        most 10 s.

        `start_at` (with a time zone) or `start_in` (from when a coordinator takes it): nothing of
        the run starts before; it can be seen, paused and cancelled meanwhile. Its deadline counts
        from there. A repeated call changes neither.

        Raises:
            PlanError: the plan or the input cannot be run; names the task and the remedy.
            Rejected: larger than the bus takes. BusUnavailable: repeat it, with the same run id.
        """
        start = Start.of(start_at, start_in)
        connected = await self._connect()
        prepared = await connected.submissions.prepare(work, input, order_key, deadline_s)
        if run_id is None:
            made = self._environment.new_id()[:ID_CHARACTERS]
            run_id = f"{prepared.plan_name}-{made}"
        check_run_id(run_id)
        connection = connected.connection
        payload = await connection.payloads.pack(run_id, prepared.input)
        submission = prepared.submission(run_id, payload, connection.actor, start)
        run = await self._send(connected, run_id, submission)
        if isinstance(work, Task) and work.output_type is not None:
            run._output_type = work.output_type  # noqa: SLF001 - the handle is made here
        return run

    async def run(self, run_id: str, order_key: str | None = None) -> Run[Any]:
        """Return a handle for a run that was submitted before, by whomever.

        `order_key`: what its plan declares, if anything. Whether there is such a run shows when it
        is asked for something: one that nothing on the bus knows of is `RunNotFound` after 5 s.
        """
        connected = await self._connect()
        watch = await self._watch(connected, check_run_id(run_id, known=True), order_key)
        return Run(connected.connection, watch, order_key)

    async def fork(
        self,
        run_id: str,
        *,
        order_key: str | None = None,
        new_run_id: str | None = None,
        from_task: str | None = None,
        input: Any = None,  # noqa: A002 - it is the word of the plan's format
        reason: str = "",
    ) -> Run[Any]:
        """Submit a run once more, reusing the outputs of tasks that succeeded.

        Without `from_task` the run must have failed or been cancelled, and the new id is made of
        the old one, so that asking twice forks once. With it that task, and all that follows from
        it, is worked again, whatever became of it; the old run may have ended in any way, and goes
        on beside if it is open; the new id is `<run>.r<n>`. `input`, with `from_task`: another
        input of the run; None: the old one. Effects keep their idempotency keys. `reason`: why, for
        the audit trail: it stands in the first event of the new run.

        Raises `ClientError` (its state, or the task, allows no fork: with the remedy),
        `EventsLost`, `PlanError` (the input does not fit), `RunConflict` (the new id is another
        run's), `WaitTimeout` (it is kept, but no coordinator has answered in 10 s).
        """
        old = await self.run(run_id, order_key)
        found = await build_fork(old.past())
        if from_task is not None:
            return await self._fork_from(found, from_task, new_run_id, reason, input)
        if input is not None:
            raise ClientError("another input needs the task from which the fork is to begin")
        connected = await self._connect()
        new_id = check_run_id(new_run_id or fork_id(run_id))
        submission = found.submission(connected.connection.actor, new_id, reason)
        run = await self._send(connected, new_id, submission)
        if new_run_id:
            await run.accepted(COMMAND_WAIT_S)  # the id may be another run's
        return run

    async def retry_from(
        self,
        run_id: str,
        task_id: str,
        *,
        order_key: str | None = None,
        new_run_id: str | None = None,
        cancel: bool = False,
        reason: str = "",
    ) -> Run[Any]:
        """Work a task, and all that follows from it, again: `fork` in the place of the old run.

        A run that is open is ended first, if `cancel` says so; else it is refused. To repeat the
        call after an interruption goes on where it was. Raises as `fork` and `Run.cancel`.
        """
        old = await self.run(run_id, order_key)
        found = await build_fork(old.past())
        if not found.ended:
            downstream(found.plan.plan, task_id)  # nothing is cancelled for what cannot be forked
            await _end(old, found, reason, cancel=cancel)
            found = await build_fork(old.past())
        return await self._fork_from(found, task_id, new_run_id, reason)

    async def _fork_from(
        self,
        found: Fork,
        task_id: str,
        new_run_id: str | None,
        reason: str,
        run_input: Any = None,
    ) -> Run[Any]:
        connected = await self._connect()
        row = found.row
        assert row is not None, "a run without a row has no plan, and `plan` says so"
        for new_id in [check_run_id(new_run_id)] if new_run_id else retry_ids(row.run_id):
            changed = await self._changed(connected, found, new_id, run_input)
            actor = connected.connection.actor
            submission = found.submission_from(task_id, actor, new_id, changed, reason)
            run = await self._send(connected, new_id, submission)
            try:
                await run.accepted(COMMAND_WAIT_S)
            except RunConflict:
                if new_run_id:
                    raise
                continue  # another retry, from another task or of another try, has this id
            return run
        raise ClientError(f"run {row.run_id!r} was retried too often: name the new run's id")

    @staticmethod
    async def _changed(
        connected: _Connected, found: Fork, new_id: str, run_input: Any
    ) -> Changed | None:
        if run_input is None:
            return None
        payloads = connected.connection.payloads
        plan = found.plan
        for task in plan.tasks.values():
            await payloads.require(task.input_schema_id)
        resolved = Resolved(plan, plan.to_json(), plan.plan.to_json(), ())
        prepared = connected.submissions.fill(resolved, run_input)
        stored = await payloads.pack(new_id, prepared.input)
        return Changed(stored, prepared.order_key, prepared.input_hash)

    async def bulk(
        self,
        action: BulkAction,
        targets: Iterable[BulkTarget],
        *,
        reason: str = "",
        bulk_id: str | None = None,
        compensate: bool | None = None,
        parallel: int = PARALLEL,
    ) -> AsyncIterator[BulkResult]:
        """Send one command to each target, `parallel` at once; yield what became of each.

        The commands are audited one by one, under a common `bulk_id`. Which targets: see
        `holdfast.coordinator.projection.select_targets`, or any list of your own. A retry (or
        replay) of a run that has ended forks it, once. Safe to repeat after an interruption.

        `compensate`, of a cancel alone: whether what has succeeded is undone first (None: as each
        run's plan says); with another action it is a `ClientError`, and nothing is sent.
        """
        arguments = bulk_arguments(action, compensate)
        connected = await self._connect()
        common = bulk_id or connected.connection.environment.new_id()

        async def send(target: BulkTarget) -> str:
            if target.ended and action in (BulkAction.RETRY, BulkAction.REPLAY):
                why = f"{reason} (bulk {common})" if reason else f"bulk {common}"
                key = target.order_key
                fork = await self.fork(target.run_id, order_key=key, reason=why)
                return f"run {target.run_id!r} goes on as {fork.id!r}"
            run = await self.run(target.run_id, target.order_key)
            word = CommandAction(action.value)
            receipt = await run.command(
                word, target.task_id, reason=reason, bulk_id=common, arguments=arguments
            )
            return receipt.message

        async for result in send_all(targets, send, parallel):
            yield result

    def new_id(self) -> str:
        """Return an id that nobody has, for `bulk` and its like; the client is connected."""
        return self._environment.new_id()

    @property
    def agents(self) -> Agents:
        """Agents, and order keys at them: pause and resume them."""
        return Agents(self._connect)

    @property
    def schedules(self) -> Schedules:
        """Runs that are started by the clock: create, read and steer them."""
        return Schedules(self._connect)

    def state(self, agent: str, order_key: str) -> KeyState:
        """What an agent keeps under an order key (`ctx.state`): read it, have it deleted."""
        return KeyState(self._connect, agent, order_key)

    def states(self, agent: str) -> AsyncIterator[StatePlace]:
        """Yield where an agent keeps something under an order key, without the values.

        Reads all of its journal. Raises as `KeyState.documents`.
        """
        return list_state(self._connect, agent)

    async def decode(self, payload: Payload) -> Any:
        """Return a payload of an event as plain Python; raises `Undecodable`, `UnknownSchema`."""
        return await (await self._connect()).connection.payloads.document(payload)

    # --- how -------------------------------------------------------------------------------------

    @property
    def _environment(self) -> Environment:
        assert self._connected is not None
        return self._connected.connection.environment

    async def _send(self, connected: _Connected, run_id: str, submission: Submission) -> Run[Any]:
        watch = await self._watch(connected, run_id, submission.order_key)
        key = submission.order_key or run_id
        position = await connected.connection.send(run_id, key, submission)
        run = Run[Any](connected.connection, watch, submission.order_key, position)
        run._input_hash = submission.input_hash  # noqa: SLF001 - the handle is made here
        return run

    @staticmethod
    async def _watch(connected: _Connected, run_id: str, order_key: str | None) -> Watch:
        feed = connected.connection.feed
        watch = Watch(run_id, partition_for((order_key or run_id).encode(), feed.partitions))
        await feed.add(watch)
        return watch

    async def _connect(self) -> _Connected:
        if self._connected is not None:
            return self._connected
        async with self._opening:
            if self._closed:
                raise ClientClosed("this client was closed: open another")
            if self._connected is None:
                connected = await self._open()
                if self._closed:
                    await connected.close()
                    raise ClientClosed("this client was closed meanwhile: open another")
                self._connected = connected
            return self._connected

    async def _open(self) -> _Connected:
        wait_s = self._manifest_wait_s
        surroundings = await open_surroundings(self.settings, self._given_environment, wait_s)
        try:
            connected = _Connected(surroundings, self.settings.topics)
        except BaseException:
            await surroundings.close()
            raise
        connected.directory.wait_s = wait_s
        return connected


class _Connected:
    """Everything that is open."""

    def __init__(self, surroundings: Surroundings, topics: Topics) -> None:
        environment = surroundings.environment
        payloads = Payloads(surroundings.schemas, surroundings.blobs)
        self.surroundings = surroundings
        self.directory = Directory(environment, topics.agents)
        self.submissions = Submissions(self.directory, payloads)
        self.connection = Connection(
            environment=environment,
            topics=topics,
            feed=EventFeed(environment.bus, topics.events, surroundings.partitions),
            outbox=Outbox(environment.bus),
            payloads=payloads,
            actor=_actor(),
        )

    async def close(self) -> None:
        """Let go of everything, in the order of who needs whom."""
        await self.connection.outbox.close()
        await self.connection.feed.close()
        await self.directory.close()
        await self.surroundings.close()


async def _end(old: Run[Any], found: Fork, reason: str, *, cancel: bool) -> None:
    """Let an open run end before another takes its place."""
    row = found.row
    assert row is not None, "`Fork.ended` has seen it"
    if not cancel:
        raise ClientError(
            f"run {row.run_id!r} is {row.state}: cancel it in the same word (`--cancel`), or let it"
            " go on beside the new one (`holdfast run fork`)"
        )
    if row.state in _STOPPABLE:
        await old.cancel(reason=reason or "it is retried as another run")
    await old.ended(CANCEL_WAIT_S)


def _actor() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container whose user id has no name
        user = "unknown"
    return f"{user}@{socket.gethostname()}"
