"""Agents, as an operator pauses and resumes them, or one order key at them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from holdfast.bus.partition import partition_for
from holdfast.bus.topics import COORDINATOR_GROUP, check_name
from holdfast.client.errors import CommandRefused, WaitTimeout
from holdfast.client.receipts import CommandReceipt
from holdfast.client.run import COMMAND_WAIT_S, Connection
from holdfast.client.watch import Watch
from holdfast.schemas import (
    AgentPause,
    Command,
    CommandAction,
    ConfigurationError,
    CoordinatorJournal,
    Event,
    EventType,
    decode,
    did_you_mean,
)
from holdfast.schemas.command_arguments import PauseArguments
from holdfast.schemas.pauses import agent_entity

__all__ = ["Agents"]


class Connected(Protocol):
    """What of an open client is used here."""

    @property
    def connection(self) -> Connection:
        """What all handles share."""
        ...


class Agents:
    """`Client.agents`. Both words raise `CommandRefused` (it is so already, or there is no such
    agent) and `WaitTimeout` (kept, but no coordinator has answered in 10 s)."""

    def __init__(self, connect: Callable[[], Awaitable[Connected]]) -> None:
        self._connect = connect

    async def pause(
        self, agent: str, *, order_key: str | None = None, reason: str = ""
    ) -> CommandReceipt:
        """Let an agent begin nothing more, or nothing of one order key, until it is resumed.

        What it has begun goes on to its end. The pause outlives restarts and new instances; it
        counts at each slot from when that has read it.
        """
        return await self._send(CommandAction.PAUSE, agent, order_key, reason)

    async def resume(
        self, agent: str, *, order_key: str | None = None, reason: str = ""
    ) -> CommandReceipt:
        """Go on after `pause` of the same agent or order key."""
        return await self._send(CommandAction.RESUME, agent, order_key, reason)

    async def require(self, *agents: str) -> None:
        """Raise `CommandRefused` naming the first of these that has no topics here."""
        connection = (await self._connect()).connection
        topics = await connection.bus.describe_topics()
        prefix = connection.topics.tasks("x").removesuffix("x")
        known = sorted(name.removeprefix(prefix) for name in topics if name.startswith(prefix))
        for agent in agents:
            if check_name(agent, "agent") not in known:
                hint = did_you_mean(agent, known)
                raise CommandRefused(
                    f"agent {agent!r} has no topics here{hint}; start it once, or correct the name"
                )

    async def paused(self, agent: str) -> list[AgentPause]:
        """Return what of an agent is paused, as committed: the whole agent first, then keys.

        Reads one partition of the coordinators' journal.
        """
        connection = (await self._connect()).connection
        entity = agent_entity(check_name(agent, "agent"))
        partition = partition_for(entity.encode(), connection.feed.partitions)
        found: dict[str, bytes] = {}
        journal = connection.topics.journal(COORDINATOR_GROUP)
        async for records in connection.bus.read(journal, partition):
            for record in records:
                key = (record.key or b"").decode("utf-8", "replace")
                if not key.startswith(f"{entity}/"):
                    continue
                found.pop(key, None)
                if record.value is not None:
                    found[key] = record.value
        bodies = [decode(CoordinatorJournal, value).body for value in found.values()]
        pauses = [body for body in bodies if isinstance(body, AgentPause)]
        return sorted(pauses, key=lambda each: (each.order_key is not None, each.order_key or ""))

    async def _send(
        self, action: CommandAction, agent: str, order_key: str | None, reason: str
    ) -> CommandReceipt:
        connection = (await self._connect()).connection
        entity = agent_entity(check_name(agent, "agent"))
        if order_key == "":
            raise ConfigurationError(
                "an order key is not empty; without one all of the agent is meant"
            )
        command_id = connection.environment.new_id()
        arguments = PauseArguments(order_key=order_key).to_json()
        command = Command(command_id, action, None, arguments, connection.actor, reason)
        watch = Watch(entity, partition_for(entity.encode(), connection.feed.partitions))
        await connection.feed.add(watch)
        position = await connection.send(entity, entity, command)
        event = await _answer(watch, position.offset, f"{action} of agent {agent!r}")
        if event.type is EventType.COMMAND_REFUSED:
            raise CommandRefused(event.message)
        return CommandReceipt(command_id, position, event.message)


async def _answer(watch: Watch, offset: int, what: str) -> Event:
    try:
        async with asyncio.timeout(COMMAND_WAIT_S):
            while (answer := watch.answers.get(offset)) is None:
                if watch.error is not None:
                    raise watch.error
                await watch.changed()
    except TimeoutError:
        raise WaitTimeout(
            f"{what} is kept, but no coordinator has answered within {COMMAND_WAIT_S:g} s: is one"
            " running?"
        ) from None
    return answer[1]
