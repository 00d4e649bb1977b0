"""What a slot promises its machine, over a simulated bus whose faults come when ordered."""

from __future__ import annotations

import asyncio

import pytest

from holdfast.bus.errors import OffsetOutOfRange
from holdfast.bus.partition import partition_for
from holdfast.bus.port import Slot, TopicPartition
from holdfast.bus.slot import DuplicateInstance
from holdfast.bus.slot.journal import Journal
from holdfast.schemas.codec import decode
from holdfast.schemas.records import SlotOffset
from holdfast.testing.sim import Fate, RequestKind, SimBus
from tests.doubles.sim_place import LOST_ANSWERS
from tests.unit.slot.conftest import GROUP, JOURNAL, OUT, WORDS, WORK, World
from tests.waiting import until


def newest_offset(world: World, partition: int) -> SlotOffset:
    values = [r.value for r in world.place.records(JOURNAL, partition) if r.key == b"offset"]
    assert values
    assert values[-1] is not None
    return decode(SlotOffset, values[-1])


async def test_answers_journal_and_offset_stand_in_one_commit(world: World) -> None:
    await world.host()
    await world.send(("x", b"1"))
    await until(lambda: world.applied == ["x"])
    (slot, topics), *rest = [c for c in world.place.commits if len(c[1]) > 1]
    assert not rest
    assert set(topics) == {OUT, JOURNAL}
    assert newest_offset(world, slot.partition).commit_number == 2
    assert await world.bus().committed(GROUP, [TopicPartition(WORK, slot.partition)]) == {
        TopicPartition(WORK, slot.partition): 1
    }


async def test_what_comes_while_a_commit_is_under_way_gathers_for_the_next(world: World) -> None:
    await world.host()
    await until(lambda: world.hosts[0].running_slots == 2)
    world.place.hold(RequestKind.PRODUCE)
    await world.send(("x", b"0"), partition=partition_for(b"x", 2))
    machine = next(
        m for m in world.machines["a"] if m.control.slot.partition == partition_for(b"x", 2)
    )
    await until(lambda: machine.received == 1 and not machine.pending)
    for n in range(50):
        await world.send(("x", str(n).encode()))
    await until(lambda: len(machine.pending) == 50)
    world.place.release(RequestKind.PRODUCE)
    await until(lambda: len(world.applied) == 51)
    assert len([c for c in world.place.commits if len(c[1]) > 1]) == 2


async def test_a_restart_restores_the_journal_and_goes_on_after_the_offset(world: World) -> None:
    first = await world.host()
    await world.send(*((f"k{n}", b"v") for n in range(20)))
    await until(lambda: len(world.applied) == 20)
    await first.kill()
    await world.send(("later", b"v"))
    await world.host()
    await until(lambda: "later" in world.applied)
    assert len(world.answers()) == 21, "something was answered twice"
    second = world.machines["a"][2:]
    assert {k for m in second for k in m.restored} == {f"k{n}" for n in range(20)}


async def test_an_end_by_kill_is_unclean_and_one_by_stop_is_clean(world: World) -> None:
    killed = await world.host()
    await world.send(("x", b"1"), ("y", b"1"), ("z", b"1"), ("w", b"1"))
    await until(lambda: len(world.applied) == 4)
    await killed.kill()
    stopped = await world.host()
    await until(lambda: stopped.running_slots == 2)
    assert all(m.opened_with and not m.opened_with.clean for m in world.machines["a"][2:])
    await stopped.stop()
    assert newest_offset(world, 0).clean
    assert newest_offset(world, 1).clean
    third = await world.host()
    await until(lambda: third.running_slots == 2)
    assert all(m.opened_with and m.opened_with.clean for m in world.machines["a"][4:])


async def test_a_death_before_the_first_commit_is_an_unclean_end(world: World) -> None:
    first = await world.host()
    await until(lambda: first.running_slots == 2)
    await first.kill()
    second = await world.host()
    await until(lambda: second.running_slots == 2)
    assert all(m.opened_with and m.opened_with.clean for m in world.machines["a"][:2])
    assert all(m.opened_with and not m.opened_with.clean for m in world.machines["a"][2:])


@pytest.mark.parametrize("fault", LOST_ANSWERS)
async def test_a_lost_answer_is_settled_by_the_journal(world: World, fault: Fate) -> None:
    await world.host()
    await world.send(("before", b"0"))
    await until(lambda: world.applied == ["before"])
    world.place.faults.append(fault)
    await world.send(("x", b"1"))
    await until(lambda: "x" in world.applied)
    await world.send(("after", b"2"))
    await until(lambda: "after" in world.applied)
    assert sorted(world.answers()) == [("after", b"2"), ("before", b"0"), ("x", b"1")]
    assert world.applied == ["before", "x", "after"]
    assert len(world.machines["a"]) == 2, "the machine was rebuilt though the slot was not lost"


