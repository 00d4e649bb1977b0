"""Retry policies by class of error: what they say, and how the engine counts."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.agents import Fatal, Retry, RetryLater
from holdfast.agents.errors import DefinitionError
from holdfast.agents.failures import failure_of
from holdfast.coordinator.engine.run.retrying import next_attempt
from holdfast.coordinator.engine.run.rows import new_task
from holdfast.schemas import Plan, PlanDocument, PlanError, decode, encode, parse_plan
from holdfast.schemas.plan import Retry as PlanRetry
from holdfast.schemas.records import (
    CoordinatorJournal,
    ErrorRetry,
    Failure,
    FailureKind,
    RetryPolicy,
    TaskEntry,
)
from holdfast.schemas.retrying import NEVER, RETRY_AFTER_MAX_S, error_names, rule_for


class Busy(Exception):
    """A user's own."""


class VeryBusy(Busy):
    """Narrower."""


def failure(error: type[BaseException]) -> Failure:
    return failure_of(error())


def rule(policy: RetryPolicy, error: type[BaseException]) -> object:
    found = rule_for(policy, failure(error))
    return found.error if isinstance(found, ErrorRetry) else found


def test_the_nearest_class_decides() -> None:
    policy = Retry(
        never=(OSError, "Busy"), by_error={ConnectionError: Retry(attempts=50), VeryBusy: Retry()}
    ).policy()
    assert rule(policy, ConnectionResetError) == "ConnectionError"
    assert rule(policy, FileNotFoundError) == NEVER
    assert rule(policy, Busy) == NEVER, "a name without its module means any"
    assert rule(policy, VeryBusy) == f"{__name__}.VeryBusy"
    assert rule(policy, KeyError) is None
    other = Retry(never=("elsewhere.Busy",)).policy()
    assert rule(other, Busy) is None


def test_a_first_delay_is_not_cut_short_by_a_default() -> None:
    assert Retry(initial_s=600).policy().max_ms == 600_000
    assert Retry(initial_s=600, max_s=60).policy().max_ms == 60_000
    assert Retry().policy().max_ms == 60_000


def test_a_failure_carries_its_classes_and_no_more_than_a_bounded_number() -> None:
    assert failure(ConnectionResetError).classes == [
        "ConnectionResetError",
        "ConnectionError",
        "OSError",
        "Exception",
    ]
    deep: type[Exception] = Exception
    for _ in range(50):
        deep = type("Deep", (deep,), {})
    assert len(error_names(deep)) == 16
    long = type("L" * 5_000, (Exception,), {})
    assert len(error_names(long)[0]) == 256


@pytest.mark.parametrize(
    "asked", [float("nan"), -1, "5", True, None], ids=["nan", "negative", "text", "bool", "none"]
)
def test_nonsense_in_retry_after_s_counts_as_nothing(asked: object) -> None:
    error = Busy()
    error.retry_after_s = asked  # type: ignore[attr-defined]
    assert failure_of(error).retry_after_ms is None


def test_retry_after_s_is_bounded() -> None:
    assert failure_of(RetryLater(2.5, "soon")).retry_after_ms == 2_500
    error = Busy()
    error.retry_after_s = float("inf")  # type: ignore[attr-defined]
    assert failure_of(error).retry_after_ms == RETRY_AFTER_MAX_S * 1_000
    with pytest.raises(DefinitionError, match="seconds from 0"):
        RetryLater(-1)


def test_the_same_policy_in_code_in_json_and_in_yaml() -> None:
    plan = Plan("p")
    retry = PlanRetry(attempts=4, never=(ValueError,), by_error={"pkg.Busy": PlanRetry(attempts=9)})
    plan.task("one", "a.one", retry=retry)
    document = plan.document()
    assert PlanDocument.from_json(document.to_json()) == document
    text = (
        "name: p\ntasks:\n  one:\n    task: a.one\n    retry:\n      attempts: 4\n"
        "      never: [ValueError]\n      by_error: {pkg.Busy: {attempts: 9}}\n"
    )
    written = parse_plan(text).tasks["one"].retry
    assert written is not None
    assert written.policy() == retry.policy()
    assert written.policy().by_error == [ErrorRetry("pkg.Busy", attempts=9)]


@pytest.mark.parametrize(
    ("retry", "said"),
    [
        ("{never: [3]}", "no class of errors"),
        ("{never: ['not a name']}", "no class of errors"),
        ("{by_error: {X: {never: [Y]}}}", "beside it"),
        ("{never: [X], by_error: {X: {}}}", "choose one"),
        ("{by_error: {X: {attempts: 0}}}", "greater than or equal to 1"),
    ],
)
def test_policies_that_cannot_be_meant_are_refused(retry: str, said: str) -> None:
    with pytest.raises(PlanError, match=said):
        parse_plan(f"name: p\ntasks: {{one: {{task: a.one, retry: {retry}}}}}")
    with pytest.raises(DefinitionError, match="Retry"):
        Retry(never=(3,))


