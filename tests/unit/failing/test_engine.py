"""The engine with failures that carry classes, wishes and outages: events, replays, restores."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.schemas.plan import Plan, Retry
from holdfast.schemas.records import CommandAction, FailureKind, TaskEnvelope
from tests.unit.coordinator.host import Host, Raised, resolved

RETRY = Retry(
    attempts=2,
    jitter=0,
    never=("Broken",),
    by_error={"Busy": Retry(attempts=3, initial_s=10, jitter=0)},
)
LIMITS = {"Busy": 3, "Other": 2, "Broken": 1}


def lone(**given_: Any) -> str:
    deadline_s = given_.pop("deadline_s", None)
    plan = Plan("lone", on_dead_letter=given_.pop("on_dead_letter", "fail"), deadline_s=deadline_s)
    plan.task("one", "a.t", x=1, retry=RETRY, **given_)
    return resolved(plan)


def raises(error: str, *, breaker: str | None = None, after_ms: int | None = None) -> Any:
    def handler(envelope: TaskEnvelope) -> Any:
        raised = Raised(FailureKind.ERROR)
        raised.failure.error_class = error
        raised.failure.classes = [f"pkg.{error}", "Exception"]
        raised.failure.breaker, raised.failure.retry_after_ms = breaker, after_ms
        raise raised

    return handler


def retried(host: Host) -> list[str]:
    return [event.message for event in host.events if event.type == "task.retrying"]


def test_events_tell_the_reason_of_a_retry() -> None:
    host = Host()
    host.submit(lone())
    host.work(raises("Busy"))
    host.pass_time(10_000)
    host.work(raises("Busy", after_ms=90_000))
    host.pass_time(89_999)
    assert not host.tasks
    host.pass_time(1)
    host.work(raises("Other"))
    host.pass_time(1_000)
    host.work(raises("Other", breaker="crm", after_ms=30_000))
    assert retried(host) == [
        "Busy, failure 1 of 3 by the policy for Busy; another attempt in 10.0 s",
        "Busy, failure 2 of 3 by the policy for Busy; another attempt in 90.0 s, as it asks for",
        "Other, failure 1 of 2; another attempt in 1.0 s",
        "Other: 'crm' is out of reach; another attempt in 30.0 s, this one is not counted",
    ]
    host.pass_time(30_000)
    host.work(raises("Busy"))
    assert host.told()[-1] == "run.failed"


def test_what_is_never_tried_again_is_a_dead_letter_at_once() -> None:
    host = Host()
    host.submit(lone())
    host.work(raises("Broken"))
    assert [letter.reason for letter in host.dead_letters] == ["exhausted"]


def test_an_outage_never_makes_a_dead_letter_but_a_deadline_ends_it() -> None:
    host = Host()
    host.submit(lone(deadline_s=7_200))
    for _ in range(119):
        host.work(raises("Other", breaker="crm", after_ms=60_000))
        host.pass_time(60_000)
    assert not host.dead_letters
    assert [envelope.attempt for _, envelope in host.sent] == list(range(1, 121))
    host.pass_time(60_000)
    host.answer_cancels()
    host.pump()
    assert host.told()[-1] == "run.failed"


def test_a_replayed_task_has_all_its_attempts_again() -> None:
    host = Host()
    host.submit(lone(on_dead_letter="wait"))

    def use_up() -> None:
        for _ in range(3):
            host.work(raises("Busy"))
            host.pass_time(100_000)

    use_up()
    assert host.told()[-2:] == ["task.dead one", "run.waiting"]
    host.command(CommandAction.REPLAY, "one")
    use_up()
    assert [envelope.attempt for _, envelope in host.sent] == [1, 2, 3, 4, 5, 6]
    assert len(host.dead_letters) == 2


Steps = st.lists(
    st.tuples(st.sampled_from(sorted(LIMITS)), st.booleans(), st.booleans()), max_size=14
)


@settings(deadline=None, max_examples=40)
@given(Steps)
def test_a_restart_between_any_two_attempts_changes_nothing(
    steps: list[tuple[str, bool, bool]],
) -> None:
    """`restarted` is restored from its journal wherever the steps say; the other never is."""
    restarted, steady = Host(), Host()
    counted: dict[str, int] = {}
    for host in (restarted, steady):
        host.submit(lone())
    for error, outage, restart in steps:
        if not steady.tasks:
            break
        if restart:
            restarted.restart()
        for host in (restarted, steady):
            host.work(raises(error, breaker="crm" if outage else None))
            host.pass_time(200_000)
        if not outage or error == "Broken":
            counted[error] = counted.get(error, 0) + 1
        over = any(counted.get(name, 0) >= most for name, most in LIMITS.items())
        assert bool(steady.tasks) is not over, counted
    assert restarted.told() == steady.told()
    assert retried(restarted) == retried(steady)
    assert [e.attempt for _, e in restarted.sent] == [e.attempt for _, e in steady.sent]