@pytest.mark.parametrize("seed", range(20))
async def test_many_lost_answers_in_a_row_repeat_and_lose_nothing(world: World, seed: int) -> None:
    import random

    chance = random.Random(seed)
    await world.host()
    await until(lambda: world.hosts[0].running_slots == 2)
    world.place.faults += [chance.choice(LOST_ANSWERS) for _ in range(6)]
    for n in range(30):
        await world.send((f"k{n}", b"v"))
        await asyncio.sleep(0)
    await until(lambda: len(world.applied) == 30)
    assert sorted(world.answers()) == sorted((f"k{n}", b"v") for n in range(30))


async def test_after_a_lost_answer_no_writer_opens_before_a_new_heartbeat(world: World) -> None:
    await world.host()
    await until(lambda: world.hosts[0].running_slots == 2)
    slot = Slot(GROUP, partition_for(b"x", 2))
    world.place.refused.add(RequestKind.HEARTBEAT)
    opened = world.place.broker.epoch(slot)
    world.place.faults.append(Fate.LOSE_REQUEST)
    await world.send(("x", b"1"))
    await until(lambda: not world.place.faults)
    for _ in range(50):
        await asyncio.sleep(0.002)
    assert world.place.broker.epoch(slot) == opened, "one that hears nothing opened a writer"
    world.place.refused.clear()
    await until(lambda: world.applied == ["x"])


async def test_a_refused_record_fails_alone_and_its_neighbours_are_written(world: World) -> None:
    await world.host()
    await until(lambda: world.hosts[0].running_slots == 2)
    world.holding = True
    key = next(k for k in (f"n{i}" for i in range(9)) if partition_for(k.encode(), 2) == 0)
    await world.send((key, b"1"), (key, b"refuse me"), (key, b"3"))
    machine = next(m for m in world.machines["a"] if m.control.slot.partition == 0)
    await until(lambda: len(machine.pending) == 3)
    world.holding = False
    machine.control.wake()
    await until(lambda: len(world.applied) == 3)
    assert [value for _, value in world.answers()] == [b"1", b"refused", b"3"]
    assert len(world.refused) == 1
    assert "ns.missing" in world.refused[0][1]


async def test_a_newer_writer_elsewhere_ends_the_slot_and_it_comes_back(world: World) -> None:
    await world.host()
    await until(lambda: world.hosts[0].running_slots == 2)
    world.member.session_timeout_s = 1.0
    slot = Slot(GROUP, partition_for(b"x", 2))
    stray = await world.bus().open_writer(slot)
    await world.send(("x", b"1"))
    await until(lambda: world.applied == ["x"], "a stray opener has orphaned the slot")
    assert world.answers() == [("x", b"1")]
    old = next(m for m in world.machines["a"] if m.control.slot == slot)
    assert old.gone
    await stray.close()


async def test_two_processes_of_one_name_are_found_out(world: World) -> None:
    host = await world.host("twin", "process-1")
    await until(lambda: host.running_slots == 2)
    number = partition_for(b"x", 2)
    slot = Slot(GROUP, number)
    other = await world.bus().open_writer(slot)

    foreign = Journal(
        world.bus(), slot, JOURNAL, type(host._settings.identity)("twin", "process-2")
    )
    await other.commit([foreign.offset_record(1, {}, 0, clean=False)], {})
    await world.send(("x", b"1"))
    with pytest.raises(DuplicateInstance, match="--instance"):
        await asyncio.wait_for(host.run(), 5)


async def test_a_second_member_takes_half_and_nothing_is_done_twice(world: World) -> None:
    await world.host("a")
    await until(lambda: world.hosts[0].running_slots == 2)
    for n in range(40):
        await world.send((f"k{n}", b"v"))
    await world.host("b")
    for n in range(40, 80):
        await world.send((f"k{n}", b"v"))
    await until(lambda: len(world.applied) >= 80)
    assert sorted(world.answers()) == sorted((f"k{n}", b"v") for n in range(80))
    await until(lambda: [h.running_slots for h in world.hosts] == [1, 1])


async def test_an_unmoved_slot_keeps_its_machine_over_a_rebalance(world: World) -> None:
    await world.host("a")
    await until(lambda: world.hosts[0].running_slots == 2)
    await world.host("b")
    await until(lambda: [h.running_slots for h in world.hosts] == [1, 1])
    assert len(world.machines["a"]) == 2
    kept = [m for m in world.machines["a"] if not m.gone]
    assert len(kept) == 1
    await world.hosts[1].stop()
    await until(lambda: world.hosts[0].running_slots == 2)
    assert not kept[0].gone
    for n in range(10):
        await world.send((f"k{n}", b"v"))
    await until(lambda: len(world.applied) == 10)


async def test_a_record_of_a_foreign_partitioner_is_forwarded_once(world: World) -> None:
    await world.host()
    wrong = 1 - partition_for(b"x", 2)
    await world.send(("x", b"1"), partition=wrong)
    await until(lambda: "x" in world.applied)
    await until(lambda: world.answers() == [("x", b"1")])
    assert await world.bus().committed(GROUP, [TopicPartition(WORK, wrong)]) == {
        TopicPartition(WORK, wrong): 1
    }


