"""What can become of a request between a client and the broker."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest

from holdfast.bus.errors import BusUnavailable, Fenced
from holdfast.testing.sim import Clock, Fate, Request, RequestKind, SimLoop
from holdfast.testing.sim.network import Link, Network

WAY_S = 0.25
LATE_S = 8.0


@dataclass
class Wire:
    """A network between one client and a broker that counts."""

    clock: Clock = field(default_factory=Clock)
    applied: list[tuple[float, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.loop = self._loop()
        self.away_from_all = self._loop()  # the network's own
        self.network = Network(lambda: self.away_from_all, lambda: WAY_S, LATE_S)
        self.link = Link("client", self.loop)

    def ask(self, what: str = "it", kind: RequestKind = RequestKind.READ) -> asyncio.Future[Any]:
        """Send a request; the broker answers with `what` in capitals, or `Fenced`."""

        def apply() -> str:
            self.applied.append((self.clock.now, what))
            if what == "fenced":
                raise Fenced("it is")
            return what.upper()

        answer = self.loop.create_future()
        self.network.send(Request(kind, self.link, apply, answer))
        return answer

    def run(self, seconds: float = 1.0) -> None:
        """Let time pass."""
        limit = self.clock.now + seconds
        while self.loop.has_ready or self.away_from_all.has_ready or self.clock.advance(limit):
            for loop in (self.loop, self.away_from_all):
                while loop.has_ready:
                    loop.step()

    def _loop(self) -> SimLoop:
        return SimLoop(self.clock, lambda _: None, lambda context: pytest.fail(str(context)))  # type: ignore[abstract]


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.mark.parametrize(
    ("fate", "applied", "answered"),
    [
        (Fate.PASS, True, "IT"),
        (Fate.LOSE_REQUEST, False, BusUnavailable),
        (Fate.LOSE_REPLY, True, BusUnavailable),
        (Fate.HANG_REQUEST, False, None),
        (Fate.HANG_REPLY, True, None),
    ],
)
def test_a_fate_of_its_own(wire: Wire, fate: Fate, applied: bool, answered: Any) -> None:
    wire.network.fates.append(lambda _: fate)
    answer = wire.ask()
    wire.run(100.0)
    assert wire.applied == ([(WAY_S, "it")] if applied else [])
    if answered is None:
        assert not answer.done()
    elif answered is BusUnavailable:
        assert isinstance(answer.exception(), BusUnavailable)
    else:
        assert answer.result() == answered


def test_a_late_one_arrives_all_the_same(wire: Wire) -> None:
    wire.network.fates.append(lambda _: Fate.DELAY)
    answer = wire.ask()
    answer.cancel()  # its client has given up long before
    wire.run(100.0)
    assert wire.applied == [(WAY_S + LATE_S, "it")]


def test_there_and_back_take_their_time(wire: Wire) -> None:
    answer = wire.ask()
    wire.run(1.5 * WAY_S)
    assert wire.applied == [(WAY_S, "it")]
    assert not answer.done()
    wire.run(WAY_S)
    assert answer.result() == "IT"


def test_what_the_broker_raises_is_an_answer(wire: Wire) -> None:
    answer = wire.ask("fenced")
    wire.run()
    assert isinstance(answer.exception(), Fenced)


def test_the_first_that_decides_wins(wire: Wire) -> None:
    wire.network.fates += [
        lambda r: Fate.HANG_REQUEST if r.kind is RequestKind.END else None,
        lambda _: Fate.LOSE_REQUEST,
    ]
    hung, lost = wire.ask(kind=RequestKind.END), wire.ask()
    wire.run()
    assert not hung.done()
    assert isinstance(lost.exception(), BusUnavailable)


def test_what_a_process_sent_arrives_though_it_has_died(wire: Wire) -> None:
    answer = wire.ask()
    wire.link.dead = True
    wire.run()
    assert wire.applied == [(WAY_S, "it")]
    assert not answer.done(), "a dead process was told"


def test_a_dead_process_sends_nothing(wire: Wire) -> None:
    wire.link.dead = True
    wire.ask()
    wire.run()
    assert wire.applied == []


def test_requests_wait_at_the_door_of_a_broker_that_is_away(wire: Wire) -> None:
    wire.network.away = True
    patient, hasty = wire.ask("patient"), wire.ask("hasty")
    wire.run(10.0)
    assert wire.applied == []
    hasty.cancel()
    wire.network.comes_back()
    wire.run()
    assert [what for _, what in wire.applied] == ["patient"]
    assert patient.result() == "PATIENT"


def test_who_stands_still_says_and_hears_nothing_until_it_is_woken(wire: Wire) -> None:
    before = wire.ask("before")
    wire.link.frozen = True
    during = wire.ask("during")
    told: list[str] = []
    wire.network.tell(wire.link, lambda: told.append("news"))
    wire.run(10.0)
    assert [what for _, what in wire.applied] == ["before"]
    assert (before.done(), during.done(), told) == (False, False, [])
    wire.link.thaw()
    wire.run()
    assert [what for _, what in wire.applied] == ["before", "during"]
    assert (before.result(), during.result(), told) == ("BEFORE", "DURING", ["news"])


def test_one_that_is_held_goes_on_when_it_is_released_with_its_own_fate(wire: Wire) -> None:
    hold = wire.network.hold(lambda r: r.kind is RequestKind.END)
    wire.network.fates.append(lambda r: Fate.LOSE_REPLY if r.kind is RequestKind.END else None)
    held, passed = wire.ask("held", RequestKind.END), wire.ask("passed")
    wire.run(10.0)
    assert [what for _, what in wire.applied] == ["passed"]
    assert passed.done()
    assert not held.done()
    wire.network.release(hold)
    wire.network.release(hold)
    wire.run()
    assert [what for _, what in wire.applied] == ["passed", "held"]
    assert isinstance(held.exception(), BusUnavailable)


def test_watchers_see_where_a_request_stands(wire: Wire) -> None:
    seen: list[str] = []
    wire.network.watchers.append(lambda request, moment: seen.append(moment))
    wire.ask()
    wire.run()
    assert seen == ["arrived", "applied", "answered"]
