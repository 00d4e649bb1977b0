"""What flows through a bus tells which point is passed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from holdfast.bus.port import Received, Record
from holdfast.bus.topics import Topics
from holdfast.schemas.codec import encode
from holdfast.schemas.records import (
    Accepted,
    AgentJournal,
    Cause,
    CoordinatorEnvelope,
    Event,
    EventType,
    Outcome,
    StepEntry,
    StepKind,
    TaskEnvelope,
    TaskResult,
)
from tests.torture.faults.records import submission
from tests.torture.moments import AgentMoments, CoordinatorMoments
from tests.torture.points import Control, Point

TOPICS = Topics("t")
CAUSE = Cause(0, 1)
TASK = TaskEnvelope("r", "a", "a", 1, None, "r", "r", 1)


class Passed(Control):
    """Notes what was reached, instead of dying."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "x-1")
        self.passed: list[Point] = []

    def reached(self, point: Point) -> None:
        if self.armed is point:
            self.passed.append(point)


def journaled(body: Any) -> Record:
    return Record(TOPICS.journal("alpha"), b"r/a", encode(AgentJournal(body, "b")), (), 0)


def event(kind: EventType, cause: Cause | None = CAUSE) -> Record:
    return Record(TOPICS.events, b"r", encode(Event("r", kind, 1, cause, None, None, "")), (), 0)


@pytest.mark.parametrize(
    ("body", "accepted"),
    [
        (Accepted(TASK, 0, 0, 0, 0, False, 0), True),
        (StepEntry("s", "", StepKind.STEP, 1, "", b"1", 1, 1), False),
    ],
)
def test_a_commit_with_an_accepted_task_is_an_acceptance(tmp_path, body, accepted):
    control = Passed(tmp_path)
    moments = AgentMoments(control, TOPICS, "alpha")
    for point in (Point.BEFORE_ACCEPT, Point.AFTER_ACCEPT):
        control.arm(point)
        moments.committing([journaled(body)], {})
        moments.committed([journaled(body)], {})
    assert control.passed == ([Point.BEFORE_ACCEPT, Point.AFTER_ACCEPT] if accepted else [])


def test_a_commit_with_a_result_for_the_coordinator_is_the_end_of_a_task(tmp_path):
    control = Passed(tmp_path)
    moments = AgentMoments(control, TOPICS, "alpha")
    ended = TaskResult("a", 1, Outcome.SUCCEEDED, b"1", None, [], 0, 0, 0, "b", "1")
    for body in (submission("r", 1), ended):
        handed = Record(TOPICS.coordinator, b"r", encode(CoordinatorEnvelope("r", 1, body)), (), 0)
        for point in (Point.BEFORE_RESULT, Point.AFTER_RESULT):
            control.arm(point)
            moments.committing([handed], {})
            moments.committed([handed], {})
    assert control.passed == [Point.BEFORE_RESULT, Point.AFTER_RESULT], "of the result's alone"


def test_only_polls_that_bring_something_count_as_passed(tmp_path):
    control = Passed(tmp_path)
    moments = AgentMoments(control, TOPICS, "alpha")
    control.arm(Point.AFTER_POLL)
    moments.polled([])
    assert control.passed == []
    moments.polled([Received("t", 0, 0, b"", b"", (), 1)])
    assert control.passed == [Point.AFTER_POLL]


@pytest.mark.parametrize(
    ("point", "record"),
    [
        (Point.AFTER_SUBMIT, event(EventType.RUN_STARTED)),
        (Point.BEFORE_PLAN, event(EventType.TASK_EXPANDED)),
        (Point.BEFORE_DISPATCH, event(EventType.TASK_DISPATCHED)),
        (Point.AFTER_RESULT, event(EventType.TASK_SUCCEEDED)),
        (Point.BEFORE_TIMER, event(EventType.TASK_DISPATCHED, None)),
    ],
)
def test_a_coordinators_commit_is_told_by_its_events(tmp_path, point, record):
    control = Passed(tmp_path)
    moments = CoordinatorMoments(control, TOPICS)
    control.arm(point)
    for records in ([event(EventType.COMMAND_ACCEPTED)], [record]):
        moments.committing(records, {})
        moments.committed(records, {})
    assert control.passed == [point]


def test_a_submission_is_seen_among_damaged_records(tmp_path):
    control = Passed(tmp_path)
    moments = CoordinatorMoments(control, TOPICS)
    control.arm(Point.BEFORE_SUBMIT)
    damaged = Received(TOPICS.coordinator, 0, 0, b"r", b"\x07", (), 1)
    moments.polled([damaged])
    assert control.passed == []
    value = encode(CoordinatorEnvelope("r", 1, submission("r", 1)))
    moments.polled([damaged, damaged._replace(value=value)])
    assert control.passed == [Point.BEFORE_SUBMIT]
