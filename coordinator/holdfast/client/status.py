"""How a run stands: read from the coordinator's journal while it is open, from its end after that.

The journal is the coordinators' own state, as it is in the last commit: exact, whatever the
retention of `events`, and as large as what is open, not as what has happened.
"""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.bus.port import Bus
from holdfast.bus.topics import COORDINATOR_GROUP, Topics
from holdfast.schemas import (
    AskEntry,
    AskRow,
    CoordinatorJournal,
    Event,
    RunEntry,
    RunRow,
    Signal,
    SignalEntry,
    TaskEntry,
    TaskRow,
    decode,
)

__all__ = ["RunStatus", "read_status", "status_at_end"]

_ASKS, _SIGNALS = "ask/", "signal/"


@dataclass(frozen=True, slots=True)
class RunStatus:
    """A run as it stands. Times are wall time in milliseconds since the epoch.

    `run`: state, input and output, failure, deadline. `tasks`: those of the plan that have begun,
    and called ones; a map's items are counted in its row (`total`, `done`, `failed`). `waits`: what
    tasks wait for, the longest wait first. `signals`: kept until a task waits for them, in the
    order in which they came. Of a run that has ended only `run` is left.
    """

    run: RunRow
    tasks: tuple[TaskRow, ...] = ()
    waits: tuple[AskRow, ...] = ()
    signals: tuple[Signal, ...] = ()


async def read_status(bus: Bus, topics: Topics, partition: int, run_id: str) -> RunStatus | None:
    """Return how a run stands that is open, None if it is not.

    Raises `Undecodable` where the journal is of a newer build.
    """
    own = f"run/{run_id}"
    found: dict[str, bytes] = {}
    async for records in bus.read(topics.journal(COORDINATOR_GROUP), partition):
        for record in records:
            key = (record.key or b"").decode("utf-8", "replace")
            if key != own and not key.startswith(f"{own}/"):
                continue
            found.pop(key, None)
            name = key[len(own) + 1 :]
            if record.value is not None and _tells(name):
                found[key] = record.value
    return _status([decode(CoordinatorJournal, value) for value in found.values()])


def _tells(name: str) -> bool:
    """Whether a record is of the run, a task, an ask or a signal: not of an item, or of a list."""
    if name.startswith((_ASKS, _SIGNALS)):
        return True
    return "." not in name and "/" not in name


def _status(journal: list[CoordinatorJournal]) -> RunStatus | None:
    run: RunRow | None = None
    tasks: list[TaskRow] = []
    waits: list[AskRow] = []
    signals: list[SignalEntry] = []
    for record in journal:
        body = record.body
        if isinstance(body, RunEntry):
            run = body.row
        elif isinstance(body, TaskEntry):
            tasks.append(body.row)
        elif isinstance(body, AskEntry):
            waits.append(body.row())
        elif isinstance(body, SignalEntry) and not body.taken:
            signals.append(body)
    if run is None or run.finished_ms is not None:
        return None
    tasks.sort(key=lambda row: (row.dispatched_ms or 0, row.task_id))
    waits.sort(key=lambda row: (row.asked_ms or 0, row.ask_id))
    signals.sort(key=lambda entry: entry.received_ms)
    return RunStatus(run, tuple(tasks), tuple(waits), tuple(entry.signal for entry in signals))


def status_at_end(end: Event) -> RunStatus:
    """Return how a run stands that has ended."""
    assert end.run is not None, "the coordinator writes whole rows"
    return RunStatus(end.run)
