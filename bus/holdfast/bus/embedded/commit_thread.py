"""The one thread of a process that writes, with a connection of its own.

    loop: submit ──► thread: enter · gather · BEGIN … COMMIT · leave · wake ──► loop: deliver

Commits that wait while one is under way share the next transaction: batches grow with load, and
nothing waits when there is none. A change (membership, topics, purge, blobs) has its own.
"""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

from holdfast.bus.embedded.append import BINDING_ERRORS, Append, OpState, append, refuse
from holdfast.bus.embedded.queue_lock import CommitQueue
from holdfast.bus.embedded.settings import EmbeddedSettings
from holdfast.bus.embedded.store import Counter, connect_writer, counter
from holdfast.bus.embedded.wake import Wake, WakeSender
from holdfast.bus.errors import BusUnavailable, OutcomeUnknown

__all__ = ["Change", "CommitThread", "Transaction", "commit"]

T = TypeVar("T")

log = logging.getLogger("holdfast.bus.embedded")

GROUP_ROWS_MAX = 4_096
GROUP_BYTES_MAX = 8 * 1024 * 1024
"""No more joins a transaction beyond this, so that other processes' turns come soon."""
WAL_BYTES_MAX = 64 * 1024 * 1024
WAL_LOOK_S = 0.01
"""How often its size is looked at: it cannot grow far meanwhile."""
TRUNCATE_BUSY_MS = 20
TRUNCATE_PAUSE_S = 1.0
"""A reader in the way costs every writer 20 ms at most this often."""
CLOSE_S = 5.0


