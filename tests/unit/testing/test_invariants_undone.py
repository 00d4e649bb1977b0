"""I7 reads from the events what is to be undone, and sees what was not, or not in its turn."""

from __future__ import annotations

from collections.abc import Callable

from holdfast.schemas import Plan
from holdfast.schemas.records import Event, EventType
from tests.unit.testing.made import EVENTS, Made, error


def undone() -> Made:
    """Return a run of three tasks, two of which are undone after the third has failed."""
    plan = Plan("saga")
    one = plan.task("one", "a.t", compensate="a.undo")
    two = plan.task("two", "a.t", after=[one], compensate="a.undo")
    plan.task("three", "a.t", after=[two], retry={"attempts": 1})
    made = Made()
    made.submit("r1", plan)
    made.coordinate()
    for failure in (None, None, error(retryable=False), None, None):
        made.work(failure)
        made.coordinate()
    return made.finish()


def told(made: Made) -> str:
    return made.check("I7").report()


def altered(kind: EventType, task_id: str | None, change: Callable[[Event], None]) -> str:
    made = undone()
    made.alter(made.event(kind, task_id), Event, change)
    return told(made)


def test_what_is_undone_in_its_turn_is_in_order() -> None:
    made = undone()
    verdict = made.check("I7", "I1", "I2", "I5", "I9")
    assert verdict.violations == []
    assert verdict.looked_at["I7"]["compensations"] == 2


def test_what_is_undone_before_its_turn() -> None:
    def swap(name: str) -> Callable[[Event], None]:
        def change(event: Event) -> None:
            assert event.task is not None
            event.task.task_id = name

        return change

    made = undone()
    for kind in (EventType.TASK_DISPATCHED, EventType.TASK_SUCCEEDED):
        first, second = made.event(kind, "!two"), made.event(kind, "!one")
        made.alter(first, Event, swap("!one"))
        made.alter(second, Event, swap("!two"))
    assert "r1/one is undone before 'two', which succeeded later" in told(made)


def test_what_was_left_out() -> None:
    made = undone()
    for kind in (EventType.TASK_DISPATCHED, EventType.TASK_SUCCEEDED):
        made.drop(made.event(kind, "!one"))
    assert "r1 ended, and 'one' was not undone" in told(made)


def test_what_is_undone_while_the_one_before_is_at_work() -> None:
    made = undone()
    log = made.logs[EVENTS]
    done = log.index(made.event(EventType.TASK_SUCCEEDED, "!two"))
    sent = log.index(made.event(EventType.TASK_DISPATCHED, "!one"))
    log[done], log[sent] = log[sent], log[done]
    assert "r1/one is undone while the undoing of 'two' is dispatched" in told(made)


def test_what_had_not_succeeded() -> None:
    def change(event: Event) -> None:
        assert event.task is not None
        event.task.task_id = "!three"

    assert "undoes what had not succeeded" in altered(EventType.TASK_DISPATCHED, "!one", change)


def test_what_began_before_all_was_still() -> None:
    made = undone()
    made.drop(made.event(EventType.RUN_COMPENSATING))
    assert "began in a run that is failing" in told(made)
