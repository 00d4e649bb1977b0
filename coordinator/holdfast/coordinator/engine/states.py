"""The two state machines of the engine: one table each, and the only way through them.

A run:
                 +--------- PAUSED <--------+
                 v            ^             |
    (new) --> RUNNING <----> WAITING -------+
                 |
                 +--> SUCCEEDED
                 +--> CANCELLING --+--> COMPENSATING --+--> CANCELLED
                 |                 +-------------------+
                 +--> FAILING -----+--> COMPENSATING --+--> FAILED
                                   +-------------------+
    The last three also from PAUSED and WAITING.

A task, from PENDING (which is journaled only of what a handler calls in a pause):
    DISPATCHED -> SUCCEEDED | FAILED | RETRYING -> DISPATCHED ... | DEAD -> DISPATCHED (replay)
    DISPATCHED -> CANCELLING -> CANCELLED | SUCCEEDED | FAILED  (what came first holds)
    EXPANDED   -> SUCCEEDED | FAILED | CANCELLED                (a map, a loop, a plan)
    SKIPPED, or straight to an end where nothing needs to be sent
    Any that has not ended -> SKIPPED | SUCCEEDED by an operator, out of DISPATCHED by CANCELLING

A run that ends badly passes CANCELLING or FAILING, if only within one event: so there is one way
to close it. All that is open is ended there; then, in COMPENSATING, what had succeeded is undone,
if there is such, and it is wanted. CANCELLING may end FAILED when its records cannot be written.
"""

from __future__ import annotations

from holdfast.schemas.records import RunState, TaskState

__all__ = [
    "OPEN_TASK_STATES",
    "RUN_ENDS",
    "RUN_TRANSITIONS",
    "TASK_ENDS",
    "TASK_TRANSITIONS",
    "IllegalMove",
    "check_run_move",
    "check_task_move",
]

_R, _T = RunState, TaskState

RUN_TRANSITIONS: dict[RunState, frozenset[RunState]] = {
    _R.RUNNING: frozenset({_R.PAUSED, _R.WAITING, _R.CANCELLING, _R.FAILING, _R.SUCCEEDED}),
    _R.PAUSED: frozenset({_R.RUNNING, _R.CANCELLING, _R.FAILING, _R.SUCCEEDED}),
    _R.WAITING: frozenset({_R.RUNNING, _R.PAUSED, _R.CANCELLING, _R.FAILING, _R.SUCCEEDED}),
    _R.CANCELLING: frozenset({_R.COMPENSATING, _R.CANCELLED, _R.FAILED}),
    _R.FAILING: frozenset({_R.COMPENSATING, _R.FAILED}),
    _R.COMPENSATING: frozenset({_R.CANCELLED, _R.FAILED}),
    _R.SUCCEEDED: frozenset(),
    _R.FAILED: frozenset(),
    _R.CANCELLED: frozenset(),
}

TASK_TRANSITIONS: dict[TaskState, frozenset[TaskState]] = {
    _T.PENDING: frozenset(
        {
            _T.DISPATCHED,
            _T.EXPANDED,
            _T.SKIPPED,
            _T.SUCCEEDED,
            _T.FAILED,
            _T.DEAD,
            _T.CANCELLED,
        }
    ),
    _T.DISPATCHED: frozenset(
        {_T.SUCCEEDED, _T.FAILED, _T.RETRYING, _T.CANCELLING, _T.CANCELLED, _T.DEAD}
    ),
    _T.EXPANDED: frozenset({_T.SUCCEEDED, _T.FAILED, _T.CANCELLED, _T.DEAD, _T.SKIPPED}),
    _T.RETRYING: frozenset({_T.DISPATCHED, _T.FAILED, _T.CANCELLED, _T.SUCCEEDED, _T.SKIPPED}),
    _T.CANCELLING: frozenset({_T.SUCCEEDED, _T.FAILED, _T.CANCELLED, _T.SKIPPED}),
    _T.DEAD: frozenset(
        {_T.DISPATCHED, _T.EXPANDED, _T.SKIPPED, _T.SUCCEEDED, _T.FAILED, _T.CANCELLED, _T.DEAD}
    ),
    _T.SUCCEEDED: frozenset(),
    _T.FAILED: frozenset(),
    _T.CANCELLED: frozenset(),
    _T.SKIPPED: frozenset(),
}

RUN_ENDS = frozenset(state for state, after in RUN_TRANSITIONS.items() if not after)
TASK_ENDS = frozenset(state for state, after in TASK_TRANSITIONS.items() if not after)
OPEN_TASK_STATES = frozenset({_T.DISPATCHED, _T.EXPANDED, _T.RETRYING, _T.CANCELLING})
"""A task in one of these goes on by itself: by an agent's answer or by a timer."""


class IllegalMove(AssertionError):
    """A change of state that the table does not hold: a fault of the engine, never of a user."""


def check_run_move(run_id: str, before: RunState, after: RunState) -> None:
    """Raise `IllegalMove` unless a run may go from `before` to `after`."""
    if after not in RUN_TRANSITIONS[before]:
        raise IllegalMove(f"run {run_id}: {before} -> {after}")


def check_task_move(run_id: str, task_id: str, before: TaskState, after: TaskState) -> None:
    """Raise `IllegalMove` unless a task may go from `before` to `after`."""
    if after not in TASK_TRANSITIONS[before]:
        raise IllegalMove(f"task {run_id}/{task_id}: {before} -> {after}")
