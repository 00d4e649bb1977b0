"""The machine in its slot: what it reads and refuses, waits for, and how it tells the time."""

from __future__ import annotations

import hashlib

import pytest

from holdfast.coordinator.clock import SteadyClock
from holdfast.coordinator.settings import CoordinatorSettings
from holdfast.coordinator.timers import Timers
from holdfast.schemas.codec import encode_json
from holdfast.schemas.errors import ConfigurationError
from holdfast.schemas.plan import Plan
from holdfast.schemas.records import BlobReference, FailureKind, RunState
from tests.unit.coordinator.host import START_MS, TOPICS, Host, given, resolved


def lone() -> str:
    plan = Plan("lone")
    plan.task("one", "a.t", x=plan.input("x"))
    return resolved(plan)


def chain() -> str:
    plan = Plan("chain")
    one = plan.task("one", "a.t", x=plan.input("x"))
    plan.task("two", "a.t", x=one["x"])
    return resolved(plan)


# --- records that cannot be read ---------------------------------------------------------------


def test_a_record_that_cannot_be_read_is_kept_whole_and_the_next_ones_pass():
    host = Host()
    host.deliver_bytes(b"\0\0\0\0\4rubbish", "run-9")
    host.submit(lone(), {"x": 1})
    (letter,) = host.dead_letters
    assert letter.reason == "undecodable"
    assert letter.source.value == b"\0\0\0\0\4rubbish"
    assert letter.source.sha256 == hashlib.sha256(letter.source.value).hexdigest()
    assert host.position == 2
    assert "run.started" in host.told()


def test_the_run_hears_of_a_result_that_cannot_be_read_by_its_headers():
    host = Host()
    host.submit(lone(), {"x": 1})
    headers = (
        ("holdfast-run", b"run-1"),
        ("holdfast-task", b"one"),
        ("holdfast-attempt", b"1"),
    )
    host.deliver_bytes(b"rubbish", "run-1", headers)
    host.pump()
    assert host.last_run().run.state is RunState.FAILED
    assert host.last_run().run.failure.kind is FailureKind.UNDECODABLE


def test_a_record_of_another_partition_is_forwarded_in_the_commit_that_passes_it():
    host = Host()
    host.control.misplaced_keys.add(b"run-1")
    host.submit(lone())
    assert not host.events
    assert [record.key for record in host.forwarded] == [b"run-1"]
    assert host.position == 1


# --- records that the bus refuses --------------------------------------------------------------


def test_a_run_whose_records_are_too_large_ends_loudly_and_the_others_go_on():
    host = Host()
    host.control.limit = 5_000
    host.submit(lone(), {"x": 1}, run_id="good", pump=False)
    host.submit(lone(), {"x": "y" * 20_000}, run_id="big", pump=False)
    host.submit(lone(), {"x": 2}, run_id="fine", pump=False)
    host.pump()
    assert host.told("big") == ["run.refused"]
    assert "more than 5000" in next(e.message for e in host.events if e.run_id == "big")
    host.work(given)
    assert host.output("good") == {"x": 1}
    assert host.output("fine") == {"x": 2}


def test_a_run_that_grows_too_large_is_ended_with_the_reason():
    host = Host()
    host.control.limit = 5_000
    host.submit(chain(), {"x": 1})
    host.answer(host.sent[0][1], {"x": "y" * 20_000})
    host.pump()
    event = host.last_run()
    assert event.run.state is RunState.FAILED
    assert event.run.failure.kind is FailureKind.TOO_LARGE
    assert "more than 5000" in event.message
    assert [key.partition("/")[0] for key in host.journal] == ["closed"]


def test_a_run_whose_agents_topic_is_gone_ends_with_the_reason():
    host = Host()
    host.control.refused_topics.add(TOPICS.tasks("a"))
    host.submit(lone(), {"x": 1})
    assert host.told() == ["run.refused"]
    assert "no such topic" in host.events[0].message


@pytest.mark.parametrize("topic", ["test.events", "test.tasks.a", "test.journal.coordinator"])
def test_a_record_refused_in_the_commit_ends_its_run_alone(topic):
    host = Host()
    for name in ("first", "culprit", "last"):
        host.submit(lone(), {"x": name}, run_id=name, pump=False)

    def refuse(record):
        if record.topic != topic or b"culprit" not in (record.value or b""):
            return False
        # Smaller ones are those that say so.
        return topic == "test.tasks.a" or len(record.value) > 200

    host.refuse_next = refuse
    host.pump()
    host.work(given)
    assert host.output("first") == {"x": "first"}
    assert host.output("last") == {"x": "last"}
    assert host.told("culprit") == ["run.refused"]
    assert host.position == len(host.log)


