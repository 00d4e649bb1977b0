"""The state machine of a circuit breaker: pure, so that time is a number."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holdfast.agents import Breaker
from holdfast.agents.breaker import TRANSITIONS, Circuit, Pass
from holdfast.agents.errors import DefinitionError
from holdfast.schemas.records import BreakerState

CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN


def circuit(**given_: float) -> Circuit:
    made = {"failures": 3, "window_s": 60, "open_s": 10, "max_open_s": 35, **given_}
    return Circuit(Breaker("crm", **made))  # type: ignore[arg-type]


def fail(one: Circuit, at_s: float, task: str = "r/t") -> bool:
    passed = one.admit(at_s)
    assert passed is not None
    return one.failed(passed, task, "gone", at_s)


def state_of(one: Circuit) -> BreakerState:
    return one.state


def opened() -> Circuit:
    one = circuit()
    for at_s in (0.0, 1.0, 2.0):
        fail(one, at_s)
    return one


def test_it_opens_lets_one_through_and_closes() -> None:
    one = circuit()
    fail(one, 0)
    fail(one, 1)
    assert one.state is CLOSED
    fail(one, 2)
    assert (one.state, one.until_s, one.since_s) == (OPEN, 12, 2)
    assert one.admit(11.9) is None
    trial = one.admit(12)
    assert trial is not None
    assert one.state is HALF_OPEN
    assert one.admit(12.1) is None, "one at a time"
    one.succeeded(trial, 13)
    assert (one.state, one.since_s, one.openings) == (CLOSED, None, 0)
    assert fail(one, 14), "whoever failed before is to blame for nothing"
    assert state_of(one) is CLOSED, "what failed before is forgotten"


def test_failures_far_apart_do_not_open_it() -> None:
    one = circuit()
    for n in range(100):
        fail(one, n * 31.0)
    assert one.state is CLOSED


def test_each_failed_trial_doubles_the_time_up_to_the_longest() -> None:
    one, waits = opened(), []
    for _ in range(5):
        assert one.until_s is not None
        at_s = one.until_s
        fail(one, at_s)
        waits.append(one.until_s - at_s)
    assert waits == [20, 35, 35, 35, 35]
    assert one.open_s(1_000) == 998, "counted from the first opening"


def test_a_trial_that_says_nothing_is_followed_by_another() -> None:
    one = opened()
    lost = one.admit(12)
    assert lost is not None
    assert one.admit(21.9) is None
    second = one.admit(22)
    assert second is not None
    one.left(lost)
    assert one.admit(22.1) is None, "the one that was given up for lost frees nothing"
    one.left(second)
    assert one.admit(22.1) is not None


def test_old_news_moves_nothing() -> None:
    one = circuit()
    early = [one.admit(0) for _ in range(5)]
    for at_s in (0.0, 1.0, 2.0):
        fail(one, at_s)
    assert early[0] is not None
    assert early[1] is not None
    one.succeeded(early[0], 3)
    assert one.state is OPEN
    assert one.failed(early[1], "r/t", "gone", 4)
    assert one.openings == 1


def test_a_task_that_fails_while_others_are_answered_uses_its_attempts() -> None:
    one = circuit(failures=100)
    assert fail(one, 0, "r/bad"), "perhaps it is an outage"
    assert fail(one, 1, "r/bad"), "nobody was answered since"
    answered = one.admit(2)
    assert answered is not None
    one.succeeded(answered, 2)
    assert fail(one, 3, "r/good"), "another's first failure"
    assert not fail(one, 4, "r/bad")
    assert fail(one, 5, "r/bad"), "nobody was answered since"


def test_one_bad_task_does_not_close_the_way_for_others() -> None:
    one = circuit(failures=2)
    for at_s in range(0, 100, 2):
        fail(one, at_s, "r/bad")
        answered = one.admit(at_s + 1)
        assert answered is not None
        one.succeeded(answered, at_s + 1)
    fail(one, 100, "r/one")
    fail(one, 100, "r/two")
    assert one.state is OPEN, "first failures of several do"


def test_errors_count_with_their_bases_and_causes() -> None:
    crm = Breaker("crm", on=(OSError, "pkg.Busy"))
    assert crm.counts(ConnectionResetError())
    assert not crm.counts(ValueError())
    wrapped = RuntimeError("no order")
    wrapped.__cause__ = TimeoutError()
    assert crm.counts(wrapped)
    assert crm.counts_names(["other.Error", "pkg.Busy"])
    assert not crm.counts_names(["other.Busy"]), "a name with its module means that one"
    loop = RuntimeError()
    loop.__cause__ = loop
    assert not crm.counts(loop)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"name": "no blanks"}, "name"),
        ({"failures": 0}, "failures=0"),
        ({"failures": True}, "failures=True"),
        ({"open_s": 0}, "open_s=0"),
        ({"window_s": "1"}, "window_s='1'"),
        ({"open_s": 20, "max_open_s": 10}, "longer than max_open_s"),
        ({"on": ()}, "on="),
        ({"on": "OSError"}, "on="),
        ({"on": (int,)}, "no class of errors"),
    ],
)
def test_what_cannot_work_is_refused_at_once(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(DefinitionError, match=said):
        Breaker(**{"name": "crm", **wrong})  # type: ignore[arg-type]


Step = st.tuples(
    st.sampled_from(["call", "succeeded", "failed", "left"]),
    st.integers(0, 3),
    st.floats(0, 40, allow_nan=False),
)


@settings(deadline=None)
@given(st.lists(Step, max_size=60), st.integers(1, 4))
def test_whatever_comes_the_table_and_the_bounds_hold(
    steps: list[tuple[str, int, float]], failures: int
) -> None:
    one = circuit(failures=failures)
    at_s, before = 0.0, CLOSED
    under_way: list[Pass] = []
    trials: list[float] = []
    for what, which, after_s in steps:
        at_s += after_s
        if what == "call":
            passed = one.admit(at_s)
            assert passed is not None or one.state is not CLOSED
            if passed is not None:
                under_way.append(passed)
                assert passed.trial is (one.state is HALF_OPEN)
                if passed.trial:
                    trials.append(at_s)
        elif under_way:
            passed = under_way.pop(which % len(under_way))
            if what == "succeeded":
                one.succeeded(passed, at_s)
            elif what == "failed":
                outage = one.failed(passed, f"r/{which}", "gone", at_s)
                assert outage or one.state is CLOSED
            else:
                one.left(passed)
        if one.state is not before:
            through = TRANSITIONS[before]
            assert one.state in through or any(one.state in TRANSITIONS[each] for each in through)
        before = one.state
        assert (one.since_s is None) is (one.state is CLOSED)
        assert (one.until_s is None) is (one.state is CLOSED)
        if one.state is OPEN:
            assert one.until_s is not None
            assert one.until_s - at_s <= 35


@settings(deadline=None)
@given(st.floats(0, 20_000), st.integers(1, 5))
def test_an_outage_of_any_length_costs_few_calls_and_ends(outage_s: float, failures: int) -> None:
    """Somebody tries each second: what is let through grows with the time, not with the tries."""
    one = circuit(failures=failures)
    at_s, calls = 0.0, 0
    while at_s <= outage_s:
        if one.admit(at_s) is not None:
            calls += 1
            passed = Pass(one._generation, trial=one.state is HALF_OPEN)
            one.failed(passed, "r/t", "gone", at_s)
        at_s = max(at_s + 1.0, one.until_s or 0.0)
    assert calls <= failures + outage_s / 10 + 1
    while (passed := one.admit(at_s)) is None:
        at_s += 1.0
        assert at_s <= outage_s + 40
    one.succeeded(passed, at_s)
    assert one.state is CLOSED
