"""A run that is to start later, in the engine: its timer is state, and is armed again."""

from __future__ import annotations

from dataclasses import replace

from holdfast.schemas.codec import encode_json
from holdfast.schemas.records import (
    CommandAction,
    CoordinatorEnvelope,
    EventType,
    RunState,
    Submission,
)
from tests.unit.coordinator.host import START_MS, Host
from tests.unit.coordinator.test_asks import lone

DAY_MS = 86_400_000
LATER = Submission(lone(), encode_json({"x": 1}), "hash", "run-1", "test", start_in_ms=DAY_MS)


def begun(submission: Submission = LATER) -> Host:
    host = Host()
    host.deliver(CoordinatorEnvelope("run-1", host.now_ms, submission), "run-1")
    host.pump()
    return host


def test_it_starts_in_time_also_after_a_restart() -> None:
    host = begun()
    assert host.told() == ["run.started"]
    host.pass_time(DAY_MS - 1)
    host.restart()
    assert host.sent == []
    host.pass_time(1)
    assert host.told()[1:] == ["run.resumed", "task.dispatched one"]


def test_a_moment_is_kept_as_it_was_given() -> None:
    host = begun(replace(LATER, start_in_ms=None, start_ms=START_MS + 5_000))
    host.pass_time(4_999)
    assert host.sent == []
    host.pass_time(1)
    assert len(host.sent) == 1


def test_a_deadline_given_from_outside_may_come_first() -> None:
    host = begun(replace(LATER, deadline_ms=START_MS + 60_000))
    host.pass_time(60_000)
    last = host.last_run()
    assert (last.type, last.run and last.run.state) == (EventType.RUN_FAILED, RunState.FAILED)
    host.pass_time(DAY_MS)
    assert host.sent == []


def test_a_cancel_takes_the_timer_along() -> None:
    host = begun()
    host.command(CommandAction.CANCEL)
    assert host.last_run().type is EventType.RUN_CANCELLED
    host.pass_time(DAY_MS)
    assert host.sent == []


def test_a_deadline_at_its_start_ends_it() -> None:
    host = begun(replace(LATER, deadline_ms=START_MS + DAY_MS))
    host.pass_time(2 * DAY_MS)
    assert host.last_run().type is EventType.RUN_FAILED
    assert host.sent == []


def test_a_deadline_of_zero_is_one() -> None:
    """Zero is a moment, and it has passed: not the same as no deadline."""
    host = begun(replace(LATER, start_in_ms=None, deadline_ms=0))
    host.pass_time(1)
    last = host.last_run()
    assert last.run is not None
    assert last.run.state is not RunState.RUNNING
    assert "deadline" in last.message or last.type is EventType.RUN_FAILING
