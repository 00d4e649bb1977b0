"""Places: fair among slots, and empty for a task that must run alone."""

from __future__ import annotations

import asyncio

from holdfast.agents.places import PATIENCE_S, REST_S, Places, Seat
from tests.unit.agents.virtual import run_virtual


class Slot:
    """Starts what it has."""

    def __init__(self, places: Places, name: str, tasks: int, alone: int = 0) -> None:
        self.places = places
        self.name = name
        self.tasks = tasks
        self.alone = alone
        self.seats: list[Seat] = []
        places.join(self)

    def take_place(self) -> bool:
        if not self.tasks:
            return False
        self.tasks -= 1
        self.seats.append(self.places.sit(f"{self.name}/{self.tasks}"))
        return True

    def take_alone(self) -> bool:
        if not self.alone:
            return False
        self.alone -= 1
        self.seats.append(self.places.sit(f"{self.name}/alone", alone=True))
        return True

    def body_ended(self, task: str) -> None:
        pass


def test_places_are_shared_fairly_and_never_exceeded() -> None:
    places = Places(4)
    slots = [Slot(places, name, 10) for name in "abcd"]
    places.offer()
    assert [len(slot.seats) for slot in slots] == [1, 1, 1, 1]
    for turn in range(12):
        places.stand_up(slots[turn % 4].seats.pop(0))
        assert places.taken == 4
    assert [slot.tasks for slot in slots] == [6, 6, 6, 6]


def test_a_task_is_busy_until_its_last_body_has_ended() -> None:
    places = Places(2)
    first, second = places.sit("r/t"), places.sit("r/t")
    places.stand_up(first)
    places.stand_up(first)
    assert places.busy("r/t")
    places.stand_up(second)
    assert not places.busy("r/t")


def test_alone_waits_for_an_empty_process_and_lets_nobody_in() -> None:
    async def main() -> None:
        places = Places(4)
        others = Slot(places, "others", 1)
        places.offer()
        suspect = Slot(places, "suspect", 0, alone=1)
        places.want_alone(suspect)
        others.tasks = 5
        places.offer()
        assert (len(others.seats), len(suspect.seats)) == (1, 0)
        places.stand_up(others.seats.pop())
        assert (len(others.seats), len(suspect.seats)) == (0, 1)
        places.share(suspect.seats[0])
        assert len(others.seats) == 3
        assert places.taken == 4

    run_virtual(main)


def test_waiting_to_be_alone_does_not_stop_the_process_for_ever() -> None:
    async def main() -> None:
        places = Places(4)
        long = Slot(places, "long", 1)
        places.offer()
        suspect = Slot(places, "suspect", 0, alone=1)
        places.want_alone(suspect)
        long.tasks = 1
        await asyncio.sleep(PATIENCE_S - 1)
        assert len(long.seats) == 1
        await asyncio.sleep(2)
        assert len(long.seats) == 2
        await asyncio.sleep(REST_S)
        long.tasks = 1
        places.offer()
        assert len(long.seats) == 2  # held back again
        while long.seats:
            places.stand_up(long.seats.pop())
        assert len(suspect.seats) == 1
        places.stand_up(suspect.seats.pop())
        assert len(long.seats) == 1

    run_virtual(main)


def test_a_slot_that_leaves_holds_nobody_back() -> None:
    async def main() -> None:
        places = Places(1)
        others = Slot(places, "others", 1)
        places.offer()
        suspect = Slot(places, "suspect", 0, alone=1)
        places.want_alone(suspect)
        others.tasks = 1
        places.leave(suspect)
        places.stand_up(others.seats.pop())
        assert len(others.seats) == 1

    run_virtual(main)
