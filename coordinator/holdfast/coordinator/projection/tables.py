"""The tables of the projection, and how a database is opened with them.

Portable SQL only: SQLite and PostgreSQL share every statement but the name of `INSERT … ON
CONFLICT`'s module. Payloads stand as they came from the bus (framed bytes, or a blob's name): what
decodes them is the reader's business.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    event,
    insert,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, NoSuchModuleError

from holdfast.schemas.errors import ConfigurationError

__all__ = [
    "SCHEMA_VERSION",
    "agents",
    "asks",
    "dead_letters",
    "history",
    "insert_missing",
    "open_database",
    "pauses",
    "plan_changes",
    "plans",
    "positions",
    "prepare_database",
    "runs",
    "schedules",
    "signals",
    "tasks",
    "transaction",
    "upsert",
]

SCHEMA_VERSION = 4
"""Raised by every change of the tables; a database of another version is built anew."""
RUN_ID_CHARS = 144
"""128, and what stands behind the id of a run that continues another (`~<n>`)."""
BUSY_TIMEOUT_S = 10.0
"""How long one process waits for another's transaction on the same SQLite file."""

metadata = MetaData()


def _payload(name: str) -> tuple[Column[Any], Column[Any], Column[Any]]:
    """Framed bytes, or the name and the size of the blob that holds them."""
    return (
        Column(name, LargeBinary),
        Column(f"{name}_blob", Text),
        Column(f"{name}_blob_bytes", BigInteger),
    )


meta = Table(
    "holdfast_projection",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("schema_version", Integer, nullable=False),
    Column("source", Text, nullable=False),
)
"""One row: which version these tables are of, and which bus and namespace they follow."""

positions = Table(
    "positions",
    metadata,
    Column("topic", String(255), primary_key=True),
    Column("partition", Integer, primary_key=True),
    Column("next_offset", BigInteger, nullable=False),
    Column("last_offset", BigInteger),
    Column("last_ms", BigInteger),
)
"""How far each partition was followed: written in the transaction of the rows it caused.

`last_offset` and `last_ms` are the place and the time of the newest record taken: by them a bus
that was thrown away and begun anew under the same URL is told from the old one.
"""

