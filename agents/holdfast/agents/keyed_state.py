"""`ctx.state`: what an agent keeps under an order key, from one task to the next.

Reads give what is committed, and over it what this execution has set. What it has set is kept in
memory and written in the commit that closes the attempt with success. The key is closed while its
task is open, so no other task of the key, and no later execution of this one, sees it change.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, overload

from holdfast.agents.errors import DefinitionError, Parked, StateMismatch, StateTooLarge
from holdfast.agents.payloads import patiently
from holdfast.bus.registry import Registry
from holdfast.schemas import (
    ConfigurationError,
    DoesNotFit,
    IncompatibleSchema,
    PayloadCodec,
    Undecodable,
    Unencodable,
    UnknownSchema,
    UnsupportedType,
    frame_prefix,
    reading_problem,
    type_name,
    unframe,
)
from holdfast.schemas.records import TaskEnvelope
from holdfast.schemas.state_keys import (
    STATE_NAMES_MAX,
    STATE_VALUE_BYTES_MAX,
    check_state_name,
    state_subject,
)

if TYPE_CHECKING:
    from holdfast.agents.execution import Execution

__all__ = ["State", "StateJournal", "StateTypes", "StateUse", "SyncState"]

T = TypeVar("T")
D = TypeVar("D")

STATE_WRITTEN_BYTES_MAX = 4 * 1024 * 1024
"""All that one attempt sets: it goes into one commit, with its result."""
_NOT_REGISTERED = 0


class StateJournal(Protocol):
    """What an execution may ask of its slot about its order key."""

    def read(self, name: str) -> bytes | None:
        """Return a committed value, framed."""
        ...

    def names(self) -> Collection[str]:
        """Return the names under which something is committed."""
        ...

    def room_bytes(self) -> int:
        """Return how many bytes the slot may still take."""
        ...

    def is_here(self, order_key: str) -> bool:
        """Tell whether the order key belongs to this slot."""
        ...


class StateTypes:
    """The types of an agent's values, as schemas. `declared`: what `Agent(state=...)` was given."""

    def __init__(self, agent: str, registry: Registry, declared: Mapping[str, Any]) -> None:
        self.agent = agent
        self.registry = registry
        self._declared = declared
        self._codecs: dict[tuple[str, Any], PayloadCodec[Any]] = {}
        self._ids: dict[PayloadCodec[Any], int] = {}

    async def start(self) -> None:
        """Register what is declared.

        Raises `UnsupportedType` and `IncompatibleSchema`, naming agent and state.
        """
        for name, kind in self._declared.items():
            try:
                await self.register(name, PayloadCodec(kind))
            except UnsupportedType as error:
                raise UnsupportedType(f"state {name!r} of agent {self.agent!r}: {error}") from None

    def declared(self, name: str) -> Any | None:
        """Return the type that was declared; raises `DefinitionError` for a name that was not."""
        kind = self._declared.get(name)
        if kind is None and self._declared:
            known = ", ".join(sorted(self._declared))
            raise DefinitionError(
                f"agent {self.agent!r} declares no state {name!r}; it has: {known}. Add it to "
                f"Agent({self.agent!r}, state=...)"
            )
        return kind

    def codec(self, name: str, kind: Any) -> PayloadCodec[Any]:
        """Return the codec of a name's values; raises `DefinitionError`."""
        declared = self.declared(name)
        if declared is not None and kind != declared:
            raise DefinitionError(
                f"state {name!r} of agent {self.agent!r} is declared as {type_name(declared)}, "
                f"and used as {type_name(kind)}"
            )
        try:
            found = self._codecs.get((name, kind))
            if found is None:
                found = self._codecs[name, kind] = PayloadCodec(kind)
        except (UnsupportedType, TypeError) as error:
            raise DefinitionError(f"state {name!r} of agent {self.agent!r}: {error}") from None
        return found

    async def register(self, name: str, codec: PayloadCodec[Any]) -> int:
        """Return the id of the codec's schema; raises `IncompatibleSchema`."""
        known = self._ids.get(codec)
        if known is None:
            subject = state_subject(self.agent, name)
            known = await patiently(
                "schema registry", lambda: self.registry.register(subject, codec.schema)
            )
            self._ids[codec] = known
        return known

    async def decode(self, codec: PayloadCodec[Any], data: bytes) -> Any:
        """Return a value; raises `Undecodable`, `DoesNotFit`, `UnknownSchema`."""
        try:
            return codec.decode(data, self.registry.known)
        except UnknownSchema:
            schema_id = unframe(data)[0]
            await patiently("schema registry", lambda: self.registry.schema(schema_id))
            return codec.decode(data, self.registry.known)

    def problem(self, codec: PayloadCodec[Any], data: bytes) -> str | None:
        """Return the field for which a type cannot read what another one has written."""
        writer = self.registry.known(unframe(data)[0])
        return None if writer is None else reading_problem(codec.schema, writer)


