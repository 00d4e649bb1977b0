"""Schemas of users' types, by id: the port, and the registry that stands on the bus itself.

`schemas` is a topic of one partition, and its writer is a slot like any other: to register means to
open the slot's writer (which fences whoever was at it), read to the end, assign the next id,
commit. Two that register at once fence each other; the loser reads again and mostly finds that
nothing is left to be done. No process holds the registry, and there is nothing to keep running.

Uses: the bus, `schemas`. Must never: forget or change an id.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from holdfast.bus.errors import BusUnavailable, Fenced, OffsetOutOfRange, OutcomeUnknown
from holdfast.bus.port import Environment, Received, Record, Slot, TopicPartition, Writer
from holdfast.bus.topics import SCHEMAS_GROUP, Topics
from holdfast.schemas.codec import decode, encode
from holdfast.schemas.compatibility import Compatibility, check_compatible
from holdfast.schemas.errors import SchemaError, Undecodable, UnknownSchema
from holdfast.schemas.ids import FIRST_USER_ID, own_schema
from holdfast.schemas.records import SchemaEntry
from holdfast.schemas.wire import CompiledSchema, compile_schema

__all__ = ["BusRegistry", "RegisteredSchema", "Registry", "input_subject", "output_subject"]

logger = logging.getLogger(__name__)

REGISTER_ATTEMPTS_MAX = 25
REGISTER_PAUSE_S = 0.05
"""Pause after being fenced: drawn from this, and from twice as much after each attempt."""
REGISTER_PAUSE_MAX_S = 2.0
POLL_S = 5.0
FOLLOW_PAUSE_MAX_S = 10.0
READ_TO_END_S = 10.0
"""How long `schema` follows the topic before it calls the registry out of reach."""


@dataclass(frozen=True, slots=True)
class RegisteredSchema:
    """One version of one subject. `schema` is parsed JSON; not to be changed."""

    subject: str
    version: int
    schema_id: int
    schema: Any


class Registry(Protocol):
    """Where schemas are kept. All but `known` may raise `BusUnavailable`."""

    def known(self, schema_id: int) -> Any | None:
        """Return a schema (parsed JSON) if it is known here; no I/O."""
        ...

    async def find(self, schema_id: int, timeout_s: float) -> bool:
        """Wait until a schema is known here, at most `timeout_s`; tell whether it is."""
        ...

    async def schema(self, schema_id: int) -> Any:
        """Return a schema; raises `UnknownSchema` once all that is registered by now is known."""
        ...

    async def register(
        self, subject: str, schema: Any, mode: Compatibility = Compatibility.BACKWARD
    ) -> int:
        """Make `schema` the newest version of `subject` and return its id; safe to repeat.

        A schema that any subject has keeps its id; one that this subject has already (two builds
        of an agent side by side, a step back to an older one) makes no new version. Raises
        `IncompatibleSchema` if the newest version so far may not be followed by it.
        """
        ...

    async def latest(self, subject: str) -> RegisteredSchema | None:
        """Return the newest version of a subject, as far as it is known here."""
        ...

    async def subjects(self) -> list[str]:
        """Return all subjects, sorted."""
        ...

    async def versions(self, subject: str) -> list[RegisteredSchema]:
        """Return a subject's versions, oldest first; [] for an unknown one."""
        ...


def input_subject(agent: str, task: str) -> str:
    """Return the subject of a task's input."""
    return f"{agent}.{task}.input"


def output_subject(agent: str, task: str) -> str:
    """Return the subject of a task's output."""
    return f"{agent}.{task}.output"


