"""Sharing out: equal, with as little movement as that allows, and back home."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from holdfast.bus.embedded.assign import assign

NAMES = ["a", "b", "c", "d", "e"]


@given(
    st.integers(1, 24),
    st.sets(st.sampled_from(NAMES)),
    st.lists(st.sampled_from([None, *NAMES]), min_size=24, max_size=24),
    st.lists(st.sampled_from([None, *NAMES]), min_size=24, max_size=24),
)
def test_everything_is_shared_out_equally(
    partitions: int, members: set[str], held: list[str | None], home: list[str | None]
) -> None:
    shares = assign(partitions, members, dict(enumerate(held)), dict(enumerate(home)))
    if not members:
        assert shares == {}
        return
    assert sorted(shares) == list(range(partitions))
    sizes = Counter(shares.values())
    assert set(sizes) <= members
    assert max(sizes.values()) - min(sizes[member] for member in members) <= 1


@given(st.integers(1, 24), st.sets(st.sampled_from(NAMES), min_size=1))
def test_what_is_right_does_not_move(partitions: int, members: set[str]) -> None:
    shares: dict[int, str | None] = dict(assign(partitions, members, {}, {}))
    assert assign(partitions, members, shares, shares) == shares


@given(st.integers(1, 24), st.sets(st.sampled_from(NAMES), min_size=2), st.data())
def test_a_death_moves_only_what_was_the_dead_one_s(
    partitions: int, members: set[str], data: st.DataObject
) -> None:
    homes: dict[int, str | None] = dict(assign(partitions, members, {}, {}))
    dead = data.draw(st.sampled_from(sorted(members)))
    left = {p: None if owner == dead else owner for p, owner in homes.items()}
    after = assign(partitions, members - {dead}, left, homes)
    assert {p: owner for p, owner in left.items() if owner} == {
        p: after[p] for p, owner in left.items() if owner
    }
    holders: dict[int, str | None] = dict(after)
    assert assign(partitions, members, holders, homes) == homes, "and all of it comes back"


@given(st.integers(1, 24), st.sets(st.sampled_from(NAMES[:4])))
def test_who_joins_takes_no_more_than_a_share(partitions: int, members: set[str]) -> None:
    before: dict[int, str | None] = dict(assign(partitions, members, {}, {}))
    after = assign(partitions, members | {"e"}, before, before)
    moved = [p for p in range(partitions) if after[p] != before.get(p)]
    assert all(after[p] == "e" for p in moved)


def test_home_goes_before_holding() -> None:
    homes: dict[int, str | None] = {0: "a", 1: "a", 2: "b", 3: "b"}
    assert assign(4, {"a", "b"}, {0: "b", 1: "b"}, homes) == homes