class Transaction:
    """What a change works on: the connection inside its transaction, and who is to hear of it."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self.db = db
        self.interests: set[int] = set()
        self.listeners_changed = False

    def count(self, row_id: int, value: int) -> None:
        """Set a counter."""
        self.db.execute("REPLACE INTO counters(id, value) VALUES (?, ?)", (row_id, value))

    def counted(self, row_id: int) -> int:
        """Return a counter."""
        row = self.db.execute("SELECT value FROM counters WHERE id = ?", (row_id,)).fetchone()
        return 0 if row is None else int(row[0])


@dataclass(slots=True, eq=False)
class Change:
    """One transaction of its own."""

    run: Callable[[Transaction], Any]
    future: asyncio.Future[Any]
    state: OpState = OpState.WAITING
    outcome: BaseException | None = None
    result: Any = None


@dataclass(slots=True)
class _Listeners:
    """Which sockets want to hear of which streams; kept until the shared generation moves."""

    generation: int = -1
    sockets: dict[int, list[str]] = field(default_factory=dict)

    def refresh(self, db: sqlite3.Connection, generation: int) -> None:
        if generation == self.generation:
            return
        self.sockets = {}
        for name, interest in db.execute("SELECT socket, interest FROM listeners").fetchall():
            self.sockets.setdefault(interest, []).append(name)
        self.generation = generation


def commit(db: sqlite3.Connection) -> None:
    """End the transaction. A function of its own: where an answer can be lost."""
    db.execute("COMMIT")


class CommitThread:
    """See the module's docstring. Everything but `_run` and what it calls is for the event loop."""

    def __init__(
        self,
        settings: EmbeddedSettings,
        folder: Path,
        socket_name: str,
        committed: Callable[[set[int]], None],
    ) -> None:
        self.queue = CommitQueue(folder)
        self.commit = commit
        self.failure: BaseException | None = None
        """Why nothing can be written any more, if so."""
        self._pid = os.getpid()
        self._settings = settings
        self._socket_name = socket_name
        self._committed = committed
        self._sender = WakeSender(folder / "wake")
        self._wal = Path(f"{settings.path}-wal")
        self._loop = asyncio.get_running_loop()
        self._ops: queue.SimpleQueue[Append | Change | None] = queue.SimpleQueue()
        self._next: Append | Change | None = None
        self._claims = threading.Lock()
        self._pending: dict[Append | Change, float] = {}
        self._listeners = _Listeners()
        self._truncate_after = 0.0
        self._closing = False
        self._started: asyncio.Future[None] = self._loop.create_future()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, name="holdfast-commit", daemon=True)
        self._db: sqlite3.Connection | None = None

    # -- on the event loop -----------------------------------------------------------------------

    async def start(self) -> None:
        """Return when the file is open; raises `BusUnavailable`. Bounded by the caller."""
        self._thread.start()
        await asyncio.shield(self._started)

    def append(self, op: Append) -> None:
        """Hand a commit over; its future ends with None, `Fenced`, `Rejected`, `OutcomeUnknown`."""
        self._submit(op)

    async def transact(self, run: Callable[[Transaction], T]) -> T:
        """Run a change in a transaction of its own; raises `BusUnavailable` or what it raises."""
        op = Change(run, self._loop.create_future())
        self._submit(op)
        return cast("T", await op.future)

    def expire(self) -> None:
        """Give up what has waited for longer than the operation's time-out."""
        now = self._loop.time()
        overdue = [op for op, deadline in self._pending.items() if deadline <= now]
        for op in overdue:
            del self._pending[op]
            self.abandon(op)

    def abandon(self, op: Append | Change) -> None:
        """Nobody waits for it any more: it never begins, or its outcome is unknown."""
        with self._claims:
            never = op.state is OpState.WAITING
            if never:
                op.state = OpState.ABANDONED
        if not op.future.done():
            where = f"{self._settings.path} within {self._settings.operation_timeout_s:g} s"
            truth = "it was never begun" if never else "it may yet be committed"
            text = f"no turn at {where}: {truth}; another process stands inside a commit"
            unknown = isinstance(op, Append) and op.claim is not None
            op.future.set_exception(OutcomeUnknown(text) if unknown else BusUnavailable(text))

    async def close(self) -> None:
        """Finish what waits, close the file under the lock; bounded: a thread that another process
        holds up is left behind, and ends by itself."""
        self._closing = True
        self._ops.put(None)
        if self._started.done():
            with suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(self._ended), CLOSE_S)
        self._abandon_all()

    def _abandon_all(self) -> None:
        for op in list(self._pending):
            self.abandon(op)
        self._pending.clear()

    def _thread_ended(self) -> None:
        self._closing = True
        _settle(self._ended, None)
        self._abandon_all()

    def _submit(self, op: Append | Change) -> None:
        if os.getpid() != self._pid:
            raise RuntimeError("a bus cannot be used after fork: start processes with spawn")
        if self._closing:
            op.future.set_exception(BusUnavailable(f"the bus {self._settings.path} is closed"))
            return
        self._pending[op] = self._loop.time() + self._settings.operation_timeout_s
        self._ops.put(op)

    def _deliver(self, ops: Sequence[Append | Change], interests: set[int]) -> None:
        for op in ops:
            self._pending.pop(op, None)
            if op.future.done():
                continue
            if op.outcome is not None:
                op.future.set_exception(op.outcome)
            else:
                op.future.set_result(op.result if isinstance(op, Change) else None)
        self._committed(interests)

    # -- in the thread ---------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._open()
            self._call_loop(_settle, self._started, None)
            while (op := self._take()) is not None:
                self._turn(op)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the loop must hear of it
            self.failure = _unavailable(self._settings.path, error)
            if not self._closing:
                log.warning("the commit thread has ended: %s", self.failure)
            self._call_loop(_settle, self._started, self.failure)
        finally:
            self._shut()
            self._call_loop(self._thread_ended)

    def _open(self) -> None:
        self.queue.enter()
        try:
            if self._closing:
                raise BusUnavailable("given up while waiting for a turn")
            self._db = connect_writer(self._settings.path, self._settings.synchronous)
        finally:
            self.queue.leave()

    def _shut(self) -> None:
        if self._db is not None:
            # The last connection of all checkpoints when it closes: only under the lock.
            self.queue.enter()
            with suppress(sqlite3.Error):
                self._db.close()
            self.queue.leave()
        self.queue.close()
        self._sender.close()

    def _take(self) -> Append | Change | None:
        if self._next is not None:
            op, self._next = self._next, None
            return op
        return self._ops.get()

    def _turn(self, first: Append | Change) -> None:
        interests: set[int] = set()
        self.queue.enter()
        try:
            if isinstance(first, Append):
                ops: Sequence[Append | Change] = self._gather(first)
                interests = self._append(cast("list[Append]", ops))
            else:
                ops = [first]
                interests = self._change(first)
            sockets = self._after(interests)
        finally:
            self.queue.leave()
        if sockets:
            self._wake(sockets, Wake.GROUP if min(interests) < 0 else Wake.RECORDS)
        self._call_loop(self._deliver, ops, interests)

    def _gather(self, first: Append) -> list[Append]:
        """Take what has come while this process waited for its turn."""
        ops, rows = [first], len(first.rows)
        size = sum(row.size for row in first.rows)
        while rows < GROUP_ROWS_MAX and size < GROUP_BYTES_MAX:
            try:
                op = self._ops.get_nowait()
            except queue.Empty:
                break
            if not isinstance(op, Append):
                self._hold_over(op)
                break
            ops.append(op)
            rows += len(op.rows)
            size += sum(row.size for row in op.rows)
        return ops

    def _hold_over(self, op: Change | None) -> None:
        if op is None:
            self._ops.put(None)
        else:
            self._next = op

    def _claim(self, ops: Sequence[Append | Change]) -> list[Append | Change]:
        with self._claims:
            begun = [op for op in ops if op.state is OpState.WAITING]
            for op in begun:
                op.state = OpState.BEGUN
        return begun

    def _append(self, gathered: list[Append]) -> set[int]:
        ops = cast("list[Append]", self._claim(gathered))
        if not ops:
            return set()
        try:
            return self._append_group(ops)
        except BINDING_ERRORS as error:
            if len(ops) == 1:
                ops[0].outcome = refuse(ops[0], error)
                return set()
        # One of them spoils it for all: each by itself, so that only that one is refused.
        interests: set[int] = set()
        for op in ops:
            op.outcome = None
            try:
                interests |= self._append_group([op])
            except BINDING_ERRORS as error:
                op.outcome = refuse(op, error)
        return interests

    def _append_group(self, ops: list[Append]) -> set[int]:
        db = self._connection()
        try:
            db.execute("BEGIN IMMEDIATE")
            interests = append(db, ops, time.time_ns() // 1_000_000)
        except BINDING_ERRORS:
            _rollback(db)
            raise
        except sqlite3.Error as error:
            _rollback(db)
            self._fail(ops, f"nothing was written to {self._settings.path}: {error}")
            return set()
        if not interests:
            _rollback(db)
            return set()
        try:
            self.commit(db)
        except sqlite3.Error as error:
            self._lost(ops, error)
        return interests

    def _fail(self, ops: list[Append], text: str) -> None:
        for op in ops:
            if op.outcome is None:
                op.outcome = BusUnavailable(text) if op.claim is None else OutcomeUnknown(text)

    def _lost(self, ops: list[Append], error: sqlite3.Error) -> None:
        """The answer to COMMIT is lost. Whoever owns a slot finds out by reading its journal; a
        publish is settled here: the lock is still held, so its row stands in the log or never will.
        """
        db = self._reopen()
        for op in ops:
            if op.outcome is not None:
                continue
            text = f"the answer to a commit to {self._settings.path} was lost: {error}"
            if op.claim is not None:
                op.outcome = OutcomeUnknown(text)
            elif db is None or not _stands(db, op):
                op.outcome = BusUnavailable(text)

    def _change(self, op: Change) -> set[int]:
        if not self._claim([op]):
            return set()
        transaction: Transaction | None = None
        db = None
        try:
            db = self._connection()
            transaction = Transaction(db)
            db.execute("BEGIN IMMEDIATE")
            op.result = op.run(transaction)
            commit(db)
        except sqlite3.Error as error:
            op.outcome = _unavailable(self._settings.path, error)
        except Exception as error:  # noqa: BLE001 - belongs to who asked for the change
            op.outcome = error
        if op.outcome is not None or transaction is None:
            if db is not None:
                _rollback(db)
            return set()
        if transaction.listeners_changed:
            self.queue.raise_listeners_generation()
        return transaction.interests

    def _connection(self) -> sqlite3.Connection:
        if self._db is None:
            self._db = connect_writer(self._settings.path, self._settings.synchronous)
        return self._db

    def _reopen(self) -> sqlite3.Connection | None:
        """Only with the lock held. A connection that failed inside COMMIT is not to be trusted."""
        with suppress(sqlite3.Error):
            if self._db is not None:
                self._db.close()
        self._db = None
        try:
            return self._connection()
        except (sqlite3.Error, BusUnavailable):
            return None

    def _after(self, interests: set[int]) -> list[str]:
        """What else needs the lock; the operations themselves are done, whatever happens here."""
        try:
            sockets = self._whom(interests) if interests else []
            self._bound_wal()
        except (sqlite3.Error, BusUnavailable):
            log.exception("%s: readers are not woken, they look by themselves", self._settings.path)
            return []
        return sockets

    def _whom(self, interests: set[int]) -> list[str]:
        db = self._connection()
        self._listeners.refresh(db, self.queue.listeners_generation)
        found = self._listeners.sockets
        names = {name for interest in interests for name in found.get(interest, ())}
        names.discard(self._socket_name)
        return list(names)

    def _wake(self, sockets: Sequence[str], wake: Wake) -> None:
        dead = self._sender.send(sockets, wake)
        if dead:
            self._call_loop(self._forget_listeners, dead)

    def _forget_listeners(self, names: list[str]) -> None:
        def run(transaction: Transaction) -> None:
            for name in names:
                transaction.db.execute("DELETE FROM listeners WHERE socket = ?", (name,))
            transaction.listeners_changed = True

        op = Change(run, self._loop.create_future())
        op.future.add_done_callback(asyncio.Future.exception)
        self._submit(op)

    def _bound_wal(self) -> None:
        """SQLite starts the WAL anew only when no reader is in it; under steady load that is never.
        So above a size the writer waits for the readers, for a moment, with the lock held."""
        now = time.monotonic()
        if now < self._truncate_after:
            return
        try:
            size = self._wal.stat().st_size
        except OSError:
            return
        if size <= WAL_BYTES_MAX:
            self._truncate_after = now + WAL_LOOK_S
            return
        self._truncate_after = now + TRUNCATE_PAUSE_S
        db = self._connection()
        (before_ms,) = db.execute("PRAGMA busy_timeout").fetchone()
        db.execute(f"PRAGMA busy_timeout={TRUNCATE_BUSY_MS}").fetchall()
        try:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except sqlite3.Error:
            log.debug("WAL of %d bytes not truncated: a reader is inside", size)
        finally:
            db.execute(f"PRAGMA busy_timeout={before_ms}").fetchall()

    def _call_loop(self, call: Callable[..., None], *args: object) -> None:
        # The loop may have ended before its threads: nobody is left to hear of it.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(call, *args)


def _settle(future: asyncio.Future[None], error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
        future.exception()


def _unavailable(path: Path, error: BaseException) -> BusUnavailable:
    if isinstance(error, BusUnavailable):
        return error
    return BusUnavailable(f"the bus file {path} cannot be used: {error}")


def _rollback(db: sqlite3.Connection) -> None:
    with suppress(sqlite3.Error):
        if db.in_transaction:
            db.execute("ROLLBACK")


def _stands(db: sqlite3.Connection, op: Append) -> bool:
    head = counter(Counter.HEAD, op.rows[-1].stream)
    row = db.execute("SELECT value FROM counters WHERE id = ?", (head,)).fetchone()
    return row is not None and int(row[0]) > op.offsets[-1]