class BusRegistry:
    """The registry on the bus's own `schemas` topic. `start` reads it, then follows it."""

    def __init__(self, environment: Environment, topics: Topics) -> None:
        self._environment = environment
        self._bus = environment.bus
        self._partition = TopicPartition(topics.schemas, 0)
        self._slot = Slot(topics.group(SCHEMAS_GROUP), 0)
        self._catalog = _Catalog()
        self._position = 0
        self._news = asyncio.Condition()
        self._registering = asyncio.Lock()
        self._follower: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read all that is registered; raises `BusUnavailable`, `TopicMissing`."""
        await self._read_to_end()
        self._follower = asyncio.create_task(self._follow(), name="schema registry")

    async def close(self) -> None:
        """Stop following; never raises."""
        follower, self._follower = self._follower, None
        if follower is not None:
            follower.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await follower

    def known(self, schema_id: int) -> Any | None:
        """Return a schema (parsed JSON) if it is known here; no I/O."""
        found = self._catalog.by_id.get(schema_id)
        if found is None and schema_id < FIRST_USER_ID:
            with contextlib.suppress(UnknownSchema):
                return own_schema(schema_id)
        return found

    async def find(self, schema_id: int, timeout_s: float) -> bool:
        """Wait until a schema is known here, at most `timeout_s`; tell whether it is."""
        if self.known(schema_id) is None:
            with contextlib.suppress(TimeoutError):
                await self._wait_until(lambda: self.known(schema_id) is not None, timeout_s)
        return self.known(schema_id) is not None

    async def schema(self, schema_id: int) -> Any:
        """Return a schema; raises `UnknownSchema` once all that is registered by now is known."""
        if self.known(schema_id) is None:
            end = (await self._bus.end_offsets([self._partition]))[self._partition]
            try:
                await self._wait_until(
                    lambda: self.known(schema_id) is not None or self._position >= end,
                    READ_TO_END_S,
                )
            except TimeoutError:
                raise BusUnavailable(
                    f"the schemas could not be read to their end within {READ_TO_END_S:g} s"
                ) from None
        found = self.known(schema_id)
        if found is None:
            raise UnknownSchema(f"schema id {schema_id} is not in the registry")
        return found

    async def register(
        self, subject: str, schema: Any, mode: Compatibility = Compatibility.BACKWARD
    ) -> int:
        """Make `schema` the newest version of `subject` and return its id; safe to repeat.

        A schema that any subject has keeps its id; one that this subject has already (two builds
        of an agent side by side, a step back to an older one) makes no new version. Raises
        `IncompatibleSchema` if the newest version so far may not be followed by it,
        `BusUnavailable`.
        """
        compiled = compile_schema(schema)
        async with self._registering:
            for attempt in range(REGISTER_ATTEMPTS_MAX):
                found = self._catalog.id_in(subject, compiled)
                if found is not None:
                    return found
                try:
                    return await self._register_once(subject, compiled, mode)
                except OutcomeUnknown as error:
                    # Nothing is read before the next writer has decided what this one left open:
                    # reading would wait until that transaction times out.
                    logger.info("registering %s again: %s", subject, error)
                    await self._pause(attempt)
                except Fenced as error:
                    logger.info("registering %s again: %s", subject, error)
                    await self._pause(attempt)
                    await self._read_to_end()
        raise BusUnavailable(
            f"schema of {subject!r}: others were faster {REGISTER_ATTEMPTS_MAX} times;"
            " start fewer agents at once, or try again"
        )

    async def latest(self, subject: str) -> RegisteredSchema | None:
        """Return the newest version of a subject, as far as it is known here."""
        return self._catalog.newest(subject)

    async def subjects(self) -> list[str]:
        """Return all subjects, sorted."""
        return sorted(self._catalog.by_subject)

    async def versions(self, subject: str) -> list[RegisteredSchema]:
        """Return a subject's versions, oldest first; [] for an unknown one."""
        return list(self._catalog.by_subject.get(subject, ()))

    # -- writing ---------------------------------------------------------------------------------

    async def _register_once(
        self, subject: str, compiled: CompiledSchema, mode: Compatibility
    ) -> int:
        # From here on no other can commit; so what is read now is all there is.
        writer = await self._bus.open_writer(self._slot)
        try:
            await self._read_to_end()
            found = self._catalog.id_in(subject, compiled)
            if found is not None:
                return found
            newest = self._catalog.newest(subject)
            if newest is not None:
                check_compatible(
                    newest.schema,
                    compiled.json,
                    mode,
                    subject=subject,
                    old_version=newest.version,
                )
            entry = SchemaEntry(
                subject=subject,
                subject_version=1 if newest is None else newest.version + 1,
                schema_id=self._catalog.id_for(compiled),
                schema=compiled.text,
            )
            await self._commit(writer, entry)
        finally:
            await writer.close()
        self._catalog.add(entry)
        await self._tell()
        return entry.schema_id

    async def _commit(self, writer: Writer, entry: SchemaEntry) -> None:
        record = Record(
            topic=self._partition.topic,
            key=f"{entry.subject}/{entry.subject_version}".encode(),
            value=encode(entry),
            partition=0,
        )
        await writer.prepare([record.topic])
        writer.check(record)
        await writer.commit([record], {})

    async def _pause(self, attempt: int) -> None:
        longest_s = min(REGISTER_PAUSE_MAX_S, REGISTER_PAUSE_S * 2**attempt)
        await asyncio.sleep(longest_s * self._environment.random.random())

    # -- reading ---------------------------------------------------------------------------------

    async def _read_to_end(self) -> None:
        end = (await self._bus.end_offsets([self._partition]))[self._partition]
        # A copy: the follower may be further already, and reading twice changes nothing.
        start = min(self._position, end)
        async for batch in self._bus.read(self._partition.topic, 0, start, end):
            self._apply(batch)
        await self._advance(end)

    async def _follow(self) -> None:
        pause_s = 0.1
        while True:
            try:
                await self._follow_reader()
            except OffsetOutOfRange:
                self._position = (await self._bus.begin_offsets([self._partition]))[self._partition]
            except Exception as error:  # noqa: BLE001 - a follower that ends would be missed by none
                logger.warning("schemas cannot be followed, trying again: %s", error)
                await asyncio.sleep(pause_s)
                pause_s = min(FOLLOW_PAUSE_MAX_S, pause_s * 2)

    async def _follow_reader(self) -> None:
        reader = await self._bus.open_reader({self._partition: self._position})
        try:
            while True:
                self._apply(await reader.poll(POLL_S))
                await self._advance(reader.position(self._partition))
        finally:
            await reader.close()

    def _apply(self, batch: Sequence[Received]) -> None:
        for record in batch:
            if record.value is None:
                continue
            try:
                entry = decode(SchemaEntry, record.value)
                self._catalog.add(entry)
            except (Undecodable, SchemaError) as error:
                # One bad record must not take the registry from everybody.
                logger.error("%s passed over: %s", record.position, error)  # noqa: TRY400

    async def _advance(self, position: int) -> None:
        self._position = max(self._position, position)
        await self._tell()

    async def _tell(self) -> None:
        async with self._news:
            self._news.notify_all()

    async def _wait_until(self, condition: Callable[[], bool], timeout_s: float) -> None:
        async with asyncio.timeout(timeout_s), self._news:
            await self._news.wait_for(condition)


