"""A coordinator's slot is restored folded, and unfolded a few runs at a time while it works."""

from __future__ import annotations

import random

import pytest

from holdfast.coordinator.engine import Graphs, State
from holdfast.coordinator.engine import state as state_module
from holdfast.coordinator.restoring import Restoring
from holdfast.coordinator.service import UNFOLDED_RECORDS
from holdfast.schemas.errors import Undecodable
from holdfast.schemas.plan import Plan
from tests.unit.coordinator.host import Host, given, resolved


def lone() -> str:
    plan = Plan("lone")
    plan.task("one", "a.t", x=plan.input("x"))
    return resolved(plan)


def waiting(runs: int) -> Host:
    """Return a host with so many runs whose task is at its agent, and one that has ended."""
    host = Host()
    host.submit(lone(), {"x": 0}, run_id="ended")
    host.work(given)
    for number in range(runs):
        host.submit(lone(), {"x": number}, run_id=f"r{number}")
    return host


def test_nothing_is_decoded_before_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    host, decoded = waiting(10), 0
    real = state_module._decoded

    def counted(data: bytes):
        nonlocal decoded
        decoded += 1
        return real(data)

    monkeypatch.setattr(state_module, "_decoded", counted)
    restoring = Restoring(Graphs())
    for key, value in host.journal.items():
        restoring.take(key, value)
    assert decoded == 0
    assert len(restoring.state.entities) == 10
    assert restoring.state.entity("run/r3").get("") is not None
    assert decoded == 2, "the run and its task, and no other's"
    assert restoring.state.digest() == host.machine.state.digest()


def test_a_result_for_a_run_that_was_not_looked_at_yet_is_taken() -> None:
    host = waiting(300)
    host.restart()
    assert host.collect() is None
    late = [e for e in host.machine._unvisited if host.machine.state.entities[e].folded]
    assert len(late) == 300 - 128
    host.work(given)
    assert {host.output(f"r{n}")["x"] for n in range(300)} == set(range(300))


def wide(tasks: int) -> str:
    plan = Plan("wide")
    for number in range(tasks):
        plan.task(f"t{number}", "a.t", x=plan.input("x"))
    return resolved(plan)


@pytest.mark.parametrize("asked_first", [False, True], ids=["visited", "asked for by results"])
def test_wide_runs_are_unfolded_a_few_at_a_time(asked_first: bool) -> None:
    """100 runs of 1,000 tasks took 3.2 s in one turn of the loop: the watchdog ends the process."""
    host, runs, tasks = Host(), 12, 200
    for number in range(runs):
        host.submit(wide(tasks), {"x": number}, run_id=f"r{number}")
    host.restart()
    if asked_first:
        host.machine._unvisited.rotate(runs // 2)
        for _, envelope in list(host.tasks)[::tasks]:
            host.answer(envelope, given(envelope))
    most, unfolded = 0, 0
    for _ in range(1_000):
        busy = host.step()
        most = max(most, host.machine.state.unfolded - unfolded)
        unfolded = host.machine.state.unfolded
        if not busy:
            break
    assert unfolded == runs * (tasks + 1), "all of them in the end"
    assert most < UNFOLDED_RECORDS + 2 * tasks + 2, "what one run more, and one input, may add"
    host.work(given)
    assert {host.output(f"r{n}")["t7"]["x"] for n in range(runs)} == set(range(runs))


def test_a_damaged_record_stops_the_slot_once_its_run_is_looked_at() -> None:
    host = waiting(3)
    host.journal["run/r1"] = host.journal["run/r1"][:-4]
    host.restart()
    with pytest.raises(Undecodable, match="damaged"):
        host.collect()
    assert host.machine.state.entities["run/r1"].folded, "it stays as it was"


@pytest.mark.parametrize("seed", range(20))
def test_a_folded_state_is_the_same_whatever_history_the_journal_tells(seed: int) -> None:
    """Old values before the newest, tombstones of keys that never were: as compaction leaves it."""
    rng = random.Random(seed)
    host = waiting(8)
    final = dict(host.journal)
    history: list[tuple[str, bytes | None]] = []
    for key, value in final.items():
        others = [other for name, other in final.items() if name.split("/")[0] == key.split("/")[0]]
        for _ in range(rng.randrange(3)):
            history.append((key, rng.choice([None, rng.choice(others)])))
        history.append((key, value))
    gone = [(f"run/gone{n}", None) for n in range(3)]
    state = State()
    for key, value in [*gone, *history]:
        state.restore(key, value)
    expected = State()
    for key, value in final.items():
        expected.restore(key, value)
    assert state.digest() == expected.digest()
    assert list(state.closed.items()) == list(expected.closed.items())
    assert state.entities.keys() == expected.entities.keys()
