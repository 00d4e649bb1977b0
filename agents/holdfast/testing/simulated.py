"""A run in a simulation, as its test sees it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from holdfast.client import CommandReceipt, Run, RunFailed, SignalReceipt
from holdfast.schemas.plan import PlanDocument
from holdfast.schemas.records import AskRow, Event, RunState, StepSummary, TaskRow
from holdfast.testing.bodies import BodyKind, Call
from holdfast.testing.standing import open_asks

if TYPE_CHECKING:
    from holdfast.testing.kit import Simulation

__all__ = ["RESULT_S", "SimulatedRun"]

Out = TypeVar("Out")
T = TypeVar("T")

RESULT_S = 30 * 86_400.0
"""A month of virtual time: whoever waits for a result waits at most so long, unless told."""


class SimulatedRun(Generic[Out]):
    """A handle; made by `Simulation.submit` and `Crash.run`.

    `result` and the commands move the simulation on; what was seen (`events`, `calls`, `effects`)
    can be asked for at any time, also when the simulation has been closed.
    """

    def __init__(self, simulation: Simulation, run: Run[Out], note: str = "") -> None:
        self.id = run.id
        self._simulation = simulation
        self._run = run
        self._note = note
        self._value: Out | None = None
        self._error: Exception | None = None
        self._ended = False

    def __repr__(self) -> str:
        return f"<SimulatedRun {self.id!r}{', ' + self._note if self._note else ''}>"

    # --- moving on -------------------------------------------------------------------------------

    def result(self, timeout_s: float = RESULT_S) -> Out:
        """Return the run's output, when it has ended; `timeout_s` is virtual time.

        Raises `RunFailed` (with the traceback of the handler that failed), `RunCancelled`,
        `RunRefused`, `RunConflict`; `StandStill` if it has not ended, with what it waits for.
        """
        if not self._ended:
            self._wait(timeout_s)
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]

    def cancel(
        self,
        *,
        reason: str = "",
        compensate: bool | None = None,
        compensate_from: str | None = None,
    ) -> CommandReceipt:
        """See `Run.cancel`."""
        return self._command(
            "cancel",
            lambda: self._run.cancel(
                reason=reason, compensate=compensate, compensate_from=compensate_from
            ),
        )

    def signal(
        self, signal: str, payload: Any = None, *, signal_id: str | None = None
    ) -> SignalReceipt:
        """See `Run.signal`."""
        return self._command(
            f"signal {signal}", lambda: self._run.signal(signal, payload, signal_id=signal_id)
        )

    def plan(self, version: int | None = None) -> PlanDocument:
        """See `Run.plan`."""
        return self._command("the plan", lambda: self._run.plan(version))

    def pause(self, *, reason: str = "") -> CommandReceipt:
        """See `Run.pause`."""
        return self._command("pause", lambda: self._run.pause(reason=reason))

    def resume(self, *, reason: str = "") -> CommandReceipt:
        """See `Run.resume`."""
        return self._command("resume", lambda: self._run.resume(reason=reason))

    def replay(self, task_id: str, *, reason: str = "") -> CommandReceipt:
        """See `Run.replay`."""
        return self._command("replay", lambda: self._run.replay(task_id, reason=reason))

    def discard(self, task_id: str, *, reason: str = "") -> CommandReceipt:
        """See `Run.discard`."""
        return self._command("discard", lambda: self._run.discard(task_id, reason=reason))

    def skip(self, task_id: str, *, reason: str = "") -> CommandReceipt:
        """See `Run.skip`."""
        return self._command("skip", lambda: self._run.skip(task_id, reason=reason))

    def override(self, task_id: str, output: Any, *, reason: str = "") -> CommandReceipt:
        """See `Run.override`."""
        return self._command("override", lambda: self._run.override(task_id, output, reason=reason))

    def retry(self, task_id: str, *, reason: str = "") -> CommandReceipt:
        """See `Run.retry`."""
        return self._command("retry", lambda: self._run.retry(task_id, reason=reason))

    def restart_task(self, task_id: str, *, reason: str = "") -> CommandReceipt:
        """See `Run.restart_task`."""
        command = "restart of a task"
        return self._command(command, lambda: self._run.restart_task(task_id, reason=reason))

    # --- what was seen ---------------------------------------------------------------------------

    @property
    def events(self) -> list[Event]:
        """Every event of the run so far, in order."""
        return self._simulation.events(self.id)

    @property
    def state(self) -> RunState | None:
        """The state of the run; None before a coordinator has taken it in."""
        rows = [event.run for event in self.events if event.run is not None]
        return rows[-1].state if rows else None

    @property
    def tasks(self) -> dict[str, TaskRow]:
        """The newest row of each task that has been worked on, by its id."""
        return {e.task.task_id: e.task for e in self.events if e.task is not None}

    @property
    def waits(self) -> list[AskRow]:
        """What the run's tasks wait for now, as `Run.waits` tells it."""
        return open_asks(self.events)

    def steps(self, task_id: str) -> list[StepSummary]:
        """Return the journaled steps that a task's result tells of."""
        return self.tasks[task_id].steps

    def calls(
        self, name: str | None = None, *, kind: BodyKind | None = None, key: str | None = None
    ) -> list[Call]:
        """Return the calls of handlers, steps and effects of this run, in order.

        One that its process died in counts too: the world may have seen it.
        """
        return [
            call
            for call in self._simulation.calls
            if call.run_id == self.id
            and name in (None, call.name)
            and kind in (None, call.kind)
            and key in (None, call.key)
        ]

    def effects(self, name: str, key: str | None = None) -> int:
        """Return how many effects of that name a receiver that honours idempotency keys has seen.

        How often it was *called* is `len(run.calls(name, kind="effect"))`: after a crash that may
        be more.
        """
        keys = {call.idempotency_key for call in self.calls(name, kind="effect", key=key)}
        return len(keys)

    # --- how -------------------------------------------------------------------------------------

    def _wait(self, timeout_s: float) -> None:
        simulation = self._simulation
        try:
            self._value = simulation.call(
                self._run.result,
                timeout_s,
                lambda: f"run {self.id!r} has not ended{self._where()}",
                self.id,
            )
        except RunFailed as error:
            self._error = error
            if error.failure is not None and error.failure.traceback:
                error.add_note(f"In the handler's process:\n{error.failure.traceback}")
            if self._note:
                error.add_note(f"In the simulation in which {self._note}")
        self._ended = True

    def _command(self, name: str, command: Callable[[], Coroutine[Any, Any, T]]) -> T:
        return self._simulation.call(
            command, 60.0, lambda: f"{name} of run {self.id!r} was not answered", self.id
        )

    def _where(self) -> str:
        return f" in the simulation in which {self._note}" if self._note else ""
