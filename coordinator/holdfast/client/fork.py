"""A run once more: a new submission built from the events of the old one.

Plan (as it was changed) and input are the old run's, the outputs of tasks that succeeded are
reused, and the origin stays the same, so that effects keep their idempotency keys: what was applied
is not applied again. Of a run that was undone (compensation) nothing stands any more: what was
undone is done anew, under an origin of its own, or its effects would be taken for the old ones.

A fork *from a task* works that task and all that follows from it again, whatever became of it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass, field

from holdfast.client.errors import ClientError, EventsLost
from holdfast.client.plan_history import PlanHistory
from holdfast.schemas import (
    Event,
    EventType,
    Payload,
    PlanDocument,
    ResolvedPlan,
    RunRow,
    RunState,
    Submission,
    TaskState,
    did_you_mean,
)
from holdfast.schemas.plan_checks import check_plan, emitter_of

__all__ = ["Changed", "Fork", "build_fork", "downstream", "fork_id", "retry_ids"]

RETRIES_MAX = 1_000
"""Of one run: `<run>.r1` to `<run>.r1000`."""
_FORKABLE = (RunState.FAILED, RunState.CANCELLED)
_ENDED = (*_FORKABLE, RunState.SUCCEEDED)
_CALLED, _UNDO = "~", "!"
_RETRY = re.compile(r"\.r[0-9]+$")
_ID_CHARS = 113


@dataclass(frozen=True, slots=True)
class Changed:
    """Another input for a fork, with the order key that its plan makes of it."""

    input: Payload
    order_key: str | None
    digest: str


@dataclass(slots=True)
class Fork:
    """What was found of the old run."""

    row: RunRow | None = None
    plans: PlanHistory = field(default_factory=PlanHistory)
    reused: dict[str, Payload] = field(default_factory=dict)
    skipped: set[str] = field(default_factory=set)
    """Tasks of the plan that an operator has skipped."""
    undone: set[str] = field(default_factory=set)
    """Tasks of the plan, some success of which was undone."""

    def take(self, event: Event) -> None:
        """Take one event of the old run, in order."""
        if event.type is EventType.RUN_STARTED:
            self.reused.clear()  # an id that was used again, after its first run was forgotten
            self.skipped.clear()
            self.undone.clear()
        self.plans.take(event)
        if event.run is not None:
            self.row = event.run
        task = event.task
        if task is None:
            return
        if task.task_id.startswith(_UNDO):
            if task.state is TaskState.SUCCEEDED:
                self.undone.add(task.task_id.removeprefix(_UNDO).partition(".")[0])
        elif "." in task.task_id:
            return  # an item of a map (a dot in its id) is part of the map's own output
        elif task.task_id.startswith(_CALLED):
            return  # a handler called it, or a map's reducer is it: no plan has it
        elif task.state is TaskState.SUCCEEDED:
            self.reused[task.task_id] = task.output
        elif task.state is TaskState.SKIPPED and task.ruling is not None:
            self.skipped.add(task.task_id)

    @property
    def ended(self) -> bool:
        """Whether the old run has ended. Raises `EventsLost`."""
        return self._known().state in _ENDED

    @property
    def plan(self) -> ResolvedPlan:
        """The plan as it is at its end. Raises `EventsLost`."""
        return self.plans.resolved()

    def _known(self) -> RunRow:
        if self.row is None or self.plans.source is None:
            raise EventsLost("the first events of the run are no longer on the bus: submit it anew")
        return self.row

    def submission(self, submitted_by: str, run_id: str, reason: str = "") -> Submission:
        """Return the new submission of a run that failed. Raises `EventsLost`, `ClientError`."""
        row = self._known()
        if row.state not in _FORKABLE:
            raise ClientError(
                f"run {row.run_id!r} is {row.state}: only a run that failed or was cancelled can be"
                " forked as a whole; name the task to fork it from"
            )
        made = self._submission(submitted_by, run_id, frozenset(), row.input_hash)
        made.reason = _told(f"once more {row.run_id}", submitted_by, reason)
        return made

    def submission_from(
        self,
        task_id: str,
        submitted_by: str,
        run_id: str,
        changed: Changed | None = None,
        reason: str = "",
    ) -> Submission:
        """Return a submission that works a task again, and all that follows from it.

        The hash is of its own: to ask for the same again is the same submission, to ask for
        another task or input is another. Raises `EventsLost`, `ClientError` naming the remedy.
        """
        row = self._known()
        again = downstream(self.plan.plan, task_id)
        digest = "" if changed is None else changed.digest
        said = f"{row.input_hash}\0{row.run_id}\0{task_id}\0{digest}"
        made = self._submission(
            submitted_by, run_id, again, hashlib.sha256(said.encode()).hexdigest()
        )
        made.reason = _told(f"once more {row.run_id} from task {task_id!r}", submitted_by, reason)
        if changed is not None:
            made.input, made.order_key = changed.input, changed.order_key
        return made

    def _submission(
        self, submitted_by: str, run_id: str, again: Collection[str], input_hash: str
    ) -> Submission:
        row = self._known()
        again = set(again)
        if self.undone:
            document = self.plan.plan
            again.update(*(downstream(document, n) for n in self.undone if n in document.tasks))
        again = self._with_emitters(again)
        return Submission(
            plan=self._plan_text(self.skipped - again),
            input=row.input,
            input_hash=input_hash,
            origin=run_id if self.undone else row.origin,
            submitted_by=submitted_by,
            order_key=row.order_key,
            reused={name: out for name, out in self.reused.items() if name not in again},
        )

    def _with_emitters(self, again: set[str]) -> set[str]:
        """Return `again` with the tasks that hand out items to a map that is worked again.

        Items are kept nowhere once a map has taken them: only their task can hand them out anew.
        """
        document = self.plan.plan
        while True:
            emitters = {
                emitter_of(spec.map.over)
                for name, spec in document.tasks.items()
                if spec.map is not None
                and spec.dropped is None
                and (name in again or name not in self.reused.keys() | self.skipped)
            }
            new = sorted(name for name in emitters if name in self.reused and name not in again)
            if not new:
                return again
            again = again.union(*(downstream(document, name) for name in new))

    def _plan_text(self, skipped: Collection[str]) -> str:
        """Return the plan; what an operator has skipped stays so, as by a change of the plan."""
        if not skipped:
            return self.plans.to_json()
        plan = self.plan
        tasks = {
            name: spec.model_copy(update={"dropped": "skip"}) if name in skipped else spec
            for name, spec in plan.plan.tasks.items()
        }
        document = plan.plan.model_copy(update={"tasks": tasks})
        return plan.model_copy(update={"plan": document}).to_json()


def _told(what: str, actor: str, reason: str) -> str:
    return f"{what}, by {actor}" + (f": {reason}" if reason else "")


def downstream(plan: PlanDocument, task_id: str) -> frozenset[str]:
    """Return a task and all that is worked again with it.

    That is what depends on it, and what it, or one of those, has added to the plan. Raises
    `ClientError` for what is no task of the plan, naming what to fork from instead.
    """
    if task_id not in plan.tasks:
        raise ClientError(_no_start(plan, task_id))
    following: dict[str, set[str]] = {name: set() for name in plan.tasks}
    for name, waited_for in check_plan(plan).dependencies.items():
        for other in waited_for:
            following[other].add(name)
    for name, spec in plan.tasks.items():
        if spec.added_by in following:
            following[spec.added_by].add(name)
    found, left = {task_id}, [task_id]
    while left:
        fresh = following[left.pop()] - found
        found |= fresh
        left.extend(fresh)
    return frozenset(found)


def _no_start(plan: PlanDocument, task_id: str) -> str:
    base = re.split(r"[./]", task_id.removeprefix(_UNDO), maxsplit=1)[0]
    if base in plan.tasks:
        return (
            f"{task_id!r} is a part of task {base!r}, which is worked again as a whole: fork from"
            f" {base!r}"
        )
    if task_id.startswith(_CALLED):
        return f"{task_id!r} was called by a handler: fork from the task that has called it"
    return f"the plan has no task {task_id!r}{did_you_mean(task_id, plan.tasks)}"


async def build_fork(events: AsyncIterator[Event]) -> Fork:
    """Read a run's events to its end."""
    fork = Fork()
    async for event in events:
        fork.take(event)
    return fork


def fork_id(run_id: str) -> str:
    """Return the id of a run's fork: always the same, so that asking twice forks once."""
    suffix = hashlib.sha256(f"fork of {run_id}".encode()).hexdigest()[:8]
    return f"{_base(run_id)}.again-{suffix}"


def retry_ids(run_id: str) -> list[str]:
    """Return the ids that a retry of a run may have, in the order to be tried: `<run>.r<n>`."""
    base = _base(_RETRY.sub("", run_id))
    return [f"{base}.r{number}" for number in range(1, RETRIES_MAX + 1)]


def _base(run_id: str) -> str:
    return run_id[:_ID_CHARS].replace("~", "-")
