"""A run, as the client that submitted it, or found it by its id, sees it.

It is read from `events` alone: no database of anybody's stands between.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, Generic, TypeVar

from pydantic_core import PydanticSerializationError, to_jsonable_python

from holdfast.bus.partition import partition_for
from holdfast.bus.port import Position, TopicPartition
from holdfast.client.backlog import Backlog
from holdfast.client.connection import Connection
from holdfast.client.errors import (
    CommandRefused,
    RunCancelled,
    RunConflict,
    RunFailed,
    RunRefused,
    WaitTimeout,
)
from holdfast.client.existence import Existence
from holdfast.client.plan_history import PlanHistory
from holdfast.client.receipts import (
    CommandReceipt,
    SignalOutcome,
    SignalReceipt,
    signal_receipt,
)
from holdfast.client.status import RunStatus, read_status, status_at_end
from holdfast.client.watch import ENDS, REFUSALS, Watch
from holdfast.schemas import (
    AskRow,
    Command,
    CommandAction,
    Event,
    EventType,
    Payload,
    PlanDocument,
    RunRow,
    RunState,
    Signal,
    Unencodable,
    decode,
    encode_json,
)
from holdfast.schemas.command_arguments import CancelArguments

__all__ = [
    "COMMAND_WAIT_S",
    "STATUS_WAIT_S",
    "CommandReceipt",
    "Connection",
    "Run",
    "SignalOutcome",
    "SignalReceipt",
]

Out = TypeVar("Out")

COMMAND_WAIT_S = 10.0
"""How long a command waits for the coordinator's answer."""
STATUS_WAIT_S = 10.0
"""How long a question about a run waits for a coordinator to take it in."""