runs = Table(
    "runs",
    metadata,
    Column("run_id", String(RUN_ID_CHARS), primary_key=True),
    Column("version", BigInteger, nullable=False),
    Column("plan_name", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    *_payload("input"),
    *_payload("output"),
    Column("failure", Text),
    Column("order_key", Text),
    Column("origin", String(RUN_ID_CHARS), nullable=False),
    Column("submitted_by", Text, nullable=False),
    Column("input_hash", String(64), nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("deadline_ms", BigInteger),
    Column("finished_ms", BigInteger),
    Column("plan_version", Integer, nullable=False),
    Column("successor", Text),
    Column("predecessor", Text),
    Column("start_ms", BigInteger),
    Index("runs_created", "created_ms", "run_id"),
    Index("runs_state", "state", "created_ms"),
)

plans = Table(
    "plans",
    metadata,
    Column("run_id", String(RUN_ID_CHARS), primary_key=True),
    Column("plan", Text, nullable=False),
)
"""The plan that each run began with (canonical JSON), apart because its row is written often."""

plan_changes = Table(
    "plan_changes",
    metadata,
    Column("run_id", String(RUN_ID_CHARS), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("change", Text, nullable=False),
    Column("task_id", String(80), nullable=False),
    Column("at_ms", BigInteger, nullable=False),
)
"""What made each further version of a run's plan (canonical JSON), and the task that did it."""

tasks = Table(
    "tasks",
    metadata,
    Column("run_id", String(RUN_ID_CHARS), primary_key=True),
    Column("task_id", String(80), primary_key=True),
    Column("version", BigInteger, nullable=False),
    Column("agent", String(64), nullable=False),
    Column("task", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    Column("attempt", BigInteger, nullable=False),
    *_payload("input"),
    *_payload("output"),
    Column("failure", Text),
    Column("steps", Text, nullable=False),
    Column("resumes", BigInteger, nullable=False),
    Column("instance", String(64), nullable=False),
    Column("build_id", Text, nullable=False),
    Column("order_key", Text),
    Column("dispatched_ms", BigInteger),
    Column("started_ms", BigInteger),
    Column("finished_ms", BigInteger),
    Column("retry_ms", BigInteger),
    Column("total", BigInteger, nullable=False),
    Column("done", BigInteger, nullable=False),
    Column("failed", BigInteger, nullable=False),
    Column("child", Text),
    Column("ruling", Text),
    Column("error", Text),
    Column("error_name", Text),
    Index("tasks_state", "state", "agent"),
)

history = Table(
    "history",
    metadata,
    Column("partition", Integer, primary_key=True),
    Column("offset", BigInteger, primary_key=True),
    Column("run_id", String(RUN_ID_CHARS), nullable=False),
    Column("type", String(32), nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("task_id", String(80)),
    Column("attempt", BigInteger),
    Column("build_id", Text),
    Column("message", Text, nullable=False),
    Column("cause_partition", Integer),
    Column("cause_offset", BigInteger),
    Column("command", Text),
    Column("ask", Text),
    Column("signal", Text),
    Index("history_run", "run_id", "partition", "offset"),
    Index("history_cause", "cause_partition", "cause_offset"),
)
"""Each event, without the rows it carried; (partition, offset) is its place in `events`."""

asks = Table(
    "asks",
    metadata,
    Column("run_id", String(RUN_ID_CHARS), primary_key=True),
    Column("ask_id", String(16), primary_key=True),
    Column("version", BigInteger, nullable=False),
    Column("state", String(16), nullable=False),
    Column("task_id", String(80), nullable=False),
    Column("name", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("subject", Text, nullable=False),
    Column("child", String(RUN_ID_CHARS)),
    Column("until_ms", BigInteger),
    Column("asked_ms", BigInteger),
    Column("schema_id", BigInteger),
    Column("ended_ms", BigInteger),
    Column("message", Text, nullable=False),
    Index("asks_open", "run_id", "state"),
    Index("asks_child", "child"),
)
"""What tasks wait for, or waited for; `state` is that of `AskState`. `message`: of a failure."""

signals = Table(
    "signals",
    metadata,
    Column("run_id", String(RUN_ID_CHARS), primary_key=True),
    Column("signal_key", String(32), primary_key=True),
    Column("version", BigInteger, nullable=False),
    Column("state", String(16), nullable=False),
    Column("signal_id", Text, nullable=False),
    Column("signal", Text, nullable=False),
    *_payload("payload"),
    Column("actor", Text, nullable=False),
    Column("task_id", String(80)),
    Column("at_ms", BigInteger, nullable=False),
    Column("message", Text, nullable=False),
    Index("signals_state", "run_id", "state"),
)
"""What became of each signal; `state` is that of `SignalState`. `signal_key`: a hash of its id,
which may be long. `task_id`: who took it; `message`: why it was refused."""

schedules = Table(
    "schedules",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("version", BigInteger, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("state", String(16), nullable=False),
    Column("note", Text, nullable=False),
    Column("plan_name", String(64), nullable=False),
    Column("spec", Text, nullable=False),
    Column("next_ms", BigInteger),
    Column("open_runs", BigInteger, nullable=False),
    Column("fired", BigInteger, nullable=False),
    Column("skipped", BigInteger, nullable=False),
    Column("missed", BigInteger, nullable=False),
    Column("firings", Text, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("changed_ms", BigInteger, nullable=False),
    Column("changed_by", Text, nullable=False),
)
"""Each schedule; its plan stands in `plans` under `schedule/<name>`."""

pauses = Table(
    "pauses",
    metadata,
    Column("agent", String(64), primary_key=True),
    Column("name", String(40), primary_key=True),
    Column("order_key", Text),
    Column("actor", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("since_ms", BigInteger, nullable=False),
)
"""What operators have paused, as long as it lasts. `name`: of the pause among its agent's."""

dead_letters = Table(
    "dead_letters",
    metadata,
    Column("dead_letter_id", String(255), primary_key=True),
    Column("reason", String(32), nullable=False),
    Column("failure", Text),
    Column("run_id", String(RUN_ID_CHARS)),
    Column("task_id", String(80)),
    Column("agent", String(64), nullable=False),
    Column("task", Text),
    Column("attempt", BigInteger, nullable=False),
    *_payload("input"),
    Column("source", Text),
    Column("at_ms", BigInteger, nullable=False),
    Index("dead_letters_at", "at_ms"),
    Index("dead_letters_task", "run_id", "task_id"),
)

agents = Table(
    "agents",
    metadata,
    Column("record_key", LargeBinary, primary_key=True),
    Column("agent", String(64), nullable=False),
    Column("instance", String(64), nullable=False),
    Column("process_id", String(64), nullable=False),
    Column("agent_version", Text, nullable=False),
    Column("build_id", Text, nullable=False),
    Column("tasks", Text, nullable=False),
    Column("concurrency", BigInteger, nullable=False),
    Column("started_ms", BigInteger, nullable=False),
    Column("seen_ms", BigInteger, nullable=False),
    Column("breakers", Text, nullable=False),
    Index("agents_agent", "agent", "instance"),
)


def open_database(url: str) -> Engine:
    """Return an engine for `sqlite:///path` or `postgresql+driver://…`.

    Raises `ConfigurationError` for a URL that cannot be used; connects to nothing yet.
    """
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() not in ("sqlite", "postgresql"):
            raise ConfigurationError(
                f"projections are kept in SQLite or PostgreSQL, not {parsed.get_backend_name()!r}"
            )
        if parsed.get_backend_name() == "postgresql":
            return create_engine(parsed, pool_pre_ping=True)
        return _open_sqlite(url, parsed.database)
    except (ArgumentError, NoSuchModuleError, ImportError) as error:
        raise ConfigurationError(f"the projection's database URL cannot be used: {error}") from None


def _open_sqlite(url: str, path: str | None) -> Engine:
    if path not in (None, "", ":memory:"):
        try:
            Path(str(path)).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(
                f"cannot make the folder of the projection {path}: {error.strerror or error}"
            ) from None
    engine = create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S})

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: Any) -> None:
        # The module would begin transactions on its own, too late to be IMMEDIATE.
        connection.isolation_level = None
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL"):
            connection.execute(f"PRAGMA {pragma}").fetchall()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # A transaction that reads first and writes later could not wait for another's end.
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def prepare_database(engine: Engine, source: str, *, anew: bool = False) -> None:
    """Create the tables; anew if so asked, if they are of another version or of another source.

    A projection holds nothing of its own: what is dropped is read from the bus again. Raises
    `ConfigurationError` when the database cannot be used.
    """
    with transaction(engine) as connection:
        if anew or not _is_current(connection, source):
            metadata.drop_all(connection)
            metadata.create_all(connection)
            row = {"id": 1, "schema_version": SCHEMA_VERSION, "source": source}
            connection.execute(insert(meta).values(row))


@contextmanager
def transaction(engine: Engine) -> Iterator[Connection]:
    """A transaction that writes; raises `ConfigurationError` where the database cannot be used."""
    try:
        with engine.connect().execution_options(writes=True) as connection, connection.begin():
            yield connection
    except DatabaseError as error:
        raise ConfigurationError(
            f"the projection's database {engine.url.render_as_string()} cannot be used: "
            f"{error.orig}; remove it (it is built again) or name another"
        ) from error


def _is_current(connection: Connection, source: str) -> bool:
    if not connection.dialect.has_table(connection, meta.name):
        return False
    found = connection.execute(select(meta.c.schema_version, meta.c.source)).first()
    return found is not None and tuple(found) == (SCHEMA_VERSION, source)


def upsert(
    connection: Connection, table: Table, rows: list[dict[str, Any]], newer: str | None = None
) -> None:
    """Insert rows; replace those whose column `newer` is smaller than in the row given (or all).

    One key at most once in `rows` (PostgreSQL insists).
    """
    if not rows:
        return
    statement = _dialect(connection).insert(table)
    excluded = statement.excluded
    statement = statement.on_conflict_do_update(
        index_elements=list(table.primary_key.columns),
        set_={c.name: excluded[c.name] for c in table.columns if not c.primary_key},
        where=None if newer is None else table.c[newer] < excluded[newer],
    )
    connection.execute(statement, rows)


def insert_missing(connection: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
    """Insert the rows whose keys are not there yet."""
    if rows:
        connection.execute(_dialect(connection).insert(table).on_conflict_do_nothing(), rows)


def _dialect(connection: Connection) -> Any:
    return postgresql if connection.dialect.name == "postgresql" else sqlite