@dataclass(frozen=True, slots=True)
class _Set:
    """A value that this execution has set; `data` is framed under no schema yet."""

    codec: PayloadCodec[Any]
    data: bytes


class StateUse:
    """The state as one execution sees it.

    `over` raises `asyncio.CancelledError` once the attempt has ended; `park` ends it, whatever its
    handler does about the error.
    """

    def __init__(
        self,
        envelope: TaskEnvelope,
        journal: StateJournal,
        types: StateTypes,
        over: Callable[[], None],
        park: Callable[[Parked], Parked],
    ) -> None:
        self._order_key = _order_key(envelope, journal, types.agent)
        self._journal = journal
        self._types = types
        self._over = over
        self._park = park
        self._changes: dict[str, _Set | None] = {}
        self._read_as: dict[str, Any] = {}

    async def get(self, name: str, kind: Any, default: Any) -> Any:
        """See `State.get`."""
        self._begin(name)
        codec = self._types.codec(name, kind)
        self._read_as[name] = kind
        if name in self._changes:
            change = self._changes[name]
            data = None if change is None else await self._framed(name, change)
        else:
            data = self._journal.read(name)
        if data is None:
            return default
        try:
            return await self._types.decode(codec, data)
        except (Undecodable, DoesNotFit, UnknownSchema) as error:
            why = self._types.problem(codec, data) or str(error)
            raise self._mismatch(name, f"cannot be read as {type_name(kind)}: {why}") from None

    def set(self, name: str, value: Any, kind: Any = None) -> None:
        """See `State.set`."""
        self._begin(name)
        if value is None:
            raise DefinitionError(
                f"state {name!r} cannot be None: to keep nothing, delete it: "
                f"ctx.state.delete({name!r})"
            )
        if kind is None:
            kind = self._types.declared(name) or self._read_as.get(name) or type(value)
        codec = self._types.codec(name, kind)
        try:
            data = codec.encode(value, _NOT_REGISTERED)
        except Unencodable as error:
            raise DefinitionError(
                f"state {name!r} of agent {self._types.agent!r} is no {type_name(kind)}: {error}"
            ) from None
        self._check_room(name, len(data))
        self._changes[name] = _Set(codec, data)

    def delete(self, name: str) -> None:
        """See `State.delete`."""
        self._begin(name)
        self._changes[name] = None

    async def close(self) -> dict[str, bytes | None]:
        """Return what the commit of the success writes; None deletes."""
        return {
            name: None if change is None else await self._framed(name, change)
            for name, change in self._changes.items()
        }

    def _begin(self, name: str) -> None:
        self._over()
        try:
            check_state_name(name)
        except ConfigurationError as error:
            raise DefinitionError(str(error)) from None

    async def _framed(self, name: str, change: _Set) -> bytes:
        try:
            schema_id = await self._types.register(name, change.codec)
        except IncompatibleSchema as error:
            raise self._mismatch(name, f"may not change its type so: {error}") from None
        return frame_prefix(schema_id) + change.data[len(frame_prefix(_NOT_REGISTERED)) :]

    def _check_room(self, name: str, size: int) -> None:
        where = f"state {name!r} of order key {self._order_key!r} of agent {self._types.agent!r}"
        if size > STATE_VALUE_BYTES_MAX:
            raise StateTooLarge(
                f"{where} has {size} bytes, more than {STATE_VALUE_BYTES_MAX}: keep less of it, or "
                "keep it elsewhere and its place here"
            )
        gone = {other for other, change in self._changes.items() if change is None}
        there = {*self._journal.names(), *self._changes} - gone | {name}
        if len(there) > STATE_NAMES_MAX:
            raise StateTooLarge(f"{where} would be name number {len(there)}: {STATE_NAMES_MAX} go")
        others = (c for other, c in self._changes.items() if other != name and c is not None)
        written = size + sum(len(change.data) for change in others)
        if written > STATE_WRITTEN_BYTES_MAX:
            raise StateTooLarge(
                f"{where}: with it this attempt sets {written} bytes, more than "
                f"{STATE_WRITTEN_BYTES_MAX}"
            )
        if written > self._journal.room_bytes():
            raise StateTooLarge(
                f"{where}: its slot is full. Delete what nobody needs (`holdfast state list "
                f"{self._types.agent}`), or keep less under each key"
            )

    def _mismatch(self, name: str, what: str) -> Parked:
        return self._park(
            StateMismatch(
                f"state {name!r} of order key {self._order_key!r} of agent {self._types.agent!r} "
                f"{what}. Let the type read what was written (a default for each new field), or "
                f"delete it: holdfast state delete {self._types.agent} KEY {name} --reason ..., "
                "then replay the dead letter"
            )
        )


