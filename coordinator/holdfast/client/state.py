"""What an agent keeps under an order key, as somebody outside reads it and has it deleted.

Read from the agent's journal, which is compacted by key: no process is asked for its memory, and
none has to run. It is what was committed when the reading began. A deletion is a word to the slot
that has the key, which carries it out between two tasks; its event is the answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar, overload

from holdfast.bus.errors import TopicMissing
from holdfast.bus.partition import partition_for
from holdfast.bus.port import Record
from holdfast.bus.topics import check_name
from holdfast.client.errors import ClientError, WaitTimeout
from holdfast.client.run import COMMAND_WAIT_S, Connection
from holdfast.client.watch import Watch
from holdfast.schemas import (
    ORDER_KEY_CHARS_MAX,
    AgentJournal,
    ConfigurationError,
    ControlAction,
    ControlEnvelope,
    Event,
    StateDeletion,
    StateEntry,
    Undecodable,
    check_state_name,
    decode,
    encode,
    order_record_key,
    parse_state_key,
    state_entity,
)

__all__ = ["Connect", "KeyState", "StateDeleted", "StatePlace", "list_state"]

T = TypeVar("T")

TEXT_CHARS_MAX = 1_000
"""Of the reason for a deletion."""


class StatePlace(NamedTuple):
    """Where something is kept, and since when.

    `task`: `<run id>/<task id>`, whose success wrote it. `size_bytes`: of the value, as Avro.
    """

    order_key: str
    name: str
    size_bytes: int
    task: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class StateDeleted:
    """A deletion that was carried out; `names`: what was there."""

    deletion_id: str
    names: tuple[str, ...]


class _Connected(Protocol):
    @property
    def connection(self) -> Connection: ...


Connect = Callable[[], Awaitable[_Connected]]


class KeyState:
    """What one agent keeps under one order key. Made by `Client.state`."""

    def __init__(self, connect: Connect, agent: str, order_key: str) -> None:
        check_name(agent, "agent")
        if not 0 < len(order_key) <= ORDER_KEY_CHARS_MAX:
            raise ConfigurationError(f"an order key has 1 to {ORDER_KEY_CHARS_MAX} characters")
        self.agent = agent
        self.order_key = order_key
        self._connect = connect

    def __repr__(self) -> str:
        return f"<KeyState {self.agent!r} {self.order_key!r}>"

    async def places(self) -> dict[str, StatePlace]:
        """Return what is kept, by name, without the values. Raises as `documents`."""
        return {name: _place(self.order_key, name, entry) for name, entry in await self._entries()}

    async def documents(self) -> dict[str, Any]:
        """Return what is kept, by name, as plain Python (what JSON has); {} if nothing is.

        Raises `ClientError` (there is no such agent), `BusUnavailable`, `Undecodable`,
        `UnknownSchema`.
        """
        payloads = (await self._connect()).connection.payloads
        return {name: await payloads.document(e.value) for name, e in await self._entries()}

    @overload
    async def get(self, name: str) -> Any: ...

    @overload
    async def get(self, name: str, kind: type[T]) -> T | None: ...

    async def get(self, name: str, kind: Any = None) -> Any:
        """Return what is kept under `name`, as a `kind` if one is given; None if nothing is.

        Raises as `documents`, and `DoesNotFit`.
        """
        check_state_name(name)
        found = dict(await self._entries()).get(name)
        if found is None:
            return None
        payloads = (await self._connect()).connection.payloads
        if kind is None:
            return await payloads.document(found.value)
        return await payloads.value(found.value, kind)

    async def delete(
        self, name: str | None = None, *, reason: str, timeout_s: float = COMMAND_WAIT_S
    ) -> StateDeleted:
        """Have it deleted, all names or one; return once that is committed, and in the audit trail.

        While a task of the key is at work, rests, or waits for its next attempt, the deletion waits
        for its end; tasks that come after it find nothing. Raises `WaitTimeout` after `timeout_s`
        (it is kept, and will be carried out), `ClientError`.
        """
        if name is not None:
            check_state_name(name)
        if not reason.strip() or len(reason) > TEXT_CHARS_MAX:
            raise ClientError(f"say why, in 1 to {TEXT_CHARS_MAX} characters: the audit trail asks")
        connection, entity = (await self._connect()).connection, state_entity(self.agent)
        await _partitions(connection, self.agent)
        deletion = StateDeletion(
            connection.environment.new_id(),
            self.order_key,
            name,
            connection.actor,
            reason,
            connection.environment.now_ms(),
        )
        watch = Watch(entity, partition_for(entity.encode(), connection.feed.partitions))
        await connection.feed.add(watch)
        with watch.subscribed() as queue:
            await connection.outbox.send(self._word(connection, deletion))
            try:
                async with asyncio.timeout(timeout_s):
                    return await _answer(watch, queue, deletion.deletion_id)
            except TimeoutError:
                raise WaitTimeout(
                    f"the deletion is kept, and was not carried out within {timeout_s:g} s: a task "
                    f"of order key {self.order_key!r} is open (the deletion follows its end), or "
                    f"no process of agent {self.agent!r}, or no coordinator, is running"
                ) from None

    def _word(self, connection: Connection, deletion: StateDeletion) -> Record:
        control = ControlEnvelope(
            "", "", 0, ControlAction.DELETE_STATE, "", "", deletion.sent_ms, None, deletion
        )
        topic = connection.topics.control(self.agent)
        return Record(topic, order_record_key(self.order_key), encode(control))

    async def _entries(self) -> list[tuple[str, StateEntry]]:
        connection = (await self._connect()).connection
        count = await _partitions(connection, self.agent)
        partition = partition_for(order_record_key(self.order_key), count)
        found = await _read(connection, self.agent, partition, self.order_key)
        return [(name, _entry(record)) for (_, name), record in sorted(found.items())]


async def list_state(connect: Connect, agent: str) -> AsyncIterator[StatePlace]:
    """Yield everything that an agent keeps, slot by slot, sorted in each; see `Client.states`."""
    check_name(agent, "agent")
    connection = (await connect()).connection
    for partition in range(await _partitions(connection, agent)):
        found = await _read(connection, agent, partition, None)
        for order_key, name in sorted(found):
            yield _place(order_key, name, _entry(found[order_key, name]))


async def _partitions(connection: Connection, agent: str) -> int:
    journal = connection.topics.journal(agent)
    found = await connection.bus.describe_topics([journal])
    if journal not in found:
        raise TopicMissing(
            f"there is no agent {agent!r} on {connection.bus.url}: no process of it has ever run "
            "here (`holdfast agents` lists those that have)"
        )
    return found[journal].partitions


async def _read(
    connection: Connection, agent: str, partition: int, order_key: str | None
) -> dict[tuple[str, str], bytes]:
    """Return the newest record of each (order key, name) of a slot, of one key or of all."""
    found: dict[tuple[str, str], bytes] = {}
    async for records in connection.bus.read(connection.topics.journal(agent), partition):
        for received in records:
            key = parse_state_key((received.key or b"").decode("utf-8", "replace"))
            if key is None or (order_key is not None and key[0] != order_key):
                continue
            if received.value is None:
                found.pop(key, None)
            else:
                found[key] = received.value
    return found


def _entry(record: bytes) -> StateEntry:
    body = decode(AgentJournal, record).body
    if not isinstance(body, StateEntry):
        raise Undecodable(f"a {type(body).__name__} under the journal key of a state")
    return body


def _place(order_key: str, name: str, entry: StateEntry) -> StatePlace:
    return StatePlace(order_key, name, len(entry.value), entry.task, entry.at_ms)


async def _answer(
    watch: Watch, queue: asyncio.Queue[tuple[int, bytes] | None], deletion_id: str
) -> StateDeleted:
    while (raw := await queue.get()) is not None:
        deletion = decode(Event, raw[1]).deletion
        if deletion is not None and deletion.deletion_id == deletion_id:
            return StateDeleted(deletion_id, tuple(deletion.deleted))
    raise watch.error or ClientError("the events are not followed any more")
