"""A run that failed, once more: a new submission built from the events of the old one.

Plan (as it was changed) and input are the old run's, the outputs of tasks that succeeded are
reused, and the origin stays the same, so that effects keep their idempotency keys: what was applied
is not applied again.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from holdfast.client.errors import ClientError, EventsLost
from holdfast.client.plan_history import PlanHistory
from holdfast.schemas import Event, EventType, Payload, RunRow, RunState, Submission, TaskState

__all__ = ["Fork", "build_fork", "fork_id"]

_FORKABLE = (RunState.FAILED, RunState.CANCELLED)


@dataclass(slots=True)
class Fork:
    """What was found of the old run."""

    row: RunRow | None = None
    plans: PlanHistory = field(default_factory=PlanHistory)
    reused: dict[str, Payload] = field(default_factory=dict)

    def take(self, event: Event) -> None:
        """Take one event of the old run, in order."""
        if event.type is EventType.RUN_STARTED:
            self.reused.clear()  # an id that was used again, after its first run was forgotten
        self.plans.take(event)
        if event.run is not None:
            self.row = event.run
        task = event.task
        # An item of a map (a dot in its id) is part of the map's own output.
        if task is not None and task.state is TaskState.SUCCEEDED and "." not in task.task_id:
            self.reused[task.task_id] = task.output

    def submission(self, submitted_by: str) -> Submission:
        """Return the new submission. Raises `EventsLost`, `ClientError`."""
        row = self.row
        if row is None or self.plans.source is None:
            raise EventsLost("the first events of the run are no longer on the bus: submit it anew")
        if row.state not in _FORKABLE:
            raise ClientError(
                f"run {row.run_id!r} is {row.state}: only a run that failed or was cancelled can be"
                " forked"
            )
        return Submission(
            plan=self.plans.to_json(),
            input=row.input,
            input_hash=row.input_hash,
            origin=row.origin,
            submitted_by=submitted_by,
            order_key=row.order_key,
            reused=self.reused,
        )


async def build_fork(events: AsyncIterator[Event]) -> Fork:
    """Read a run's events to its end."""
    fork = Fork()
    async for event in events:
        fork.take(event)
    return fork


def fork_id(run_id: str) -> str:
    """Return the id of a run's fork: always the same, so that asking twice forks once."""
    suffix = hashlib.sha256(f"fork of {run_id}".encode()).hexdigest()[:8]
    return f"{run_id[:113].replace('~', '-')}.again-{suffix}"