class _Catalog:
    """What has been read. Adding the same entry twice changes nothing."""

    def __init__(self) -> None:
        self.by_id: dict[int, Any] = {}
        self.by_subject: dict[str, list[RegisteredSchema]] = {}
        self._ids: dict[str, int] = {}

    def add(self, entry: SchemaEntry) -> None:
        try:
            compiled = compile_schema(json.loads(entry.schema))
        except ValueError as error:
            raise SchemaError(f"schema id {entry.schema_id} holds no JSON: {error}") from None
        known = self.by_id.get(entry.schema_id)
        if known is None:
            self.by_id[entry.schema_id] = compiled.json
            self._ids.setdefault(compiled.text, entry.schema_id)
        elif compile_schema(known).text != compiled.text:
            raise SchemaError(f"schema id {entry.schema_id} stands for another schema already")
        versions = self.by_subject.setdefault(entry.subject, [])
        if all(version.version != entry.subject_version for version in versions):
            versions.append(
                RegisteredSchema(
                    entry.subject,
                    entry.subject_version,
                    entry.schema_id,
                    self.by_id[entry.schema_id],
                )
            )
            versions.sort(key=lambda version: version.version)

    def newest(self, subject: str) -> RegisteredSchema | None:
        versions = self.by_subject.get(subject)
        return versions[-1] if versions else None

    def id_in(self, subject: str, compiled: CompiledSchema) -> int | None:
        """Return the id of a schema if any version of the subject is it."""
        schema_id = self._ids.get(compiled.text)
        versions = self.by_subject.get(subject, ())
        return schema_id if any(each.schema_id == schema_id for each in versions) else None

    def id_for(self, compiled: CompiledSchema) -> int:
        """Return the id of a schema: the one it has, or the next that is free."""
        found = self._ids.get(compiled.text)
        return max([FIRST_USER_ID - 1, *self.by_id]) + 1 if found is None else found
