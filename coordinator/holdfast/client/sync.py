"""The client without `await`: for scripts and the interactive prompt.

Its own event loop runs in a thread, so that it works wherever it is called from, inside a running
loop too (a notebook); inside a web service use `Client`, which holds no thread up.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Coroutine, Iterable, Iterator
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Generic, Self, TypeVar, overload

from holdfast.bus.port import Position
from holdfast.client.bulk import BulkAction, BulkResult, BulkTarget
from holdfast.client.client import Client
from holdfast.client.errors import ClientClosed
from holdfast.client.receipts import CommandReceipt, SignalReceipt
from holdfast.client.run import STATUS_WAIT_S, Run
from holdfast.client.settings import ClientSettings
from holdfast.client.state import StatePlace
from holdfast.client.status import RunStatus
from holdfast.client.submission import Work
from holdfast.client.sync_agents import SyncAgents
from holdfast.client.sync_schedules import SyncSchedules
from holdfast.client.sync_state import SyncKeyState
from holdfast.schemas import AskRow, Event, Payload, Plan, PlanDocument, Task

__all__ = ["SyncClient", "SyncRun"]

T = TypeVar("T")
In = TypeVar("In")
Out = TypeVar("Out")


class _LoopThread:
    """An event loop in a daemon thread: a script that forgets `close` still ends."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="holdfast-client", daemon=True
        )
        self._thread.start()

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Return what `work` returns; an interrupt cancels it."""
        if self._loop.is_closed():
            work.close()
            raise ClientClosed("this client was closed: open another")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def stop(self) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()


async def _next(events: AsyncGenerator[Event, None]) -> Event | None:
    return await anext(events, None)


async def _close(events: AsyncGenerator[Event, None]) -> None:
    await events.aclose()


class SyncRun(Generic[Out]):
    """A handle; see `Run`, whose methods it has."""

    def __init__(self, thread: _LoopThread, run: Run[Out]) -> None:
        self._thread = thread
        self._run = run

    def __repr__(self) -> str:
        return f"<SyncRun {self.id!r}>"

    @property
    def id(self) -> str:
        """The run id."""
        return self._run.id

    @property
    def order_key(self) -> str | None:
        """What its plan declares, if anything."""
        return self._run.order_key

    @property
    def position(self) -> Position | None:
        """Where the submission stands; None if the run was found by its id."""
        return self._run.position

    def result(self, timeout_s: float | None = None, *, follow: bool = True) -> Out:
        """See `Run.result`."""
        return self._thread.call(self._run.result(timeout_s, follow=follow))

    def accepted(self, timeout_s: float | None = None) -> None:
        """See `Run.accepted`."""
        self._thread.call(self._run.accepted(timeout_s))

    def events(self) -> Iterator[Event]:
        """See `Run.events`."""
        events = self._run.events()
        try:
            while (event := self._thread.call(_next(events))) is not None:
                yield event
        finally:
            self._thread.call(_close(events))

    def cancel(
        self,
        *,
        reason: str = "",
        compensate: bool | None = None,
        compensate_from: str | None = None,
    ) -> CommandReceipt:
        """See `Run.cancel`."""
        cancelled = self._run.cancel(
            reason=reason, compensate=compensate, compensate_from=compensate_from
        )
        return self._thread.call(cancelled)

    def signal(
        self, signal: str, payload: Any = None, *, signal_id: str | None = None
    ) -> SignalReceipt:
        """See `Run.signal`."""
        return self._thread.call(self._run.signal(signal, payload, signal_id=signal_id))

    def status(self, timeout_s: float | None = STATUS_WAIT_S) -> RunStatus:
        """See `Run.status`."""
        return self._thread.call(self._run.status(timeout_s))

    def waits(self, timeout_s: float | None = STATUS_WAIT_S) -> tuple[AskRow, ...]:
        """See `Run.waits`."""
        return self._thread.call(self._run.waits(timeout_s))

    def plan(self, version: int | None = None) -> PlanDocument:
        """See `Run.plan`."""
        return self._thread.call(self._run.plan(version))

    def pause(self, *, reason: str = "") -> CommandReceipt:
        """See `Run.pause`."""
        return self._thread.call(self._run.pause(reason=reason))

    def resume(self, *, reason: str = "") -> CommandReceipt:
        """See `Run.resume`."""
        return self._thread.call(self._run.resume(reason=reason))

    def replay(self, task_id: str, *, reason: str = "") -> CommandReceipt:
        """See `Run.replay`."""
        return self._thread.call(self._run.replay(task_id, reason=reason))

    def discard(self, task_id: str, *, reason: str = "") -> CommandReceipt:
        """See `Run.discard`."""
        return self._thread.call(self._run.discard(task_id, reason=reason))

    def skip(self, task_id: str, *, reason: str = "") -> CommandReceipt:
        """See `Run.skip`."""
        return self._thread.call(self._run.skip(task_id, reason=reason))

    def override(self, task_id: str, output: Any, *, reason: str = "") -> CommandReceipt:
        """See `Run.override`."""
        return self._thread.call(self._run.override(task_id, output, reason=reason))

    def retry(self, task_id: str, *, reason: str = "") -> CommandReceipt:
        """See `Run.retry`."""
        return self._thread.call(self._run.retry(task_id, reason=reason))

    def restart_task(self, task_id: str, *, reason: str = "") -> CommandReceipt:
        """See `Run.restart_task`."""
        return self._thread.call(self._run.restart_task(task_id, reason=reason))


class SyncClient:
    """See `Client`, whose methods it has; made by `Client.sync`. May be called from any thread."""

    def __init__(self, settings: ClientSettings) -> None:
        self._thread = _LoopThread()
        self._client = Client(settings=settings)

    def __enter__(self) -> Self:
        try:
            self._thread.call(self._client.start())
        except BaseException:
            self._thread.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Send what waits and let go. May be called again."""
        try:
            self._thread.call(self._client.close())
        except ClientClosed:
            return
        self._thread.stop()

    @overload
    def submit(
        self,
        work: Task[In, Out],
        input: In | Any = None,
        *,
        run_id: str | None = None,
        order_key: str | None = None,
        deadline_s: float | None = None,
        start_at: datetime | None = None,
        start_in: timedelta | None = None,
    ) -> SyncRun[Out]: ...

    @overload
    def submit(
        self,
        work: Plan | PlanDocument | str,
        input: Any = None,
        *,
        run_id: str | None = None,
        order_key: str | None = None,
        deadline_s: float | None = None,
        start_at: datetime | None = None,
        start_in: timedelta | None = None,
    ) -> SyncRun[Any]: ...

    def submit(
        self,
        work: Work,
        input: Any = None,  # noqa: A002
        *,
        run_id: str | None = None,
        order_key: str | None = None,
        deadline_s: float | None = None,
        start_at: datetime | None = None,
        start_in: timedelta | None = None,
    ) -> SyncRun[Any]:
        """See `Client.submit`."""
        submitting = self._client.submit(
            work,
            input,
            run_id=run_id,
            order_key=order_key,
            deadline_s=deadline_s,
            start_at=start_at,
            start_in=start_in,
        )
        return SyncRun(self._thread, self._thread.call(submitting))

    def run(self, run_id: str, order_key: str | None = None) -> SyncRun[Any]:
        """See `Client.run`."""
        return SyncRun(self._thread, self._thread.call(self._client.run(run_id, order_key)))

    def fork(
        self,
        run_id: str,
        *,
        order_key: str | None = None,
        new_run_id: str | None = None,
        from_task: str | None = None,
        input: Any = None,  # noqa: A002 - it is the word of the plan's format
        reason: str = "",
    ) -> SyncRun[Any]:
        """See `Client.fork`."""
        forking = self._client.fork(
            run_id,
            order_key=order_key,
            new_run_id=new_run_id,
            from_task=from_task,
            input=input,
            reason=reason,
        )
        return SyncRun(self._thread, self._thread.call(forking))

    def retry_from(
        self,
        run_id: str,
        task_id: str,
        *,
        order_key: str | None = None,
        new_run_id: str | None = None,
        cancel: bool = False,
        reason: str = "",
    ) -> SyncRun[Any]:
        """See `Client.retry_from`."""
        retrying = self._client.retry_from(
            run_id,
            task_id,
            order_key=order_key,
            new_run_id=new_run_id,
            cancel=cancel,
            reason=reason,
        )
        return SyncRun(self._thread, self._thread.call(retrying))

    def bulk(
        self,
        action: BulkAction,
        targets: Iterable[BulkTarget],
        *,
        reason: str = "",
        bulk_id: str | None = None,
        compensate: bool | None = None,
    ) -> list[BulkResult]:
        """See `Client.bulk`; all of it at once."""

        async def gather() -> list[BulkResult]:
            found = self._client.bulk(
                action, targets, reason=reason, bulk_id=bulk_id, compensate=compensate
            )
            return [each async for each in found]

        return self._thread.call(gather())

    @property
    def agents(self) -> SyncAgents:
        """See `Client.agents`."""
        return SyncAgents(self._client.agents, self._thread.call)

    @property
    def schedules(self) -> SyncSchedules:
        """See `Client.schedules`."""
        return SyncSchedules(self._client.schedules, self._thread.call)

    def state(self, agent: str, order_key: str) -> SyncKeyState:
        """See `Client.state`."""
        return SyncKeyState(self._client.state(agent, order_key), self._thread.call)

    def states(self, agent: str) -> list[StatePlace]:
        """See `Client.states`."""

        async def all_of_it() -> list[StatePlace]:
            return [place async for place in self._client.states(agent)]

        return self._thread.call(all_of_it())

    def decode(self, payload: Payload) -> Any:
        """See `Client.decode`."""
        return self._thread.call(self._client.decode(payload))
