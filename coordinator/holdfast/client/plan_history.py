"""The plan of a run and what became of it, put together from the run's events."""

from __future__ import annotations

from dataclasses import dataclass, field

from holdfast.client.errors import ClientError, EventsLost
from holdfast.schemas import Event, PlanRevision, ResolvedPlan, changed_plan

__all__ = ["PlanHistory"]


@dataclass(slots=True)
class PlanHistory:
    """All versions of a plan: as it was submitted (version 1), and its changes."""

    source: str | None = None
    revisions: list[PlanRevision] = field(default_factory=list)

    def take(self, event: Event) -> None:
        """Take one event of the run, in order."""
        if event.plan is not None:
            self.source = event.plan
            self.revisions.clear()  # an id that was used again, after its first run was forgotten
        if event.revision is not None:
            self.revisions.append(event.revision)

    @property
    def newest(self) -> int:
        """The number of the newest version."""
        return 1 + len(self.revisions)

    def resolved(self, version: int | None = None) -> ResolvedPlan:
        """Return a version, by default the newest. Raises `EventsLost`, `ClientError`."""
        if self.source is None:
            raise EventsLost("the first events of the run are no longer on the bus")
        if version is not None and not 1 <= version <= self.newest:
            raise ClientError(
                f"the plan has no version {version}: there are 1 to {self.newest}"
                if self.revisions
                else f"the plan has no version {version}: it was not changed, 1 is its only one"
            )
        plan = ResolvedPlan.from_json(self.source)
        taken = self.revisions if version is None else self.revisions[: version - 1]
        return changed_plan(plan, taken)

    def to_json(self) -> str:
        """Return the newest version as a submission carries it; raises `EventsLost`."""
        if self.source is not None and not self.revisions:
            return self.source
        return self.resolved().to_json()
