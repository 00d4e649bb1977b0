"""Schedules, as a client creates, reads and steers them: with nothing but the bus."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

from holdfast.bus.partition import partition_for
from holdfast.bus.port import Position
from holdfast.bus.topics import COORDINATOR_GROUP
from holdfast.client.errors import CommandRefused, ScheduleNotFound, WaitTimeout
from holdfast.client.run import COMMAND_WAIT_S, Connection
from holdfast.client.submission import Submissions, Work
from holdfast.client.watch import Watch
from holdfast.schemas import (
    Event,
    EventType,
    OverlapPolicy,
    Schedule,
    ScheduleAction,
    ScheduleCommand,
    ScheduleEntry,
    ScheduleError,
    ScheduleRow,
    ScheduleSpec,
    check_schedule_name,
    decode,
    next_times,
    render_schedule_input,
)
from holdfast.schemas.records import CoordinatorJournal
from holdfast.schemas.schedules import SCHEDULE_PREFIX
from holdfast.schemas.times import time_zone

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ScheduleReceipt", "Schedules"]


class Connected(Protocol):
    """What of an open client is used here."""

    @property
    def connection(self) -> Connection:
        """What all handles share."""
        ...

    @property
    def submissions(self) -> Submissions:
        """What resolves plans."""
        ...


@dataclass(frozen=True, slots=True)
class ScheduleReceipt:
    """A word about a schedule that was accepted.

    `row`: the schedule then; `position`: the word's record, which a read of the projection may
    name; `run_id`: of a trigger, the run that it asked for.
    """

    command_id: str
    position: Position
    message: str
    row: ScheduleRow
    run_id: str | None = None


class Schedules:
    """`Client.schedules`. All that change something raise `CommandRefused`, saying what the state
    is and what can be done, and `WaitTimeout` (kept, but no coordinator has answered in 10 s)."""

    def __init__(self, connect: Callable[[], Awaitable[Connected]]) -> None:
        self._connect = connect

    async def create(
        self,
        name: str,
        work: Work,
        schedule: Schedule,
        *,
        paused: bool = False,
        reason: str = "",
    ) -> ScheduleReceipt:
        """Let `work` (a plan, a task, or a task's name) be run by the clock.

        `name`: 1 to 64 small letters, digits and '-'. The plan is resolved now, and so stays until
        `update` gives it again. To repeat the call with the same arguments changes nothing. Raises
        `ScheduleError` and `PlanError` naming the field or task, and the remedy.
        """
        spec, plan = await self._prepare(name, work, schedule)
        command = await self._command(ScheduleAction.CREATE, reason)
        return await self._send(name, replace(command, spec=spec, plan=plan, paused=paused))

    async def update(
        self,
        name: str,
        schedule: Schedule,
        *,
        work: Work | None = None,
        revision: int | None = None,
        reason: str = "",
    ) -> ScheduleReceipt:
        """Give a schedule other times, another input or (`work`) another plan.

        `revision`: of the row that the change was made from; refused if somebody else was faster.
        What was due before it is dealt with by the old times; from then on the new ones hold.
        """
        plan: str | None = None
        if work is None:
            row = await self.get(name)
            spec = schedule.spec(row.spec.plan_name)
        else:
            spec, plan = await self._prepare(name, work, schedule)
        command = await self._command(ScheduleAction.UPDATE, reason)
        return await self._send(name, replace(command, spec=spec, plan=plan, revision=revision))

    async def pause(self, name: str, *, reason: str = "") -> ScheduleReceipt:
        """Start no more runs by the clock; those that are open go on."""
        return await self._send(name, await self._command(ScheduleAction.PAUSE, reason))

    async def resume(self, name: str, *, reason: str = "") -> ScheduleReceipt:
        """Go on after `pause`; times of the last `catch_up_s` are made good."""
        return await self._send(name, await self._command(ScheduleAction.RESUME, reason))

    async def delete(self, name: str, *, reason: str = "") -> ScheduleReceipt:
        """Forget the schedule; runs that it has started go on."""
        return await self._send(name, await self._command(ScheduleAction.DELETE, reason))

    async def trigger(
        self,
        name: str,
        *,
        overlap: OverlapPolicy | None = None,
        trigger_id: str | None = None,
        reason: str = "",
    ) -> ScheduleReceipt:
        """Start a run now. `overlap`: instead of the schedule's own policy.

        `trigger_id`: repeat the call with it as often as you like, there is one run.
        """
        command = await self._command(ScheduleAction.TRIGGER, reason)
        command = replace(command, overlap=overlap, command_id=trigger_id or command.command_id)
        return await self._send(name, command)

    async def backfill(
        self,
        name: str,
        start: datetime,
        end: datetime,
        *,
        parallel: int = 1,
        reason: str = "",
    ) -> ScheduleReceipt:
        """Start the runs of all due times from `start` to before `end`, which have passed.

        In their order, `parallel` at once; those that have run before (within the dedupe window)
        do not run again. Times without a zone are of the schedule's own.
        """
        zone = time_zone((await self.get(name)).spec.timezone)
        bounds = [
            round((at if at.tzinfo else at.replace(tzinfo=zone)).timestamp() * 1_000)
            for at in (start, end)
        ]
        command = await self._command(ScheduleAction.BACKFILL, reason)
        return await self._send(
            name, replace(command, from_ms=bounds[0], to_ms=bounds[1], parallel=parallel)
        )

    async def get(self, name: str) -> ScheduleRow:
        """Return a schedule as the coordinator has committed it; raises `ScheduleNotFound`."""
        check_schedule_name(name)
        connection = (await self._connect()).connection
        key = f"{SCHEDULE_PREFIX}{name}"
        partition = partition_for(key.encode(), connection.feed.partitions)
        found = (await _journaled(connection, partition)).get(key)
        if found is None:
            raise ScheduleNotFound(name)
        return found

    async def list(self) -> list[ScheduleRow]:
        """Return all schedules, by name. Reads the coordinators' whole journal."""
        connection = (await self._connect()).connection
        found: dict[str, ScheduleRow] = {}
        for partition in range(connection.feed.partitions):
            found |= await _journaled(connection, partition)
        return [found[key] for key in sorted(found)]

    async def next_times(self, name: str, count: int = 5) -> tuple[datetime, ...]:
        """Return when it is due next, in its time zone; without jitter, as if it were active."""
        connection = (await self._connect()).connection
        spec = (await self.get(name)).spec
        zone = time_zone(spec.timezone)
        found = next_times(spec, connection.environment.now_ms(), count)
        return tuple(datetime.fromtimestamp(at / 1_000, zone) for at in found)

    # --- how -------------------------------------------------------------------------------------

    async def _prepare(self, name: str, work: Work, schedule: Schedule) -> tuple[ScheduleSpec, str]:
        """Return spec and resolved plan, checked with the input of the next due time."""
        check_schedule_name(name)
        connected = await self._connect()
        now_ms = connected.connection.environment.now_ms()
        spec = schedule.spec("")
        following = next_times(spec, now_ms, 1)
        if not following:
            raise ScheduleError("schedule: it is never due any more: no time lies before its end")
        value = render_schedule_input(spec, name, following[0])
        prepared = await connected.submissions.prepare(work, value, None, None)
        return replace(spec, plan_name=prepared.plan_name), prepared.resolved

    async def _command(self, action: ScheduleAction, reason: str) -> ScheduleCommand:
        connection = (await self._connect()).connection
        command_id = connection.environment.new_id()
        return ScheduleCommand(command_id, action, connection.actor, reason)

    async def _send(self, name: str, command: ScheduleCommand) -> ScheduleReceipt:
        check_schedule_name(name)
        connection = (await self._connect()).connection
        key = f"{SCHEDULE_PREFIX}{name}"
        watch = Watch(key, partition_for(key.encode(), connection.feed.partitions))
        await connection.feed.add(watch)
        position = await connection.send(key, key, command)
        event = await _answer(watch, position, f"{command.action} of schedule {name!r}")
        if event.type is EventType.SCHEDULE_REFUSED:
            raise CommandRefused(event.message)
        assert event.schedule is not None, "the coordinator writes whole rows"
        run_id = None
        if event.type is EventType.SCHEDULE_TRIGGERED:
            run_id = event.message.removeprefix("run ").partition(" ")[0].rstrip(":")
        return ScheduleReceipt(command.command_id, position, event.message, event.schedule, run_id)


async def _answer(watch: Watch, position: Position, what: str) -> Event:
    try:
        async with asyncio.timeout(COMMAND_WAIT_S):
            while (answer := watch.answers.get(position.offset)) is None:
                if watch.error is not None:
                    raise watch.error
                await watch.changed()
    except TimeoutError:
        raise WaitTimeout(
            f"{what} is kept, but no coordinator has answered within {COMMAND_WAIT_S:g} s: is one"
            " running?"
        ) from None
    return answer[1]


async def _journaled(connection: Connection, partition: int) -> Mapping[str, ScheduleRow]:
    """Return the schedules of one partition of the coordinators' journal, by key."""
    found: dict[str, bytes] = {}
    journal = connection.topics.journal(COORDINATOR_GROUP)
    async for records in connection.bus.read(journal, partition):
        for record in records:
            key = (record.key or b"").decode("utf-8", "replace")
            if not key.startswith(SCHEDULE_PREFIX) or key.count("/") > 1:
                continue
            found.pop(key, None)
            if record.value is not None:
                found[key] = record.value
    rows: dict[str, ScheduleRow] = {}
    for key, value in found.items():
        body = decode(CoordinatorJournal, value).body
        if isinstance(body, ScheduleEntry):
            rows[key] = body.row
    return rows