def test_attempts_under_way_are_called_back_when_a_run_is_ended_by_force():
    plan = Plan("two")
    plan.task("one", "a.t")
    plan.task("other", "b.t")
    host = Host()
    host.control.limit = 5_000
    host.submit(resolved(plan))
    host.answer(host.sent[0][1], "y" * 20_000)
    host.pump()
    told = [(c.task_id, str(c.action)) for _, c in host.controlled]
    assert ("other", "cancel") in told
    assert ("other", "release") in told


# --- large payloads ----------------------------------------------------------------------------


async def test_a_large_output_is_fetched_before_the_event_and_a_large_input_stored():
    host = Host()
    host.submit(chain(), {"x": 1})
    big = encode_json({"x": "y" * 600_000})
    reference = BlobReference("run-1/abc", len(big))
    host.blobs.blobs[reference.name] = big
    host.answer(host.sent[0][1], payload=reference)
    host.pump()
    assert host.machine._lanes.parked() == 1
    assert host.position == 1, "nothing else moves the offset past it"
    await host.settle()
    sent = host.sent[1][1].input
    assert isinstance(sent, BlobReference)
    assert sent.name == "run-1/" + hashlib.sha256(host.blobs.blobs[sent.name]).hexdigest()
    assert host.read(sent) == {"x": "y" * 600_000}
    assert not host.machine._values.loaded
    host.answer(host.sent[1][1], payload=reference)
    host.pump()
    assert host.output() == {"x": "y" * 600_000}, "the last output is passed on as it is"


async def test_one_lane_waits_for_its_blob_and_the_others_go_on():
    host = Host()
    host.submit(chain(), {"x": 1}, run_id="r1", order_key="k")
    host.submit(chain(), {"x": 2}, run_id="r2", order_key="k")
    host.submit(chain(), {"x": 3}, run_id="r3")
    host.blobs.blobs["r1/abc"] = encode_json({"x": 7})
    first, second, third = (envelope for _, envelope in host.sent)
    host.answer(first, payload=BlobReference("r1/abc", 9))
    host.answer(second, {"x": 8})
    host.answer(third, {"x": 9})
    host.pump()
    assert [e.run_id for _, e in host.sent[3:]] == ["r3"]
    await host.settle()
    # r1 and r2 share an order key: r1's task is handed over first, though it had to wait.
    assert [e.run_id for _, e in host.sent[3:]] == ["r3", "r1", "r2"]
    assert host.position == len(host.log)


async def test_a_crash_while_a_blob_is_fetched_loses_nothing():
    host = Host()
    host.submit(chain(), {"x": 1})
    host.blobs.blobs["run-1/abc"] = encode_json({"x": 7})
    host.answer(host.sent[0][1], payload=BlobReference("run-1/abc", 9))
    host.pump()
    host.machine.lost()
    host.restart()
    await host.settle()
    assert given(host.sent[1][1]) == {"x": 7}


async def test_what_waits_is_journaled_when_the_offset_passes_it():
    host = Host()
    host.submit(chain(), {"x": 1}, run_id="r1")
    host.blobs.blobs["r1/abc"] = encode_json({"x": 7})
    host.answer(host.sent[0][1], payload=BlobReference("r1/abc", 9))
    host.submit(chain(), {"x": 2}, run_id="r2")
    host.submit(chain(), {"x": 3}, run_id="r3")
    assert host.position == len(host.log)
    assert [key for key in host.journal if key.startswith("parked/")] == ["parked/1"]
    for _ in range(2):
        host.machine.lost()
        host.restart()
        host.submit(chain(), {"x": 2}, run_id="r2")
    await host.settle()
    assert given(host.sent[-1][1]) == {"x": 7}
    assert not [key for key in host.journal if key.startswith("parked/")]
    assert host.told("r3") == ["run.started", "task.dispatched one"], "it is not taken again"
    assert host.told("r1").count("task.succeeded one") == 1


