"""A made history satisfies all invariants, with and without known commits."""

from __future__ import annotations

import pytest

from holdfast.testing import INVARIANTS
from tests.unit.testing.made import happy, ordered


@pytest.mark.parametrize("commits", [False, True])
def test_happy_histories_satisfy_all(commits: bool) -> None:
    for made in (happy(), ordered()):
        verdict = made.check(commits=commits)
        assert verdict.ok, verdict.report()
        assert not verdict.not_checkable, verdict.report()


def test_each_invariant_has_looked_at_something() -> None:
    seen = happy().check()
    assert {n for n in INVARIANTS if not seen.seen(n)} == {"I12", "I13", "I14"}, seen.report()
    assert ordered().check("I13").seen("I13")
    print(seen.report())


def test_each_invariant_has_a_statement() -> None:
    assert list(INVARIANTS) == [f"I{number}" for number in range(1, 15)]
    for invariant in INVARIANTS.values():
        assert invariant.statement.endswith("."), invariant.name