def test_what_the_agent_never_tries_again_no_plan_tries_again() -> None:
    own = Retry(never=(ValueError,)).policy()
    assert not failure_of(UnicodeError(), own).retryable
    assert failure_of(KeyError(), own).retryable
    assert not failure_of(Fatal(), own).retryable


# --- counting ------------------------------------------------------------------------------------

KINDS: dict[str, type[BaseException]] = {
    "busy": Busy,
    "very": VeryBusy,
    "reset": ConnectionResetError,
    "value": ValueError,
    "key": KeyError,
}
POLICY = Retry(
    attempts=3,
    initial_s=1,
    max_s=10,
    jitter=0.5,
    never=(KeyError,),
    by_error={Busy: Retry(attempts=4, initial_s=2, max_s=60), OSError: Retry(attempts=2)},
).policy()
RULES: dict[str, int] = {"busy": 4, "very": 4, "reset": 2, "value": 3, "key": 1}
COUNTED = {"busy": "busy", "very": "busy", "reset": "reset", "value": "value", "key": "key"}

Failures = st.lists(
    st.tuples(
        st.sampled_from(sorted(KINDS)),
        st.booleans(),
        st.one_of(st.none(), st.integers(0, 10**13)),
    ),
    max_size=40,
)


def follow(entry: TaskEntry, what: tuple[str, bool, int | None]) -> int | None:
    """Let one more attempt fail; return the delay before the next, None at the end."""
    name, outage, after_ms = what
    failed = failure(KINDS[name])
    failed.breaker = "crm" if outage else None
    failed.retry_after_ms = after_ms
    entry.row.attempt += 1
    following = next_attempt(POLICY, "run", entry, failed)
    if following is None:
        return None
    entry.attempts_base, entry.failed_by = following.attempts_base, following.failed_by
    return following.delay_ms


def restored(entry: TaskEntry) -> TaskEntry:
    body = decode(CoordinatorJournal, encode(CoordinatorJournal(entry))).body
    assert isinstance(body, TaskEntry)
    return body


@settings(deadline=None)
@given(Failures)
def test_no_policy_is_exceeded_and_a_restored_state_decides_the_same(
    failures: list[tuple[str, bool, int | None]],
) -> None:
    entry, again = new_task("a", "t", "one"), new_task("a", "t", "one")
    counted: dict[str, int] = {}
    for what in failures:
        name, outage, after_ms = what
        delay_ms = follow(entry, what)
        again = restored(again)
        assert follow(again, what) == delay_ms
        assert encode(CoordinatorJournal(again)) == encode(CoordinatorJournal(entry))
        if not outage or name == "key":
            counted[COUNTED[name]] = counted.get(COUNTED[name], 0) + 1
        over = name == "key" or (not outage and counted[COUNTED[name]] >= RULES[name])
        assert (delay_ms is None) is over, (what, counted)
        if delay_ms is None:
            break
        if after_ms is None:
            longest = {"busy": 60_000, "reset": 60_000, "value": 10_000}[COUNTED[name]]
            assert 0 <= delay_ms <= longest * 1.5
        else:
            asked = min(after_ms, RETRY_AFTER_MAX_S * 1_000)
            assert asked <= delay_ms <= asked * 1.5
    assert all(counted[name] <= RULES[name] for name in counted)


def test_outages_do_not_lengthen_the_backoff() -> None:
    entry = new_task("a", "t", "one")
    delays = [follow(entry, ("value", True, None)) for _ in range(1_000)]
    assert all(delay is not None and 500 <= delay <= 1_500 for delay in delays)
    assert follow(entry, ("value", False, None)) is not None, "its first attempt that counts"


def test_a_journal_of_before_has_counted_all_attempts_by_the_tasks_own_policy() -> None:
    entry = new_task("a", "t", "one")
    entry.row.attempt = 1
    assert follow(entry, ("value", False, None)) is not None
    assert follow(entry, ("value", False, None)) is None


def test_time_outs_find_policies_by_their_class() -> None:
    policy = Retry(by_error={TimeoutError: Retry(attempts=9)}).policy()
    timed_out = Failure(
        FailureKind.TIMEOUT, "TimeoutError", "", "", True, classes=error_names(TimeoutError)
    )
    assert rule_for(policy, timed_out) == policy.by_error[0]
    old = Failure(FailureKind.TIMEOUT, "TimeoutError", "", "", True)
    assert rule_for(policy, old) == policy.by_error[0], "a failure that carries no classes"
    queue = Failure(FailureKind.QUEUE_TIMEOUT, "", "", "", True)
    assert rule_for(policy, queue) is None