async def test_a_start_below_the_logs_start_stops_loudly(world: World) -> None:
    host = await world.host()
    await world.send(("x", b"1"))
    await until(lambda: world.applied == ["x"])
    await host.kill()
    number = partition_for(b"x", 2)
    await world.send(*(("x", b"v") for _ in range(5)))
    await world.bus().purge({TopicPartition(WORK, number): 4})
    second = await world.host()
    with pytest.raises(OffsetOutOfRange, match="3 records were deleted"):
        await asyncio.wait_for(second.run(), 5)


async def test_the_journals_offset_outweighs_a_stale_one_of_the_broker(world: World) -> None:
    host = await world.host()
    await world.send(*(("x", str(n).encode()) for n in range(5)))
    await until(lambda: len(world.applied) == 5)
    await host.kill()
    world.place.broker.group(GROUP).offsets.clear()
    await world.host()
    await until(lambda: world.hosts[1].running_slots == 2)
    await world.send(("x", b"last"))
    await until(lambda: len(world.answers()) >= 6)
    assert len(world.answers()) == 6


async def test_a_slot_whose_journal_says_where_it_stands_does_not_ask_the_group(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.host()
    await world.send(*(("x", str(n).encode()) for n in range(5)))
    await until(lambda: len(world.applied) == 5)
    await world.hosts[0].kill()

    async def never(bus: SimBus, group: str, partitions: object) -> dict[TopicPartition, int]:
        await asyncio.Event().wait()
        return {}

    monkeypatch.setattr(SimBus, "committed", never)
    await world.host()
    await until(lambda: world.hosts[1].running_slots == 2)
    await world.send(("x", b"last"))
    await until(lambda: len(world.answers()) >= 6)
    assert len(world.answers()) == 6


async def test_the_first_commit_of_a_writer_tells_the_group_its_offsets_anew(world: World) -> None:
    await world.host()
    await world.send(*(("x", str(n).encode()) for n in range(5)))
    await until(lambda: len(world.applied) == 5)
    await world.hosts[0].kill()
    told = world.place.broker.group(GROUP).offsets
    right = dict(told)
    told.clear()
    world.hosts.clear()
    world.machines.clear()
    await world.host()
    await until(lambda: world.hosts[0].running_slots == 2)
    await commit_nothing(world)
    assert {where: told[where] for where in right} == right
    told.clear()
    await commit_nothing(world)
    assert told == {}, "told once, they are not repeated by commits that move nothing"


async def commit_nothing(world: World) -> None:
    for machine in world.machines["a"]:
        machine.control._commits.proven_at = float("-inf")  # type: ignore[attr-defined]
        await machine.control.prove()


async def test_congestion_pauses_one_topic_and_not_the_other(world: World) -> None:
    await world.host()
    await until(lambda: world.hosts[0].running_slots == 2)
    number = partition_for(b"x", 2)
    machine = next(m for m in world.machines["a"] if m.control.slot.partition == number)
    machine.full = True
    await world.send(("x", b"tells it"))
    await until(lambda: len(world.applied) == 1)
    await world.send(("x", b"waits"))
    from holdfast.bus.port import Record

    await world.bus().publish([Record(WORDS, b"x", b"passes")])
    await until(lambda: len(world.applied) == 2)
    assert [v for _, v in world.answers()] == [b"tells it", b"passes"]
    machine.full = False
    await world.bus().publish([Record(WORDS, b"x", b"again")])
    await until(lambda: len(world.applied) == 4)


async def test_proof_is_free_while_young_and_a_commit_when_old(world: World) -> None:
    await world.host()
    await world.send(("x", b"1"))
    await until(lambda: world.applied == ["x"])
    machine = next(m for m in world.machines["a"] if m.seen)
    before = len(world.place.commits)
    await machine.control.prove()
    assert len(world.place.commits) == before
    machine.control._commits.proven_at = float("-inf")  # type: ignore[attr-defined]
    await machine.control.prove()
    assert len(world.place.commits) == before + 1
    assert newest_offset(world, machine.control.slot.partition).commit_number == 3


async def test_a_process_that_stood_still_ends_before_it_commits(world: World) -> None:
    await world.host()
    await until(lambda: world.hosts[0].running_slots == 2)
    ownership = world.hosts[0]._ownership
    assert ownership is not None
    ownership._beat_at -= 4.0  # more than half of the session time-out of 6 s
    before = len(world.place.commits)
    await world.send(("x", b"1"))
    await until(lambda: world.died)
    assert "stood still for 4." in world.died[0]
    assert len(world.place.commits) == before


async def test_a_torn_assignment_is_refused(world: World) -> None:
    host = await world.host()
    assert host._ownership is not None
    host._ownership.assigned(frozenset({TopicPartition(WORK, 0)}))
    with pytest.raises(RuntimeError, match="another program"):
        await asyncio.wait_for(host.run(), 5)
