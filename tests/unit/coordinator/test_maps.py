"""Maps: windows, order, failures, chunks, bounded events, continuation after a crash."""

from __future__ import annotations

import pytest

from holdfast.coordinator.engine import EngineLimits
from holdfast.schemas.plan import Plan, Retry
from holdfast.schemas.records import CommandAction, FailureKind, RunState
from tests.unit.coordinator.host import Host, Raised, given, resolved

SMALL = EngineLimits(records_per_event=40, chunk_items=4)
SMALL_PARTS = EngineLimits(records_per_event=44, chunk_items=10, chunk_bytes=100)


def mapped(reduce: bool = True, **settings) -> str:
    plan = Plan("mapped", on_dead_letter=settings.pop("on_dead_letter", "fail"))
    items = plan.map("work", "w.t", over=plan.input("items"), retry=Retry(attempts=1), **settings)
    if reduce:
        plan.task("report", "r.t", results=items)
    return resolved(plan)


def double(envelope):
    document = given(envelope)
    return document if envelope.task_id == "report" else document * 2


@pytest.mark.parametrize("limits", [EngineLimits(), SMALL])
@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 100, 250])
def test_results_are_gathered_in_the_order_of_the_items(limits, count):
    host = Host(limits)
    host.submit(mapped(max_parallel=7), {"items": list(range(count))})
    while host.tasks:
        host.work_one(double, index=len(host.tasks) // 2)
        host.pump()
    assert host.output() == {"results": [number * 2 for number in range(count)]}


def test_no_more_items_than_the_window_are_under_way():
    host = Host()
    host.submit(mapped(max_parallel=5), {"items": list(range(50))})
    most = 0
    while host.tasks:
        most = max(most, len(host.tasks))
        host.work_one(double)
        host.pump()
    assert most == 5


@pytest.mark.parametrize("limits", [EngineLimits(), SMALL])
def test_no_event_makes_more_records_than_allowed(limits):
    host = Host(limits)
    host.machine._settings._settings = host.settings.model_copy(update={"batch_inputs": 1})
    host.submit(mapped(max_parallel=1_000), {"items": list(range(1_000))})
    host.work(double)
    assert len(host.output()["results"]) == 1_000
    assert max(map(len, host.commits)) <= limits.records_per_event


def test_a_crash_after_any_commit_changes_nothing():
    undisturbed = Host(SMALL)
    undisturbed.submit(mapped(max_parallel=6), {"items": list(range(23))})
    undisturbed.work(double)
    host = Host(SMALL)
    host.after_commit = host.restart
    host.submit(mapped(max_parallel=6), {"items": list(range(23))})
    host.work(double)
    assert host.output() == undisturbed.output()
    assert sorted(host.told()) == sorted(undisturbed.told())
    assert list(host.journal) == list(undisturbed.journal)


def test_the_first_item_that_fails_fails_the_run_and_cancels_the_others():
    host = Host()

    def handler(envelope):
        if envelope.task_id == "work.2":
            raise Raised
        return double(envelope)

    host.submit(mapped(max_parallel=4), {"items": list(range(20))})
    host.work(handler)
    assert host.last_run().run.state is RunState.FAILED
    assert "'work.2' failed" in host.last_run().message
    assert len(host.sent) < 20
    assert not host.machine.state.entities
    assert [key.partition("/")[0] for key in host.journal] == ["closed"]


@pytest.mark.parametrize("limits", [EngineLimits(), SMALL])
def test_collect_gives_those_that_succeeded_in_order_and_keeps_the_reasons_of_the_others(limits):
    host = Host(limits)

    def handler(envelope):
        if envelope.task_id in ("work.0", "work.7", "work.9"):
            raise Raised(FailureKind.POISON, retryable=False)
        return double(envelope)

    host.submit(mapped(max_parallel=4, on_failure="collect"), {"items": list(range(10))})
    host.work(handler)
    assert host.output() == {"results": [n * 2 for n in range(10) if n not in (0, 7, 9)]}
    row = [e.task for e in host.events if e.task and e.task.task_id == "work"][-1]
    assert (row.total, row.done, row.failed) == (10, 10, 3)
    assert [letter.task_id for letter in host.dead_letters] == ["work.0", "work.7", "work.9"]
    assert [host.read(letter.input) for letter in host.dead_letters] == [0, 7, 9]


def test_an_item_that_fits_no_input_is_a_failed_item():
    host = Host(SMALL)
    host.schemas.schemas[1000] = "long"
    plan = Plan("mapped")
    plan.map("work", "w.t", over=plan.input("items"), on_failure="collect")
    host.submit(resolved(plan, schema_id=1000), {"items": [1, "two", 3, "four", "five", 6]})
    host.work(lambda e: e.task_id)
    assert host.output() == ["work.0", "work.2", "work.5"]
    assert [letter.reason for letter in host.dead_letters] == ["schema"] * 3
    assert "'work'" in host.dead_letters[0].failure.message


def test_thousands_of_items_that_fit_no_input_end_without_recursion():
    host = Host(SMALL)
    host.schemas.schemas[1000] = "long"
    plan = Plan("mapped")
    plan.map("work", "w.t", over=plan.input("items"), on_failure="collect")
    host.submit(resolved(plan, schema_id=1000), {"items": ["x"] * 3_000})
    assert host.output() == []


def test_each_item_gets_what_its_inputs_select():
    plan = Plan("mapped")
    first = plan.task("first", "a.t", x=1)
    plan.map("work", "w.t", over=plan.input("items"), name=Plan.item["name"], x=first["x"])
    host = Host()
    host.submit(resolved(plan), {"items": [{"name": "a"}, {"name": "b"}]})
    host.work(given)
    assert host.output() == [{"name": "a", "x": 1}, {"name": "b", "x": 1}]


@pytest.mark.parametrize("items", [None, "text", {"a": 1}])
def test_a_map_over_what_is_no_list_fails_and_says_what_it_got(items):
    host = Host()
    host.submit(mapped(), {"items": items})
    assert host.last_run().type == "run.failed"
    assert "must be a list" in host.last_run().message


def test_retries_of_an_item_carry_its_input_again():
    plan = Plan("mapped")
    plan.map("work", "w.t", over=plan.input("items"), retry=Retry(attempts=2, jitter=0))
    host = Host(SMALL)
    host.submit(resolved(plan), {"items": [5, 6]})

    def handler(envelope):
        if envelope.attempt == 1:
            raise Raised
        return given(envelope)

    host.work(handler)
    host.pass_time(1_000)
    host.work(handler)
    assert host.output() == [5, 6]


def test_a_dead_item_is_waited_for_replayed_and_takes_its_place():
    host = Host(SMALL)
    broken = True

    def handler(envelope):
        if envelope.task_id == "work.1" and broken:
            raise Raised
        return double(envelope)

    host.submit(mapped(max_parallel=2, on_dead_letter="wait"), {"items": list(range(9))})
    host.work(handler)
    assert host.told()[-1] == "run.waiting"
    host.restart()
    broken = False
    host.command(CommandAction.REPLAY, "work.1")
    host.work(handler)
    assert host.output() == {"results": [n * 2 for n in range(9)]}


def test_a_discarded_item_is_a_failed_item():
    host = Host(SMALL)

    def handler(envelope):
        if envelope.task_id == "work.1":
            raise Raised
        return double(envelope)

    plan = mapped(max_parallel=2, on_dead_letter="wait", on_failure="collect")
    host.submit(plan, {"items": list(range(9))})
    host.work(handler)
    host.command(CommandAction.DISCARD, "work.1")
    host.work(handler)
    assert host.output() == {"results": [n * 2 for n in range(9) if n != 1]}


def test_a_paused_map_hands_out_nothing_more_until_it_is_resumed():
    host = Host(SMALL)
    host.submit(mapped(max_parallel=3), {"items": list(range(12))})
    host.command(CommandAction.PAUSE)
    host.work(double)
    assert len(host.sent) == 3
    host.restart()
    host.pump()
    assert len(host.sent) == 3
    host.command(CommandAction.RESUME)
    host.work(double)
    assert host.output() == {"results": [n * 2 for n in range(12)]}


def test_a_cancelled_map_ends_all_that_is_under_way_in_bounded_events():
    host = Host(SMALL)
    host.machine._settings._settings = host.settings.model_copy(update={"batch_inputs": 1})
    host.submit(mapped(max_parallel=100), {"items": list(range(300))})
    host.command(CommandAction.CANCEL)
    assert sum(c.action == "cancel" for _, c in host.controlled) == 100
    host.work(double)
    assert host.last_run().run.state is RunState.CANCELLED
    assert max(map(len, host.commits)) <= SMALL.records_per_event
    assert [key.partition("/")[0] for key in host.journal] == ["closed"]


def test_large_inputs_of_items_are_spread_over_several_records():
    host = Host(EngineLimits(chunk_bytes=1_000))
    items = ["x" * 400 + str(number) for number in range(20)]
    host.submit(mapped(max_parallel=3), {"items": items})
    parts = [key for key in host.journal if "/items/" in key]
    assert len(parts) == 10
    host.work(lambda e: given(e)[-1:] if "." in e.task_id else given(e))
    assert host.output() == {"results": [str(number % 10) for number in range(20)]}


@pytest.mark.parametrize("limits", [EngineLimits(chunk_bytes=100), SMALL_PARTS])
def test_records_that_a_chunk_is_spread_over_are_counted(limits):
    host = Host(limits)
    host.settings = host.settings.model_copy(update={"batch_inputs": 1})
    host.restart()
    items = ["x" * 400 + str(number) for number in range(300)]
    host.submit(mapped(max_parallel=300), {"items": items})
    host.work(lambda e: given(e)[-1:] if "." in e.task_id else given(e))
    assert host.output() == {"results": [str(number % 10) for number in range(300)]}
    # The offset of an input, and the event's own.
    assert max(map(len, host.commits)) <= limits.records_per_event


def test_two_maps_one_over_the_results_of_the_other():
    plan = Plan("two-maps")
    first = plan.map("first", "a.t", over=plan.input("items"), max_parallel=2)
    plan.map("second", "a.t", over=first, max_parallel=2)
    host = Host(SMALL)
    host.submit(resolved(plan), {"items": [1, 2, 3, 4, 5]})
    host.work(lambda e: given(e) + 1)
    assert host.output() == [3, 4, 5, 6, 7]


def test_an_items_order_key_may_depend_on_the_item():
    plan = Plan("keys")
    plan.map("work", "w.t", over=plan.input("items"), order_key=Plan.item["k"])
    host = Host()
    host.submit(resolved(plan), {"items": [{"k": "a"}, {"k": "b"}, {"k": None}]})
    assert [key for key, _ in host.sent] == ["o:a", "o:b", "t:run-1/work.2"]
    assert [e.order_key for _, e in host.sent] == ["a", "b", None]


def test_the_events_of_an_item_carry_its_input_and_output():
    host = Host()
    host.submit(mapped(), {"items": [4]})
    host.work(double)
    rows = [e.task for e in host.events if e.task and e.task.task_id == "work.0"]
    assert [host.read(row.input) for row in rows] == [4, 4]
    assert host.read(rows[-1].output) == 8
