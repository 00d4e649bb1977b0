"""A coordinator in memory that keeps a schedule, for tests."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from holdfast.coordinator.engine import EngineLimits
from holdfast.schemas.codec import decode
from holdfast.schemas.plan import Plan
from holdfast.schemas.records import (
    CoordinatorEnvelope,
    Event,
    Firing,
    FiringOutcome,
    ScheduleAction,
    ScheduleCommand,
    ScheduleRow,
)
from holdfast.schemas.schedules import Schedule
from tests.unit.coordinator.host import Host, resolved

NAME = "nightly"
KEY = f"schedule/{NAME}"


def plan(name: str = "report") -> str:
    made = Plan(name)
    made.task("write", "writer.write", day=made.input("day"))
    return resolved(made)


class Ground(Host):
    """A `Host` whose words to other entities come back to it, as those of one slot do."""

    def __init__(self, limits: EngineLimits | None = None) -> None:
        self._commands = 0
        super().__init__(limits)

    # --- time ----------------------------------------------------------------------------------

    def at(self, text: str) -> None:
        """Let time pass to a moment, with all that happens in it."""
        self.pass_time(moment(text) - self.now_ms)
        self.deliver_told()

    def begin_at(self, text: str) -> None:
        self.now_ms = moment(text)
        self.restart()

    def deliver_told(self) -> None:
        """Hand what entities said to each other to them, until they are silent."""
        while self.forwarded:
            record = self.forwarded.pop(0)
            assert record.value is not None
            assert record.key is not None
            self.deliver_bytes(record.value, record.key.decode())
            self.pump()

    def work_all(self) -> None:
        """Let the agents succeed at all that was handed to them."""
        self.deliver_told()
        while self.tasks or self.forwarded or self.controls:
            self.work(lambda _: "done")
            self.deliver_told()

    # --- commands ------------------------------------------------------------------------------

    def word(self, action: ScheduleAction, **given: Any) -> Event:
        """Send a word about the schedule; return the event that answers it."""
        self._commands += 1
        command_id = given.pop("command_id", f"c{self._commands}")
        command = ScheduleCommand(command_id, action, "ann", given.pop("reason", "because"))
        for name, value in given.items():
            setattr(command, name, value)
        seen = len(self.events)
        self.deliver(CoordinatorEnvelope(KEY, self.now_ms, command), KEY)
        self.pump()
        return next(e for e in self.events[seen:] if e.run_id == KEY)

    def create(self, *, plan_json: str | None = None, paused: bool = False, **given: Any) -> Event:
        given = {"input": {"day": "${schedule.date}"}, **given}
        spec = Schedule.of(given).spec("report")
        return self.word(ScheduleAction.CREATE, spec=spec, plan=plan_json or plan(), paused=paused)

    # --- what came of it -----------------------------------------------------------------------

    @property
    def row(self) -> ScheduleRow:
        """The schedule's newest row."""
        return next(e.schedule for e in reversed(self.events) if e.schedule is not None)

    def fired(self) -> list[str]:
        """Return the run ids that were submitted, without the schedule's name."""
        return [
            e.firing.run_id.removeprefix(f"{NAME}-")
            for e in self.events
            if e.type == "schedule.fired" and e.firing is not None
        ]

    def said(self) -> list[str]:
        """Return the types of the schedule's events, in short."""
        return [e.type.removeprefix("schedule.") for e in self.events if e.run_id == KEY]

    def outcomes(self) -> list[FiringOutcome]:
        return [firing.outcome for firing in self.row.firings]

    def firing(self, run_id: str) -> Firing:
        return next(f for f in self.row.firings if f.run_id == f"{NAME}-{run_id}")

    def decoded(self, value: bytes) -> CoordinatorEnvelope:
        return decode(CoordinatorEnvelope, value)


def moment(text: str) -> int:
    found = datetime.fromisoformat(text)
    return int((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp() * 1_000)