class Run(Generic[Out]):
    """A handle. Made by `Client.submit` and `Client.run`; cheap, and kept by whoever waits.

    `id`: the run id. `order_key`: what its plan declares, if anything; needed to find it again by
    `Client.run`. `position`: where the submission stands on `coordinator`; None if it was found.
    """

    def __init__(
        self,
        connection: Connection,
        watch: Watch,
        order_key: str | None,
        position: Position | None = None,
        output_type: type[Out] | None = None,
    ) -> None:
        self.id = watch.run_id
        self.order_key = order_key
        self.position = position
        self._connection = connection
        self._watch = watch
        self._output_type = output_type
        self._input_hash: str | None = None
        """Of the submission that this handle stands for; None: it was found by its id."""
        self._searching = asyncio.Lock()
        self._searched = False

    def __repr__(self) -> str:
        return f"<Run {self.id!r}>"

    async def result(self, timeout_s: float | None = None, *, follow: bool = True) -> Out:
        """Return the run's output, once it has ended.

        A typed `Task` gives its output type, everything else plain Python (what JSON has). Of a
        run that is continued as new, `follow` waits for the last in the row, and gives its output.

        Raises:
            RunFailed, RunCancelled: it ended without success.
            RunRefused, RunConflict: it never began.
            RunNotFound: this handle was found by its id, and nothing on the bus knows of the run:
                no event, and no submission that waits, 5 s after it was first asked. Another
                process may still submit it: ask again then.
            WaitTimeout: not ended after `timeout_s`; the run goes on.
            EventsLost: its end is older than what the bus keeps.
        """
        row = await self._last_row(timeout_s, follow=follow)
        if row.state is RunState.CANCELLED:
            raise RunCancelled(row.run_id, row.failure)
        if row.state is not RunState.SUCCEEDED:
            raise RunFailed(row.run_id, row.failure)
        payloads = self._connection.payloads
        if self._output_type is not None:
            output: Out = await payloads.value(row.output, self._output_type)
        else:
            output = await payloads.document(row.output)
        return output

    async def _last_row(self, timeout_s: float | None, *, follow: bool) -> RunRow:
        monotonic = self._connection.environment.monotonic
        until_s = None if timeout_s is None else monotonic() + timeout_s
        run: Run[Any] = self
        while True:
            left_s = None if until_s is None else max(0.0, until_s - monotonic())
            row = (await run.ended(left_s)).run
            assert row is not None, "the coordinator writes whole rows"
            if not follow or row.successor is None:
                return row
            run = await run._successor(row.successor, row.successor_key)

    async def _successor(self, run_id: str, key: str | None) -> Run[Any]:
        """Return a handle for the run that this one was continued as."""
        feed = self._connection.feed
        order_key = None if key == run_id else key
        watch = Watch(run_id, partition_for((key or run_id).encode(), feed.partitions))
        await feed.add(watch)
        return Run(self._connection, watch, order_key)

    async def accepted(self, timeout_s: float | None = None) -> None:
        """Return once a coordinator has taken the submission in, or knew the run already.

        Raises `RunRefused`, `RunConflict`, `RunNotFound` as `result` does; `WaitTimeout` after
        `timeout_s`: no coordinator has answered, the submission is kept.
        """
        watch = self._watch
        try:
            async with asyncio.timeout(timeout_s):
                if self.position is None:
                    await self._require_existence()
                    if watch.known:
                        return
                while self._answer() is None and not self._has_begun():
                    if watch.error is not None:
                        raise watch.error
                    await watch.changed()
        except TimeoutError:
            raise WaitTimeout(
                f"run {self.id!r} is kept, but no coordinator has taken it in within "
                f"{timeout_s:g} s: is one running?"
            ) from None

    async def ended(self, timeout_s: float | None = None) -> Event:
        """Return the event of the run's end, whatever that is; raises as `result` does."""
        watch = self._watch
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    if watch.end is not None and self._is_ours(watch.end):
                        return watch.end
                    if watch.error is not None:
                        raise watch.error
                    if self._may_be_past():
                        await self._search()
                        continue
                    if self.position is None and not watch.known:
                        await self._require_existence()
                        continue
                    await watch.changed()
        except TimeoutError:
            known = self.position is not None or watch.known
            raise WaitTimeout(
                f"run {self.id!r} has not ended within {timeout_s:g} s; it goes on: ask again "
                "by its id"
                if known
                else f"nothing is known of run {self.id!r} within {timeout_s:g} s: is the id right?"
            ) from None

    async def events(self) -> AsyncGenerator[Event, None]:
        """Yield every event of the run from its first to its end, those to come as they come.

        Raises `RunRefused`, `RunConflict`, `EventsLost`, `RunNotFound`.
        """
        watch, connection = self._watch, self._connection
        with watch.subscribed() as queue:
            live_from = connection.feed.position(watch)
            first = await self._first_offset()
            backlog = Backlog(connection.bus, connection.topics.events, watch)
            async for _, value in backlog.forward(first, live_from):
                event = decode(Event, value)
                watch.known = watch.known or event.type.encode() not in REFUSALS
                yield event
                if event.type in ENDS:
                    return
            if self.position is None and not watch.known:
                await self._require_existence()
            while (raw := await queue.get()) is not None:
                event = decode(Event, raw[1])
                yield event
                if event.type in ENDS:
                    return
        if watch.error is not None:
            raise watch.error

    async def past(self) -> AsyncGenerator[Event, None]:
        """Yield the events of the run that stand on the bus now; waits for none to come."""
        watch, connection = self._watch, self._connection
        events = connection.topics.events
        place = TopicPartition(events, watch.partition)
        end = (await connection.bus.end_offsets([place]))[place]
        async for _, value in Backlog(connection.bus, events, watch).forward(0, end):
            yield decode(Event, value)

    async def cancel(
        self,
        *,
        reason: str = "",
        compensate: bool | None = None,
        compensate_from: str | None = None,
    ) -> CommandReceipt:
        """End the run: what runs is told to stop. Returns once that is accepted.

        `compensate`: whether what has succeeded is undone first (None: as its plan says);
        `compensate_from`: only this task, and what came of it.

        This and all other commands raise `CommandRefused` (the state does not allow it) and
        `WaitTimeout` (kept, but no coordinator has answered within 10 s).
        """
        said = CancelArguments(compensate=compensate, compensate_from=compensate_from).to_json()
        return await self._command(CommandAction.CANCEL, None, reason, arguments=said)

    async def pause(self, *, reason: str = "") -> CommandReceipt:
        """Hand out nothing new; what runs goes on."""
        return await self._command(CommandAction.PAUSE, None, reason)

    async def resume(self, *, reason: str = "") -> CommandReceipt:
        """Go on after `pause`."""
        return await self._command(CommandAction.RESUME, None, reason)

    async def replay(self, task_id: str, *, reason: str = "") -> CommandReceipt:
        """Let a task that is in the dead letters go on, with a new attempt; the run is open."""
        return await self._command(CommandAction.REPLAY, task_id, reason)

    async def discard(self, task_id: str, *, reason: str = "") -> CommandReceipt:
        """Give a task up that is in the dead letters: it fails; the run is open."""
        return await self._command(CommandAction.DISCARD, task_id, reason)

    async def restart_task(self, task_id: str, *, reason: str = "") -> CommandReceipt:
        """Let a task begin anew, without what it has journaled; effects keep their keys."""
        return await self._command(CommandAction.RESTART, task_id, reason)

    async def skip(self, task_id: str, *, reason: str = "") -> CommandReceipt:
        """End a task as if its condition had not held.

        What depends on it goes on, and reads null; if it waits for skipped tasks alone it is
        skipped too. What runs of the task is told to stop first; whatever its attempt still says,
        it is skipped.
        """
        return await self._command(CommandAction.SKIP, task_id, reason)

    async def override(self, task_id: str, output: Any, *, reason: str = "") -> CommandReceipt:
        """Let a task succeed with `output` (anything that JSON can hold) instead of its own.

        As `skip` ends it. Raises `CommandRefused` where the output does not fit the task's output
        schema, naming the field; `Unencodable`. Of a map: the whole list.
        """
        data = _json(output, f"the output of task {task_id!r}")
        stored = await self._connection.payloads.pack(self.id, data)
        return await self._command(CommandAction.OVERRIDE, task_id, reason, output=stored)

    async def retry(self, task_id: str, *, reason: str = "") -> CommandReceipt:
        """Let a task go on now: one in the dead letters, or one that waits for its next attempt.

        The run is open. To work a task again that has ended, see `Client.retry_from`.
        """
        return await self._command(CommandAction.RETRY, task_id, reason)

    async def command(
        self,
        action: CommandAction,
        task_id: str | None,
        *,
        reason: str,
        bulk_id: str,
        arguments: str,
    ) -> CommandReceipt:
        """Send one command of many; `bulk_id` is of all of them. See `Client.bulk`."""
        return await self._command(action, task_id, reason, bulk_id=bulk_id, arguments=arguments)

    async def signal(
        self, signal: str, payload: Any = None, *, signal_id: str | None = None
    ) -> SignalReceipt:
        """Tell the run something: the task that waits for a signal of this name gets `payload`.

        One that nobody waits for yet is kept. `payload`: anything that JSON can hold. Repeat a call
        with the same `signal_id` as often as you like: it counts once. Raises `CommandRefused`
        where it does not fit what the task expects, naming the field, or the run takes none any
        more; `Unencodable`; `WaitTimeout` (kept, but no coordinator has answered within 10 s).
        """
        signal_id = signal_id or self._connection.environment.new_id()
        data = _json(payload, f"the payload of signal {signal!r}")
        stored = await self._connection.payloads.pack(self.id, data)
        body = Signal(signal_id, signal, stored, self._connection.actor)
        position, event = await self._told(f"signal {signal!r} to", body)
        if event.type is EventType.SIGNAL_REFUSED:
            raise CommandRefused(event.message)
        return signal_receipt(signal_id, position, event)

    async def status(self, timeout_s: float | None = STATUS_WAIT_S) -> RunStatus:
        """Return how the run stands now: its state, its tasks, what they wait for.

        Reads the coordinator's journal, which is as large as all that is open in the run's slot:
        ask now and then, and follow `events` for more. Raises as `accepted` does, `WaitTimeout`
        after `timeout_s` as long as no coordinator has taken the run in; `EventsLost` if it ended
        so long ago that its end is gone.
        """
        await self.accepted(timeout_s)
        connection, partition = self._connection, self._watch.partition
        found = await read_status(connection.bus, connection.topics, partition, self.id)
        return status_at_end(await self.ended(timeout_s)) if found is None else found

    async def waits(self, timeout_s: float | None = STATUS_WAIT_S) -> tuple[AskRow, ...]:
        """Return what the run's tasks wait for now, the longest wait first; see `status`.

        Each has `task_id`, `kind` (sleep, signal, call, run), `subject` (the signal's name, the
        called task, the plan), `child`, `asked_ms`, `until_ms`; `describe()` says it in words.
        """
        return (await self.status(timeout_s)).waits

    async def plan(self, version: int | None = None) -> PlanDocument:
        """Return the run's plan as it is now, or as it was: 1 is what was submitted.

        Each change that a task of the run makes gives the next version. Its tasks say who added
        them (`added_by`), and that they were skipped or cancelled so (`dropped`). Raises as
        `accepted` does; `EventsLost`; `ClientError` for a version that there is not.
        """
        await self.accepted(STATUS_WAIT_S)
        history = PlanHistory()
        async for event in self.past():
            history.take(event)
        return history.resolved(version).plan

    # --- how -------------------------------------------------------------------------------------

    @property
    def _key(self) -> str:
        return self.order_key or self.id

    async def _command(
        self,
        action: CommandAction,
        task_id: str | None,
        reason: str,
        *,
        output: Payload = None,
        bulk_id: str | None = None,
        arguments: str = "{}",
    ) -> CommandReceipt:
        connection = self._connection
        command_id = connection.environment.new_id()
        command = Command(command_id, action, task_id, arguments, connection.actor, reason)
        command.output, command.bulk_id = output, bulk_id
        position, event = await self._told(f"{action} of", command)
        if event.type is EventType.COMMAND_REFUSED:
            raise CommandRefused(event.message)
        return CommandReceipt(command_id, position, event.message)

    async def _told(self, what: str, body: Command | Signal) -> tuple[Position, Event]:
        """Send a word to the run; return where it stands, and the event that answers it."""
        watch = self._watch
        position = await self._connection.send(self.id, self._key, body)
        try:
            async with asyncio.timeout(COMMAND_WAIT_S):
                while (answer := watch.answers.get(position.offset)) is None:
                    if watch.error is not None:
                        raise watch.error
                    await watch.changed()
        except TimeoutError:
            raise WaitTimeout(
                f"{what} run {self.id!r} is kept, but no coordinator has answered within "
                f"{COMMAND_WAIT_S:g} s: is one running?"
            ) from None
        return position, answer[1]

    def _answer(self) -> tuple[int, Event] | None:
        """The answer to this very submission, if it is other than that the run was started."""
        if self.position is None:
            return None
        found = self._watch.answers.get(self.position.offset)
        if found is not None:
            _raise_refusal(found[1])
        return found

    def _is_ours(self, event: Event) -> bool:
        """Whether an event is of the run that this handle's submission made, or repeated.

        Another plan or input may have taken the id just before: its result is not ours, and the
        answer that says so (`run.conflicted`) may come after its end.
        """
        return self._input_hash is None or (
            event.run is not None and event.run.input_hash == self._input_hash
        )

    def _has_begun(self) -> bool:
        watch = self._watch
        if watch.end is not None and self._is_ours(watch.end):
            return True
        return watch.started is not None and self._is_ours(decode(Event, watch.started))

    async def _require_existence(self) -> None:
        """Return once there is such a run, for all that is known; raises `RunNotFound`."""
        await self._search()
        connection = self._connection
        if not self._watch.known:
            await Existence(connection.bus, connection.topics, self._watch).require()

    def _may_be_past(self) -> bool:
        """Whether the end may stand before what the watch has seen."""
        if self._searched:
            return False
        return self.position is None or self._answer() is not None

    async def _search(self) -> None:
        async with self._searching:
            if self._searched:
                return
            connection, watch = self._connection, self._watch
            answer = self._answer()
            first = 0 if answer is None else answer[1].events_from or 0
            backlog = Backlog(connection.bus, connection.topics.events, watch)
            past = await backlog.search(first, watch.start)
            self._searched = True
            watch.known = watch.known or past.known
            if past.end is not None and watch.end is None:
                watch.end = past.end
            if past.end is None and answer is not None:
                backlog.check_open(answer[1])

    async def _first_offset(self) -> int:
        """Where the run's events begin: at our submission, or where an earlier one's do."""
        if self.position is None:
            return 0
        await self.accepted()
        answer = self._answer()
        return self._watch.start if answer is None else answer[1].events_from or 0


def _json(value: Any, what: str) -> bytes:
    try:
        return encode_json(to_jsonable_python(value, bytes_mode="base64"))
    except (PydanticSerializationError, ValueError) as error:
        raise Unencodable(f"{what} cannot be written as JSON: {error}") from None


def _raise_refusal(answer: Event) -> None:
    # `command.refused`: a submission that the coordinator cannot read at all.
    if answer.type in (EventType.RUN_REFUSED, EventType.COMMAND_REFUSED):
        raise RunRefused(answer.message)
    if answer.type is EventType.RUN_CONFLICTED:
        raise RunConflict(answer.message)
