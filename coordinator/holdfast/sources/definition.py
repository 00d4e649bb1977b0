"""What a user writes: which topic starts which runs.

orders = Source(
    "orders",
    topic=Topic("orders.v1", Order),
    plan=fulfil,
    input=lambda record: {"order": record.value.number},
    where=lambda record: record.value.paid,
)

or, where the plan depends on the record:

@source(Topic("orders.v1", Order))
def orders(record: TopicRecord[Order]) -> Submit | None: ...
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, Literal, TypeAlias, TypeVar

from holdfast.bus.topics import SOURCE_PREFIX, check_name
from holdfast.client.submission import Work, document_of
from holdfast.schemas import PlanDocument, PlanError, check_plan
from holdfast.schemas.errors import ConfigurationError

__all__ = ["Format", "Source", "Start", "Submit", "Topic", "TopicRecord", "source"]

V = TypeVar("V")

Format = Literal["auto", "avro", "json"]
Start = Literal["earliest", "latest"]

MAX_OPEN = 1_000
MAX_OPEN_MAX = 1_000_000
NAME_CHARS_MAX = 64 - len(SOURCE_PREFIX)
"""The group of a source has a name of at most 64 characters."""


@dataclass(frozen=True, slots=True)
class Topic(Generic[V]):
    """A topic of the user's own, and what its records hold.

    `value`: what each value becomes (a pydantic model, or any type that pydantic validates); None:
    what JSON has. `format`: `avro` (magic byte 0, 4-byte schema id, Avro, by the schema registry),
    `json` (text; a frame in front is passed over), or told by the first byte. `start`: where a
    source begins that was never started before: at the first record that the log still holds, or
    behind the last. `create`: the topic is made where it is missing, and kept for ever.
    """

    name: str
    value: type[V] | Any = None
    format: Format = "auto"
    start: Start = "earliest"
    create: bool = False

    def __post_init__(self) -> None:
        if not self.name:
            raise ConfigurationError("a source's topic needs a name")
        for setting, given, allowed in (
            ("format", self.format, ("auto", "avro", "json")),
            ("start", self.start, ("earliest", "latest")),
        ):
            if given not in allowed:
                raise ConfigurationError(
                    f"topic {self.name!r}: {setting} {given!r} cannot be used; it is one of "
                    f"{', '.join(allowed)}"
                )


@dataclass(frozen=True, slots=True)
class TopicRecord(Generic[V]):
    """A record of a user's topic, decoded. `timestamp_ms`: wall time, from its producer."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: V
    headers: tuple[tuple[str, bytes], ...]
    timestamp_ms: int

    @property
    def at(self) -> datetime:
        """When it was produced (UTC)."""
        return datetime.fromtimestamp(self.timestamp_ms / 1_000, UTC)

    def header(self, name: str) -> bytes | None:
        """Return the last header of this name, or None."""
        return next((value for known, value in reversed(self.headers) if known == name), None)


@dataclass(frozen=True, slots=True)
class Submit:
    """The run that a record starts. `order_key`, `deadline_s` stand over the plan's own."""

    work: Work
    input: Any = None
    order_key: str | None = None
    deadline_s: float | None = None


Convert: TypeAlias = "Callable[[TopicRecord[V]], Submit | Awaitable[Submit | None] | None]"


class Source(Generic[V]):
    """Starts a run for each record of a topic, exactly once; the run's id is
    `<name>-<partition>-<offset>`.

    `plan` is started with `input(record)`, or with the record's value where `input` is not given;
    records for which `where(record)` is false are passed over. All three look at the record alone:
    they are called on the event loop, must return at once, and may be called again for the same
    record. `max_open`: no more runs of this source are started while so many have not ended, each
    partition of the topic having an equal share (at least one run).

    Raises `ConfigurationError`, `PlanError` for what cannot work.
    """

    def __init__(
        self,
        name: str,
        *,
        topic: Topic[V] | str,
        plan: Work,
        input: Callable[[TopicRecord[V]], Any] | None = None,  # noqa: A002 - the plan's word
        where: Callable[[TopicRecord[V]], object] | None = None,
        max_open: int = MAX_OPEN,
    ) -> None:
        document = document_of(plan)
        check_plan(document)

        def convert(record: TopicRecord[V]) -> Submit | None:
            if where is not None and not where(record):
                return None
            return Submit(document, record.value if input is None else input(record))

        self._set(name, topic, convert, max_open)
        self.plan: PlanDocument | None = document
        """What is started; None where it depends on the record."""

    @classmethod
    def of(
        cls, name: str, topic: Topic[V] | str, convert: Convert[V], *, max_open: int = MAX_OPEN
    ) -> Source[V]:
        """Return a source whose function says for each record what is started; None: nothing."""
        made = cls.__new__(cls)
        made._set(name, topic, convert, max_open)  # noqa: SLF001 - it is being made here
        made.plan = None
        return made

    def __repr__(self) -> str:
        return f"Source({self.name!r}, topic={self.topic.name!r})"

    def __call__(self, record: TopicRecord[V]) -> Any:
        """Return what the record starts, as a test would ask; an async function's is awaitable."""
        return self.convert(record)

    def _set(self, name: str, topic: Topic[V] | str, convert: Convert[V], max_open: int) -> None:
        check_name(name, "source")
        if len(name) > NAME_CHARS_MAX:
            raise ConfigurationError(
                f"source {name!r} cannot be used: it has more than {NAME_CHARS_MAX} characters"
            )
        if isinstance(max_open, bool) or not 1 <= max_open <= MAX_OPEN_MAX:
            raise ConfigurationError(
                f"source {name!r}: max_open {max_open} is outside 1 to {MAX_OPEN_MAX}"
            )
        self.name = name
        self.topic: Topic[V] = Topic(topic) if isinstance(topic, str) else topic
        self.convert = convert
        self.max_open = max_open


def source(
    topic: Topic[V] | str, *, name: str | None = None, max_open: int = MAX_OPEN
) -> Callable[[Convert[V]], Source[V]]:
    """Make a function `(record) -> Submit | None` a source, plain or `async`.

    `name` is the function's, with `-` for `_`, unless given. What is said of the functions of
    `Source` holds for it. Raises `ConfigurationError` for what cannot work.
    """

    def decorate(convert: Convert[V]) -> Source[V]:
        made = getattr(convert, "__name__", "")
        try:
            inspect.signature(convert).bind(None)
        except TypeError:
            raise ConfigurationError(
                f"source {made!r}: its function takes one argument, the record"
            ) from None
        return Source.of(
            name or made.strip("_").replace("_", "-").lower(), topic, convert, max_open=max_open
        )

    return decorate


def checked_submit(found: object) -> Submit | None:
    """Return what a source's function gave; raises `PlanError` where it is something else."""
    if found is None or isinstance(found, Submit):
        return found
    raise PlanError(
        f"the source's function returned a {type(found).__name__}; it returns a Submit, or None to "
        "pass the record over"
    )
