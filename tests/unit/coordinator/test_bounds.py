"""What bounds the engine, whatever comes: moves that no table holds, what is remembered, caches."""

from __future__ import annotations

from dataclasses import replace

import pytest

from holdfast.coordinator.engine import (
    CLOSED_KIND,
    EngineLimits,
    Graphs,
    IllegalMove,
)
from holdfast.coordinator.engine.run.lists import LISTS_ITEMS_MAX, EvaluatedLists
from holdfast.coordinator.engine.schedule.states import check_schedule_move
from holdfast.coordinator.engine.states import check_run_move, check_task_move
from holdfast.schemas.plan import Plan
from holdfast.schemas.records import RunState, ScheduleState, TaskState
from tests.unit.coordinator.host import Host, resolved

DAY_MS = 86_400_000


def single(name: str = "single") -> str:
    plan = Plan(name)
    plan.task("one", "worker.do", x=plan.input("x"))
    return resolved(plan)


def markers(host: Host) -> int:
    return sum(key.startswith(f"{CLOSED_KIND}/") for key in host.journal)


def test_what_has_ended_goes_on_to_nothing() -> None:
    with pytest.raises(IllegalMove, match="run r: succeeded -> running"):
        check_run_move("r", RunState.SUCCEEDED, RunState.RUNNING)
    with pytest.raises(IllegalMove, match="task r/t: failed -> dispatched"):
        check_task_move("r", "t", TaskState.FAILED, TaskState.DISPATCHED)
    with pytest.raises(IllegalMove, match="schedule s: deleted -> active"):
        check_schedule_move("s", ScheduleState.DELETED, ScheduleState.ACTIVE)


def test_an_event_must_have_room_for_a_chunk() -> None:
    limits = EngineLimits()
    with pytest.raises(ValueError, match="room to close a chunk"):
        replace(limits, records_per_event=limits.chunk_items)


def test_the_oldest_runs_are_forgotten_by_number_and_by_age() -> None:
    host = Host(replace(EngineLimits(), markers_max=3, marker_age_ms=DAY_MS))
    for number in range(5):
        host.now_ms += 1
        host.submit(single(), {"x": 1}, f"run-{number}")
        host.work(lambda _: "done")
    assert markers(host) == 3
    host.submit(single(), {"x": 1}, "run-4")
    assert host.events[-1].type == "run.repeated", "the newest are the ones that are remembered"
    host.submit(single(), {"x": 1}, "run-0")
    assert host.events[-1].type == "task.dispatched", "it is as if it had never been"
    host.pass_time(DAY_MS + 1)
    assert markers(host) == 0


def test_many_are_forgotten_by_several_events_of_bounded_size() -> None:
    limits = EngineLimits(records_per_event=28, chunk_items=2, marker_age_ms=DAY_MS)
    host = Host(limits)
    for number in range(60):
        host.submit(single(), {"x": 1}, f"run-{number}")
    host.work(lambda _: "done")
    assert markers(host) == 60
    del host.commits[:]
    host.pass_time(DAY_MS)
    assert markers(host) == 0
    gone = [sum(r.topic.startswith("test.journal") for r in records) for records in host.commits]
    assert max(gone) <= limits.records_per_event
    assert sum(gone) == 60


def test_the_plans_used_last_stay_compiled() -> None:
    graphs = Graphs(2)
    first, second, third = (single(name) for name in ("one", "two", "three"))
    kept = graphs.get(first)
    dropped = graphs.get(second)
    assert graphs.get(first) is kept
    graphs.get(third)
    assert graphs.get(first) is kept
    assert graphs.get(second) is not dropped


def test_the_lists_of_the_oldest_runs_make_room() -> None:
    lists = EvaluatedLists()
    half = [0] * (LISTS_ITEMS_MAX // 2 + 1)
    lists.keep("first", "each", half)
    lists.keep("second", "each", half)
    assert lists.get("first", "each") is None
    assert lists.get("second", "each") is half
    lists.keep("third", "each", [1])
    assert lists.get("second", "each") is half, "there is room for both"
    assert lists.get("third", "each") == [1]
