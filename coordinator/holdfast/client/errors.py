"""What a client may raise, beside `PlanError`, `ConfigurationError` and the errors of the bus.

ClientError
├── RunFailed               the run has ended without success; `failure` says why
│   └── RunCancelled        ... because it was cancelled
├── RunRefused              the coordinator could not run what was submitted
├── RunConflict             the run id exists already, with another plan or input
├── CommandRefused          the run is not in a state for this command
├── WaitTimeout             nothing came within the time given (also a `TimeoutError`)
├── ScheduleNotFound        there is no schedule of this name
├── RunNotFound             nothing on the bus knows of a run of this id
├── EventsLost              the bus has removed events before this client could read them
└── ClientClosed            the client was closed meanwhile
"""

from __future__ import annotations

from holdfast.schemas.errors import HoldfastError
from holdfast.schemas.records import Failure, FailureKind

__all__ = [
    "ClientClosed",
    "ClientError",
    "CommandRefused",
    "EventsLost",
    "RunCancelled",
    "RunConflict",
    "RunFailed",
    "RunNotFound",
    "RunRefused",
    "ScheduleNotFound",
    "WaitTimeout",
]


class ClientError(HoldfastError):
    """Something that a run, or the way to it, did not give."""


class RunFailed(ClientError):
    """A run has ended without success.

    `failure` is typed (kind, error class, message, traceback, retryable); its traceback is that of
    the handler's process.
    """

    def __init__(self, run_id: str, failure: Failure | None) -> None:
        self.run_id = run_id
        self.failure = failure
        super().__init__(f"run {run_id!r} failed{_because(failure)}")


class RunCancelled(RunFailed):
    """A run was cancelled."""

    def __init__(self, run_id: str, failure: Failure | None) -> None:
        super().__init__(run_id, failure)
        reason = "" if failure is None or not failure.message else f": {failure.message}"
        self.args = (f"run {run_id!r} was cancelled{reason}",)


class RunRefused(ClientError):
    """The coordinator could not run what was submitted; nothing of it was worked."""


class RunConflict(ClientError):
    """The run id exists already, with another plan or input."""


class RunNotFound(ClientError):
    """Nothing on the bus knows of a run of this id, and no submission of it waits."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        super().__init__(
            f"run {run_id!r} is not known: no event of it stands on the bus, and no submission "
            "waits for a coordinator. Is the id right, and is this the namespace? (A run whose "
            "plan declares an order key is found with that key; one that ended long ago may have "
            "been removed with its events.)"
        )


class ScheduleNotFound(ClientError):
    """There is no schedule of this name."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(
            f"there is no schedule {name!r} in this namespace: see `holdfast schedules list`"
        )


class CommandRefused(ClientError):
    """The run is not in a state for this command; the message names the state."""


class WaitTimeout(ClientError, TimeoutError):
    """Nothing came within the time given. What was sent stays sent."""


class EventsLost(ClientError):
    """The bus has removed events (by age or size) before this client could read them."""


class ClientClosed(ClientError):
    """The client was closed while something waited."""


def _because(failure: Failure | None) -> str:
    if failure is None:
        return ""
    if failure.kind is FailureKind.ERROR and failure.error_class:
        return f": {failure.error_class}: {failure.message}"
    return f" ({failure.kind}): {failure.message}"
