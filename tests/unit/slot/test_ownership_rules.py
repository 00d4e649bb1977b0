"""The rules of ownership that a group's members live by: who opens, when, and who may not."""

from __future__ import annotations

import asyncio
import time

import pytest

from holdfast.bus.errors import Fenced, TopicMismatch
from holdfast.bus.partition import partition_for
from holdfast.bus.port import Environment, Slot, TopicSpec
from holdfast.bus.slot import ProcessIdentity, SlotHost, SlotSettings
from holdfast.bus.slot.commit import GroupCommit
from holdfast.bus.slot.journal import Journal
from holdfast.bus.slot.machine import SlotControl
from holdfast.testing.sim import Request, RequestKind, SimBus
from tests.unit.slot.conftest import GROUP, JOURNAL, WORK, World
from tests.waiting import until

NUMBER = partition_for(b"x", 2)
SLOT = Slot(GROUP, NUMBER)
ME = ProcessIdentity("a", "process-a")
SESSION_S = 2.0


async def fenced(world: World) -> None:
    """A member one of whose slots was just taken by a stray writer, while it had work."""
    host = await world.host()
    await until(lambda: host.running_slots == 2)
    world.member.session_timeout_s = SESSION_S
    await world.bus().open_writer(SLOT)
    await world.send(("x", b"1"))
    await until(lambda: host.running_slots == 1, "the slot was not lost")


async def test_a_fenced_slot_is_dropped_for_about_a_session_time_out(world: World) -> None:
    await fenced(world)
    began, stray = time.monotonic(), world.place.broker.epoch(SLOT)
    await until(lambda: world.place.broker.epoch(SLOT) > stray, "orphaned for ever")
    # Jittered by a quarter either way, so that two that fence each other do not do it in step.
    assert time.monotonic() - began > 0.7 * SESSION_S
    await until(lambda: world.applied == ["x"])


async def test_a_fenced_slot_does_not_come_back_before_a_heartbeat_is_acknowledged(
    world: World,
) -> None:
    world.place.refused.add(RequestKind.HEARTBEAT)  # before: else one may come in between
    await fenced(world)
    began, stray = time.monotonic(), world.place.broker.epoch(SLOT)
    await until(lambda: time.monotonic() - began > 1.5 * SESSION_S)
    assert world.place.broker.epoch(SLOT) == stray, "who hears nothing has fenced the true owner"
    world.place.refused.clear()
    await until(lambda: world.applied == ["x"])


async def working(world: World) -> SlotControl:
    await world.host()
    await world.send(("x", b"1"))
    await until(lambda: world.applied == ["x"])
    return next(machine for machine in world.machines["a"] if machine.seen).control


async def still_waits(proof: asyncio.Task[None]) -> bool:
    done, _ = await asyncio.wait({proof}, timeout=0.05)
    return not done


async def test_nothing_is_begun_while_the_group_negotiates_who_owns_what(world: World) -> None:
    control = await working(world)
    host = world.hosts[0]
    assert host._ownership is not None
    host._ownership.revoked()
    word = asyncio.create_task(control.confirm())
    proof = asyncio.create_task(control.prove())
    assert await still_waits(word)
    assert await still_waits(proof)
    assert host.running_slots == 2, "what runs goes on"
    host._ownership.assigned(world.member._assigned)
    await asyncio.wait_for(asyncio.gather(word, proof), 5.0)


async def test_a_slot_that_is_kept_is_proven_by_a_commit_before_anything_begins(
    world: World,
) -> None:
    """Another one may have owned it in between, in a generation that this member has missed."""
    control = await working(world)
    ownership = world.hosts[0]._ownership
    assert ownership is not None
    before = len(world.place.commits)
    await control.confirm()
    assert len(world.place.commits) == before
    ownership.revoked()
    await world.bus().open_writer(control.slot)
    ownership.assigned(world.member._assigned)
    with pytest.raises(Fenced):
        await asyncio.wait_for(control.confirm(), 5.0)


async def test_who_loses_the_slot_in_the_negotiation_begins_nothing(world: World) -> None:
    control = await working(world)
    assert world.hosts[0]._ownership is not None
    world.hosts[0]._ownership.revoked()
    proof = asyncio.create_task(control.prove())
    assert await still_waits(proof)
    world.hosts[0]._ownership.assigned(frozenset())
    with pytest.raises(Fenced, match="assigned elsewhere"):
        await asyncio.wait_for(proof, 5.0)


async def test_who_was_not_heard_for_half_a_session_begins_nothing(world: World) -> None:
    control = await working(world)
    world.place.refused.add(RequestKind.HEARTBEAT)
    asked = world.place.asked[RequestKind.HEARTBEAT]  # one may be on its way
    await until(lambda: world.place.asked[RequestKind.HEARTBEAT] > asked + 1)
    world.member.heartbeat_at = float("-inf")
    proof = asyncio.create_task(control.prove())
    assert await still_waits(proof)
    world.place.refused.clear()
    await asyncio.wait_for(proof, 5.0)


class Group:
    """A group that answers as told whether the slot is still this member's."""

    session_timeout_s = 6.0

    def __init__(self) -> None:
        self.owned = True

    def owns(self, slot: Slot) -> bool:
        return self.owned

    async def confirmed_since(self, slot: Slot, moment: float) -> None:
        return None

    def beat(self) -> None:
        return None


def commits(bus: SimBus, group: Group) -> GroupCommit:
    return GroupCommit(Environment(bus), SLOT, Journal(bus, SLOT, JOURNAL, ME), ME, group)


async def test_an_opener_asks_first_whether_the_slot_is_still_its_own(world: World) -> None:
    group = Group()
    group.owned = False
    with pytest.raises(Fenced, match="assigned elsewhere"):
        await commits(world.bus(), group).open()
    assert world.place.broker.epoch(SLOT) == 0, "it fenced the owner and asked afterwards"


async def test_and_asks_again_when_it_has_opened(world: World) -> None:
    group = Group()

    def taken_away(request: Request, moment: str) -> None:
        if (request.kind, moment) == (RequestKind.OPEN_WRITER, "applied"):
            group.owned = False

    world.place.broker.network.watchers.append(taken_away)
    with pytest.raises(Fenced, match="assigned elsewhere"):
        await commits(world.bus(), group).open()


async def test_topics_of_unequal_partition_counts_stop_the_member(world: World) -> None:
    await world.bus().create_topics([TopicSpec("ns.odd", 3)])
    settings = SlotSettings(GROUP, (WORK,), "ns.odd", ME)
    host = SlotHost(world.environment(), settings, lambda _: pytest.fail("a slot was opened"))
    with pytest.raises(TopicMismatch, match=r"ns\.work has 2.*ns\.odd has 3"):
        await host.start()
    assert GROUP not in world.place.broker.groups, "it joined the group all the same"