def _order_key(envelope: TaskEnvelope, journal: StateJournal, agent: str) -> str:
    task = f"task {agent}.{envelope.task}"
    order_key = envelope.order_key
    if order_key is None:
        raise DefinitionError(
            f"{task} uses ctx.state, and has no order key: state is kept by order key. Let the "
            "plan or the task declare one (order_key=)"
        )
    if envelope.loose_order:
        raise DefinitionError(
            f"{task} uses ctx.state, and its order is loose: others of its key may change what it "
            "has read between two of its attempts. Let the plan declare order: strict"
        )
    if not journal.is_here(order_key):
        raise DefinitionError(
            f"{task} uses ctx.state, and was sent to a partition that is not its order key's: "
            f"record key 'o:{order_key}' belongs elsewhere, and so does its state"
        )
    return order_key


class State:
    """What an asynchronous handler keeps under its order key: `ctx.state`."""

    def __init__(self, execution: Execution) -> None:
        self._execution = execution

    @overload
    async def get(self, name: str, kind: type[T], default: None = None) -> T | None: ...

    @overload
    async def get(self, name: str, kind: type[T], default: D) -> T | D: ...

    async def get(self, name: str, kind: Any, default: Any = None) -> Any:
        """Return what is kept under `name` as a `kind`; `default` if nothing is.

        The same in each resume and attempt of the task, but for what this execution has set
        itself. Raises `StateMismatch`, `DefinitionError`.
        """
        return await self._execution.drive(self._execution.kept(name, kind, default))

    def set(self, name: str, value: Any, kind: Any = None) -> None:
        """Keep `value` under `name`, from the commit on that closes this attempt with success.

        `kind`: its type, if that is not what it was declared or read as, nor plainly its own
        (`list[int]`). Raises `StateTooLarge`, `DefinitionError`.
        """
        self._execution.state_use.set(name, value, kind)

    def delete(self, name: str) -> None:
        """Keep nothing under `name` any more, from the same commit on."""
        self._execution.state_use.delete(name)


class SyncState:
    """What a synchronous handler keeps under its order key: `ctx.state`; see `State`."""

    def __init__(self, execution: Execution) -> None:
        self._execution = execution

    @overload
    def get(self, name: str, kind: type[T], default: None = None) -> T | None: ...

    @overload
    def get(self, name: str, kind: type[T], default: D) -> T | D: ...

    def get(self, name: str, kind: Any, default: Any = None) -> Any:
        """See `State.get`."""
        return self._execution.drive_in_thread(self._execution.kept(name, kind, default))

    def set(self, name: str, value: Any, kind: Any = None) -> None:
        """See `State.set`."""
        self._at_once(lambda use: use.set(name, value, kind))

    def delete(self, name: str) -> None:
        """See `State.delete`."""
        self._at_once(lambda use: use.delete(name))

    def _at_once(self, what: Callable[[StateUse], None]) -> None:
        async def change() -> None:
            what(self._execution.state_use)

        self._execution.on_loop(change())
