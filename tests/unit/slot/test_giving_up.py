"""A slot that is taken away, or whose process stops: in every state, bounded, and nothing lost."""

from __future__ import annotations

import asyncio

import pytest

from holdfast.bus.partition import partition_for
from holdfast.bus.port import AssignmentListener, Received, Slot, Subscription, TopicPartition
from holdfast.bus.slot import SlotHost
from holdfast.bus.slot import commit as commit_module
from holdfast.bus.slot import slot as slot_module
from holdfast.testing.sim import Fate, RequestKind
from tests.unit.slot.conftest import GROUP, JOURNAL, OUT, WORDS, WORK, EchoMachine, World
from tests.unit.slot.test_slot import newest_offset
from tests.waiting import until

NUMBER = partition_for(b"x", 2)
SLOT = Slot(GROUP, NUMBER)


@pytest.fixture(autouse=True)
def short(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.stop_grace_s = 0.2
    monkeypatch.setattr(slot_module, "LEAVE_S", 0.2)
    monkeypatch.setattr(slot_module, "LAST_COMMIT_S", 0.4)
    monkeypatch.setattr(commit_module, "REOPEN_PAUSE_S", 0.02)


def machine_of(world: World, number: int = NUMBER) -> EchoMachine:
    return next(m for m in reversed(world.machines["a"]) if m.control.slot.partition == number)


class Deaf(AssignmentListener):
    def assigned(self, partitions: frozenset[TopicPartition]) -> None:
        """It opens nothing."""

    def revoked(self) -> None:
        """Nor closes anything."""


async def take_away(world: World, number: int) -> Subscription:
    """Let another member take this slot; when it closes the slot is given back."""
    name = "0" if number == 0 else "z"  # partitions go to members in the order of their names
    return await world.bus().subscribe(GROUP, (WORK, WORDS), member=name, listener=Deaf())


def epochs(world: World) -> list[int]:
    return [world.place.broker.epoch(Slot(GROUP, number)) for number in range(2)]


def owned(host: SlotHost) -> set[int]:
    assert host._ownership is not None
    return {n for n in range(2) if host._ownership.owns(Slot(GROUP, n))}


def still_a_member(host: SlotHost) -> None:
    assert host._failure is not None
    assert not host._failure.done(), host._failure.exception()


async def running(world: World) -> SlotHost:
    host = await world.host()
    await until(lambda: host.running_slots == 2)
    return host


async def test_a_slot_that_moves_is_opened_when_its_owner_has_let_go(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both hear of the move at once; a body takes a moment to end."""
    monkeypatch.setattr(slot_module, "HAND_OVER_S", 5.0)
    host = await running(world)
    await world.send(("x", b"1"))
    await until(lambda: world.applied == ["x"])
    first, name = machine_of(world), "0" if NUMBER == 0 else "z"
    first.busy = True
    await world.host(name)
    await until(lambda: first.abandoned)
    first.busy = False
    first.control.wake()
    await until(lambda: world.hosts[1].running_slots == 1)
    assert owned(host) == {1 - NUMBER}
    (second,) = world.machines[name]
    assert second.opened_with is not None
    assert second.opened_with.clean, "it was fenced while it gave the slot up"


async def test_an_owner_that_does_not_let_go_is_not_waited_for_without_end(world: World) -> None:
    await running(world)
    await world.send(("x", b"1"))
    await until(lambda: world.applied == ["x"])
    machine_of(world).busy = True
    name = "0" if NUMBER == 0 else "z"
    other = await world.host(name)
    await until(lambda: other.running_slots == 1)
    (second,) = world.machines[name]
    assert second.opened_with is not None
    assert not second.opened_with.clean


async def stop_within(host: SlotHost, seconds: float) -> None:
    await asyncio.wait_for(host.stop(), seconds)
    still_a_member(host)


async def test_a_newer_writer_while_the_slot_is_given_up_ends_the_slot_and_not_the_member(
    world: World,
) -> None:
    host = await running(world)
    machine = machine_of(world)
    machine.busy = True
    await take_away(world, NUMBER)
    await until(lambda: machine.abandoned)
    await world.bus().open_writer(SLOT)
    late = Received(WORK, NUMBER, 0, b"x", b"late", (), 0)
    machine.pending.append(late)  # to be written before the last commit
    machine.control.wake()
    await until(lambda: machine.gone)
    still_a_member(host)
    assert world.applied == []


async def test_a_commit_cut_off_while_it_is_settled_is_not_passed_by_the_last_one(
    world: World,
) -> None:
    """Its records were never written. The last commit's offsets must not stand behind them."""
    host = await running(world)
    machine = machine_of(world)
    world.holding = True
    await world.send(("x", b"1"))
    await until(lambda: len(machine.pending) == 1)
    world.place.faults.append(Fate.LOSE_REQUEST)
    host._stopping.set()
    assert host._ownership is not None
    host._ownership.slot(NUMBER).leave()  # type: ignore[union-attr]
    await until(lambda: machine.abandoned)
    world.holding = False
    machine.control.wake()
    world.place.hold(RequestKind.READ)  # the journal is read slower than the slot may take
    await until(lambda: not world.place.faults)
    await asyncio.sleep(0.01)
    machine.receive([Received(WORK, NUMBER, 1, b"x", b"2", (), 0)])
    await world.send(("x", b"2"))
    asyncio.get_running_loop().call_later(0.3, world.place.release, RequestKind.READ)
    await until(lambda: machine.gone)
    await host.kill()
    await world.host("a")
    await until(lambda: ("x", b"2") in world.answers())
    assert world.answers() == [("x", b"1"), ("x", b"2")], "a record was lost"


async def test_a_body_that_outlasts_its_slot_does_not_make_the_end_unclean(world: World) -> None:
    """No process died. Else every rolling restart would strike whoever runs beside a slow one."""
    host = await running(world)
    machine_of(world).busy = True
    await stop_within(host, 4.0)
    assert newest_offset(world, NUMBER).clean
    again = await running(world)
    opened = machine_of(world).opened_with
    assert opened is not None
    assert opened.clean
    await again.stop()


async def test_a_stop_begins_no_slot_again(world: World) -> None:
    host = await running(world)
    machine_of(world, 1).busy = True  # so that slot 0 has closed long before
    before = epochs(world)
    await stop_within(host, 4.0)
    for _ in range(20):
        await asyncio.sleep(0.005)
    assert epochs(world) == before, "a slot was opened again by the stop"
    assert len(world.machines["a"]) == 2


async def test_what_is_assigned_during_a_stop_does_not_begin(world: World) -> None:
    host = await world.host()
    await until(lambda: host.running_slots == 2)
    rival = await take_away(world, 1)
    await until(lambda: machine_of(world, 1).gone)
    machine_of(world, 0).busy = True
    stopping = asyncio.create_task(host.stop())
    await until(lambda: machine_of(world, 0).quiesced)
    await rival.close()
    await until(lambda: owned(host) == {0, 1})
    await asyncio.sleep(0.05)
    assert len(world.machines["a"]) == 2
    machine_of(world, 0).busy = False
    await asyncio.wait_for(stopping, 4.0)


async def test_a_stop_during_a_restore_is_immediate_and_starts_nothing(world: World) -> None:
    world.place.hold(RequestKind.READ)
    host = await world.host()
    await until(lambda: len(world.machines.get("a", ())) == 2)
    await stop_within(host, 1.0)
    assert [m.opened_with for m in world.machines["a"]] == [None, None]
    assert all(m.gone for m in world.machines["a"]), "a machine was left without its last word"


async def test_a_stop_while_a_slot_marks_itself_takes_the_mark_back(world: World) -> None:
    host = await running(world)
    await host.stop()
    world.place.hold(RequestKind.PRODUCE)
    again = await world.host()
    await until(lambda: len(world.machines["a"]) == 4)
    await asyncio.sleep(0.05)
    stopping = asyncio.create_task(again.stop())
    await asyncio.sleep(0.05)
    world.place.release(RequestKind.PRODUCE)
    await asyncio.wait_for(stopping, 4.0)
    assert newest_offset(world, 0).clean
    assert newest_offset(world, 1).clean
    assert all(m.quiesced for m in world.machines["a"][2:])


@pytest.mark.parametrize("state", ["opening", "running", "settling", "fenced"])
async def test_a_stop_is_bounded_while_the_bus_is_away(world: World, state: str) -> None:
    if state == "opening":
        world.place.hold(RequestKind.OPEN_WRITER)
        host = await world.host()
        await until(lambda: world.place.asked[RequestKind.OPEN_WRITER] == 2)
    else:
        host = await running(world)
    if state == "settling":
        world.place.faults.append(Fate.LOSE_REQUEST)
        world.place.refused.add(RequestKind.OPEN_WRITER)
        await world.send(("x", b"1"))
        await until(lambda: world.place.asked[RequestKind.OPEN_WRITER] == 4)
    elif state == "fenced":
        await world.bus().open_writer(SLOT)
        await world.send(("x", b"1"))
        await until(lambda: machine_of(world).gone)
    world.place.broker.away()
    await stop_within(host, 4.0)


async def test_an_outage_during_a_restore_is_waited_out(world: World) -> None:
    world.place.refused.add(RequestKind.OPEN_WRITER)
    host = await world.host()
    await until(lambda: world.place.asked[RequestKind.OPEN_WRITER] > 2)
    world.place.patience(0.05)
    world.place.hold(RequestKind.READ)
    world.place.refused.clear()
    await until(lambda: any(m.gone for m in world.machines.get("a", ())))
    still_a_member(host)
    world.place.patience()
    world.place.release(RequestKind.READ)
    await until(lambda: host.running_slots == 2)
    await world.send(("x", b"1"))
    await until(lambda: world.applied == ["x"])


async def test_an_outage_while_an_answer_is_settled_is_waited_out(world: World) -> None:
    host = await running(world)
    world.place.faults.append(Fate.LOSE_REPLY)
    await no_answer_to_reads(world)
    still_a_member(host)
    restore_reads(world)
    await until(lambda: world.applied == ["x"])
    assert world.answers() == [("x", b"1")]


async def test_a_slot_fenced_while_the_bus_goes_away_comes_back(world: World) -> None:
    host = await running(world)
    world.member.session_timeout_s = 1.0
    await world.bus().open_writer(SLOT)
    await no_answer_to_reads(world)
    assert machine_of(world).gone
    still_a_member(host)
    restore_reads(world)
    await until(lambda: world.answers() == [("x", b"1")])


async def no_answer_to_reads(world: World) -> None:
    """Send a record; return when whoever reads the journal because of it has given up twice."""
    asked = world.place.asked[RequestKind.READ]
    world.place.patience(0.05)
    world.place.hold(RequestKind.READ)
    await world.send(("x", b"1"))
    await until(lambda: world.place.asked[RequestKind.READ] > asked + 2)


def restore_reads(world: World) -> None:
    world.place.patience()
    world.place.release(RequestKind.READ)


async def test_a_slot_that_was_given_up_proves_nothing_and_holds_nobody(world: World) -> None:
    host = await running(world)
    control = machine_of(world).control
    await host.stop()
    with pytest.raises(Exception, match="given up"):
        await asyncio.wait_for(control.prove(), 1.0)


async def test_taken_away_and_given_back_while_leaving_begins_anew(world: World) -> None:
    host = await running(world)
    first = machine_of(world)
    first.busy = True
    rival = await take_away(world, NUMBER)
    await until(lambda: first.abandoned)
    await rival.close()
    await until(lambda: owned(host) == {0, 1})
    first.busy = False
    first.control.wake()
    await until(lambda: first.gone)
    await world.send(("x", b"1"))
    await until(lambda: world.applied == ["x"], "the slot was orphaned")
    assert machine_of(world) is not first
    assert {topic for _, topics in world.place.commits for topic in topics} == {OUT, JOURNAL}


async def test_given_back_while_its_last_commit_hangs_it_begins_nothing(world: World) -> None:
    """Somebody else owned it in between: what is read now may long be worked."""
    host = await running(world)
    first = machine_of(world)
    world.place.hold(RequestKind.PRODUCE)
    asked = world.place.asked[RequestKind.PRODUCE]
    await world.send(("x", b"1"))
    await until(lambda: world.place.asked[RequestKind.PRODUCE] > asked)
    received = first.received
    rival = await take_away(world, NUMBER)
    await until(lambda: owned(host) == {1 - NUMBER})
    assert first.quiesced
    await rival.close()
    await until(lambda: owned(host) == {0, 1})
    world.place.release(RequestKind.PRODUCE)
    await world.send(("x", b"2"))
    await until(lambda: first.gone)
    assert first.received == received, "a slot that is given up took in work"
    await until(lambda: world.answers() == [("x", b"1"), ("x", b"2")])
