"""A group at the simulated broker: who is in it, and what each of them is told."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from holdfast.bus.port import TopicPartition
from holdfast.testing.sim.group import Generation, Group, Membership

TOPICS = ("tasks", "control")
SESSION_S = 6.0


@dataclass
class Room:
    """A group of two topics with four partitions each, and time that is moved by hand."""

    now: float = 0.0
    told: dict[str, list[Generation]] = field(default_factory=dict)
    late: set[str] = field(default_factory=set)
    """Who hears of a negotiation and does not come back for it."""

    def __post_init__(self) -> None:
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = itertools.count()
        settle = itertools.cycle((0.1, 0.3, 0.2))  # each member hears at a moment of its own
        self.group = Group("g", lambda _: 4, self._call_later, lambda: next(settle))

    def join(self, name: str, incarnation: str = "1") -> Membership:
        heard = self.told.setdefault(f"{name}-{incarnation}", [])

        def tell(news: Generation) -> None:
            heard.append(news)
            if news.owned is None and name not in self.late:
                self.group.rejoin(name, incarnation, news.number)

        member = Membership(name, incarnation, TOPICS, SESSION_S, tell)
        self.group.join(member, self.now)
        return member

    def run(self, seconds: float = 1.0) -> None:
        limit = self.now + seconds
        while self._later and self._later[0][0] <= limit:
            self.now, _, action = heapq.heappop(self._later)
            action()
        self.now = limit

    def owned(self, who: str) -> list[int]:
        """Return the partition numbers that this one was told last."""
        newest = self.told[who][-1].owned
        assert newest is not None
        numbers = sorted({where.partition for where in newest})
        assert newest == {TopicPartition(t, n) for t in TOPICS for n in numbers}
        return numbers

    def _call_later(self, delay_s: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._later, (self.now + delay_s, next(self._sequence), action))


@pytest.fixture
def room() -> Room:
    return Room()


def test_members_share_range_by_range_and_the_numbers_of_all_topics_go_together(room: Room) -> None:
    for name in ("c", "a", "b"):
        room.join(name)
    room.run()
    assert [room.owned(f"{name}-1") for name in "abc"] == [[0, 1], [2], [3]]
    assert room.group.owner("control", 2) == "b"


def test_a_rebalance_is_told_twice_first_that_all_is_open_then_what_is_owned(room: Room) -> None:
    room.join("a")
    room.run()
    room.join("b")
    room.run()
    for who in ("a-1", "b-1"):
        number = room.told[who][-1].number
        assert [g.owned is None for g in room.told[who] if g.number == number] == [True, False]


def test_nobody_is_given_anything_before_all_have_come_back(room: Room) -> None:
    room.join("a")
    room.run()
    room.late.add("a")
    room.join("b")
    room.run(SESSION_S - 2)
    assert room.group.heartbeat("a", "1", room.now) == "rebalancing"
    assert room.group.heartbeat("b", "1", room.now) == "ok"
    assert [news.owned for news in room.told["b-1"]] == [None]
    room.group.rejoin("a", "1", room.group.generation)
    assert room.group.heartbeat("a", "1", room.now) == "ok"
    room.run()
    assert (room.owned("a-1"), room.owned("b-1")) == ([0, 1], [2, 3])


def test_who_comes_back_for_an_older_generation_is_still_waited_for(room: Room) -> None:
    room.join("a")
    room.run()
    room.late.add("a")
    room.join("b")
    room.run()
    old = room.group.generation
    room.join("c")
    room.run()
    room.group.rejoin("a", "1", old)
    assert room.group.heartbeat("a", "1", room.now) == "rebalancing"
    room.group.rejoin("a", "1", room.group.generation)
    room.run()
    assert [room.owned(f"{name}-1") for name in "abc"] == [[0, 1], [2], [3]]


def test_one_that_does_not_come_back_is_waited_for_until_its_session_ends(room: Room) -> None:
    room.join("a")
    room.run()
    room.late.add("a")
    room.join("b")
    room.run(SESSION_S)
    assert room.group.heartbeat("b", "1", room.now) == "ok"
    room.run(2.0)
    room.group.expire(room.now)
    room.run()
    assert room.owned("b-1") == [0, 1, 2, 3]


def test_of_two_rebalances_in_a_row_only_the_newest_is_told_to_its_end(room: Room) -> None:
    room.join("a")
    room.join("b")
    room.join("c")
    room.run()
    assert {g.number for heard in room.told.values() for g in heard} == {3}


def test_generations_grow_and_one_who_leaves_is_told_nothing_more(room: Room) -> None:
    room.join("a")
    room.join("b")
    room.run()
    heard = len(room.told["b-1"])
    before = room.group.generation
    room.group.leave("b", "1")
    room.run()
    assert room.group.generation == before + 1
    assert room.owned("a-1") == [0, 1, 2, 3]
    assert len(room.told["b-1"]) == heard


def test_a_silent_member_expires_and_one_that_is_heard_does_not(room: Room) -> None:
    room.join("a")
    room.join("b")
    room.run(SESSION_S)
    assert room.group.heartbeat("a", "1", room.now) == "ok"
    room.group.expire(room.now)
    assert set(room.group.members) == {"a", "b"}, "not before its session has timed out"
    room.run(0.1)
    room.group.expire(room.now)
    room.run()
    assert set(room.group.members) == {"a"}
    assert room.owned("a-1") == [0, 1, 2, 3]
    assert room.group.heartbeat("b", "1", room.now) == "unknown"


def test_a_static_name_that_comes_back_gets_what_it_had_and_nobody_else_hears(room: Room) -> None:
    room.join("a")
    room.join("b")
    room.run()
    generation, heard = room.group.generation, len(room.told["a-1"])
    room.join("b", "2")
    room.run()
    assert room.owned("b-2") == [2, 3]
    assert (room.group.generation, len(room.told["a-1"])) == (generation, heard)


def test_the_one_that_was_replaced_is_fenced_and_cannot_take_the_new_one_out(room: Room) -> None:
    room.join("a")
    room.join("a", "2")
    assert room.group.heartbeat("a", "1", room.now) == "fenced"
    assert room.group.heartbeat("a", "2", room.now) == "ok"
    room.group.leave("a", "1")
    assert room.group.members["a"].incarnation == "2"


def test_one_that_comes_back_in_the_middle_of_a_rebalance_is_told_once_it_is_over(
    room: Room,
) -> None:
    room.join("a")
    room.run()
    room.join("b")
    room.join("a", "2")
    room.run()
    assert room.owned("a-2") == [0, 1]
    assert room.owned("b-1") == [2, 3]