async def test_a_store_that_is_away_is_asked_again(monkeypatch):
    monkeypatch.setattr("holdfast.coordinator.needs.FIRST_PAUSE_S", 0.0)
    host = Host()
    host.submit(chain(), {"x": 1})
    host.blobs.blobs["run-1/abc"] = encode_json({"x": 7})
    host.blobs.away = 3
    host.answer(host.sent[0][1], payload=BlobReference("run-1/abc", 9))
    await host.settle()
    assert given(host.sent[1][1]) == {"x": 7}


async def test_a_blob_that_is_not_there_fails_the_task_that_needs_it():
    host = Host()
    host.submit(chain(), {"x": 1})
    host.answer(host.sent[0][1], payload=BlobReference("run-1/gone", 9))
    await host.settle()
    assert host.last_run().type == "run.failed"
    assert "run-1/gone is not in the store" in host.last_run().message


async def test_without_a_store_a_large_payload_ends_its_run_with_a_clear_reason():
    host = Host()
    host.submit(chain(), {"x": 1})
    host.blobs.error = ConfigurationError("no blob store is configured: set HOLDFAST_BLOBS")
    host.answer(host.sent[0][1], payload=BlobReference("run-1/abc", 9))
    await host.settle()
    assert host.last_run().type == "run.failed"
    assert "HOLDFAST_BLOBS" in host.last_run().message


async def test_a_map_with_large_results_gathers_them_by_reference():
    plan = Plan("big")
    plan.map("work", "a.t", over=plan.input("items"))
    host = Host()
    host.submit(resolved(plan), {"items": [1, 2, 3]})
    while host.tasks:
        host.work_one(lambda e: str(given(e)) * 300_000)
        await host.settle()
    assert isinstance(host.last_run().run.output, BlobReference)
    assert host.output() == ["1" * 300_000, "2" * 300_000, "3" * 300_000]


def test_input_and_output_that_fill_two_records_do_not_have_to_share_one():
    host = Host()
    big = "y" * 400_000
    host.submit(chain(), {"x": big})
    host.answer(host.sent[0][1], {"x": big})
    host.pump()
    row = host.events[-2].task
    assert (row.state, row.input) == ("succeeded", None)
    host.work(given)
    assert host.output() == {"x": big}
    assert host.last_run().run.input is None


# --- schemas -----------------------------------------------------------------------------------


async def test_an_unknown_schema_is_waited_for():
    host = Host()
    plan = Plan("schema")
    plan.task("one", "a.t", plan.input("n"))
    host.schemas.coming[1000] = "long"
    host.submit(resolved(plan, schema_id=1000), {"n": 5})
    assert not host.events
    await host.settle()
    assert host.told() == ["run.started", "task.dispatched one"]


async def test_a_schema_that_never_comes_fails_the_task_and_blocks_nobody():
    host = Host()
    plan = Plan("schema")
    plan.task("one", "a.t", plan.input("n"))
    host.submit(resolved(plan, schema_id=1000), {"n": 5})
    await host.settle()
    assert host.schemas.waited == [1000]
    assert host.last_run().run.failure.kind is FailureKind.SCHEMA
    assert "1000" in host.last_run().message


# --- bounds and time ---------------------------------------------------------------------------


def test_with_too_much_waiting_nothing_more_is_read():
    host = Host(settings=CoordinatorSettings(queue_inputs=3))
    for number in range(4):
        host.submit(lone(), run_id=f"r{number}", pump=False)
    assert host.machine.congested() == {TOPICS.coordinator}
    host.pump()
    assert host.machine.congested() == frozenset()


def test_nothing_is_applied_before_its_commit_is_acknowledged():
    host = Host()
    host.submit(lone(), {"x": 1}, pump=False)
    commit = host.collect()
    assert commit is not None
    assert not host.machine.state.entities
    commit.changes[0].apply()
    assert list(host.machine.state.entities) == ["run/run-1"]


def test_a_fault_of_the_engine_ends_the_run_it_met_and_no_other(monkeypatch):
    host = Host()
    host.submit(lone(), {"x": 1}, run_id="good")
    host.submit(lone(), {"x": 1}, run_id="bad")
    import holdfast.coordinator.engine.run.results as results

    real = results.move_copy

    def broken(run_id, entry, state):
        if run_id == "bad":
            raise RuntimeError("planted")
        return real(run_id, entry, state)

    monkeypatch.setattr(results, "move_copy", broken)
    host.work(given)
    assert host.output("good") == {"x": 1}
    assert "planted" in host.last_run("bad").message


def test_many_restored_runs_are_looked_at_a_few_at_a_time():
    host = Host()
    for number in range(300):
        host.submit(lone(), {"x": number}, run_id=f"r{number}")
    host.restart()
    assert host.machine.due(host.now_ms) == host.now_ms
    assert host.collect() is None
    assert len(host.machine._unvisited) == 300 - 128
    host.submit(lone(), {"x": 1}, run_id="new")
    host.work(given)
    assert not host.machine._unvisited
    assert host.output("r299") == {"x": 299}


class Clocks:
    wall_ms = START_MS
    monotonic_s = 50.0

    def steady(self, floor_ms: int = 0) -> SteadyClock:
        return SteadyClock(lambda: self.wall_ms, lambda: self.monotonic_s, floor_ms)

    def go(self, wall_ms: int, monotonic_ms: int) -> None:
        self.wall_ms += wall_ms
        self.monotonic_s += monotonic_ms / 1_000


def test_time_never_goes_backwards():
    clocks = Clocks()
    clock = clocks.steady(START_MS + 5_000)
    assert clock.now_ms() == START_MS + 5_000
    clocks.go(10_000, 10_000)
    assert clock.now_ms() == START_MS + 10_000
    clocks.go(-4_000, 0)
    assert clock.now_ms() == START_MS + 10_000


@pytest.mark.parametrize("jump_ms", [3_600_000, -3_600_000])
def test_a_jump_of_the_wall_clock_is_held_and_reported(jump_ms, caplog):
    clocks = Clocks()
    clock = clocks.steady()
    clocks.go(jump_ms, 1_000)
    assert clock.now_ms() == START_MS + 1_000
    clocks.go(1_000, 1_000)
    assert clock.now_ms() == START_MS + 2_000
    assert clock.wall_of(START_MS + 3_000) == clocks.wall_ms + 1_000
    assert len([r for r in caplog.records if "jumped" in r.message]) == 1
    clocks.go(-jump_ms + 2_000, 1_000)
    assert clock.now_ms() == clocks.wall_ms, "it agrees again, and is followed"


def test_small_corrections_of_the_wall_clock_are_followed():
    clocks = Clocks()
    clock = clocks.steady()
    for _ in range(10):
        clocks.go(40_000, 1_000)
        assert clock.now_ms() == clocks.wall_ms


def test_a_time_that_is_ahead_of_the_wall_goes_on_until_the_wall_has_caught_up():
    """A clock an hour fast was put right: retries come late by as much again, not by an hour."""
    clocks = Clocks()
    clock = clocks.steady(START_MS + 3_600_000)
    at_ms = clock.now_ms()
    assert at_ms == START_MS + 3_600_000
    assert clock.wall_of(at_ms + 500) == clocks.wall_ms + 1_000
    for _ in range(1_000):
        clocks.go(1, 1)
        clock.now_ms()
    assert clock.now_ms() == at_ms + 500
    clocks.go(7_200_000, 7_200_000)
    assert clock.now_ms() == clocks.wall_ms
    assert clock.wall_of(clock.now_ms() + 500) == clocks.wall_ms + 500


def test_a_restored_slot_goes_on_from_the_newest_time_it_had_committed():
    host = Host()
    host.submit(lone(), {"x": 1})
    host.now_ms -= 50_000
    host.restart()
    host.work(given)
    assert host.last_run().at_ms == START_MS


def test_timers_fire_once_in_order_and_stale_ones_cost_nothing():
    timers = Timers()
    for number in range(5_000):
        timers.set("run/a", str(number), 1_000 + number)
    for number in range(5_000):
        timers.set("run/a", str(number), None)
    timers.set("run/b", "", 50)
    timers.set("run/a", "x", 70)
    timers.set("run/a", "x", 60)
    assert len(timers._heap) < 2_000
    assert [due.entity for due in timers.pop_due(60)] == ["run/b", "run/a"]
    assert timers.pop_due(10**9) == []
    assert timers.next_ms() is None


def test_a_stop_leaves_work_in_pieces_to_the_next_owner():
    from holdfast.coordinator.engine import EngineLimits

    plan = Plan("mapped")
    plan.map("work", "a.t", over=plan.input("items"), max_parallel=100)
    host = Host(EngineLimits(records_per_event=40, chunk_items=4))
    host.submit(resolved(plan), {"items": list(range(50))}, pump=False)
    host.machine.quiesce()
    host.pump()
    assert host.machine.idle()
    assert 0 < len(host.sent) < 50
    host.restart()
    host.pump()
    assert len(host.sent) == 50
