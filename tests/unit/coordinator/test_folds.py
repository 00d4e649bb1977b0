"""Maps that may lose a share of their items, and maps whose outputs are folded as they come."""

from __future__ import annotations

from typing import Any

import pytest

from holdfast.coordinator.engine import EngineLimits
from holdfast.schemas.plan import Plan
from holdfast.schemas.records import CommandAction, TaskEnvelope
from tests.unit.coordinator.host import Handler, Host, Raised, given, resolved
from tests.unit.coordinator.test_joins import ended

SMALL = EngineLimits(records_per_event=34, chunk_items=3)


def failing(*indexes: int) -> Handler:
    def handler(envelope: TaskEnvelope) -> Any:
        if int(envelope.task_id.partition(".")[2] or -1) in indexes:
            raise Raised(retryable=False)
        return given(envelope)

    return handler


@pytest.mark.parametrize(
    ("at_most", "failed", "state"),
    [
        (0, 1, "failed"),
        (2, 2, "succeeded"),
        (2, 3, "failed"),
        (0.1, 2, "succeeded"),
        (0.1, 3, "failed"),
    ],
)
def test_a_share_of_the_items_may_fail(at_most, failed, state):
    plan = Plan("share")
    plan.map("m", "a.item", over=list(range(20)), on_failure={"at_most": at_most})
    host = Host(SMALL)
    host.submit(resolved(plan))
    host.work(failing(*range(failed)))
    assert ended(host)[0] == state
    if state == "succeeded":
        assert host.output() == list(range(failed, 20))
    elif at_most:
        assert ended(host)[1] == (
            "3 of 20 items failed, at most 2 may; task 'm.2' failed: error raised"
        )


def folding(items: int, **settings: Any) -> str:
    plan = Plan("fold")
    plan.map("m", "a.item", over=list(range(items)), n=Plan.item, reduce="b.fold", **settings)
    return resolved(plan)


def folded(envelope: TaskEnvelope) -> Any:
    asked = given(envelope)
    if envelope.task != "fold":
        return asked["n"]
    return {"sum": (asked["previous"] or {"sum": 0})["sum"] + sum(asked["items"])}


@pytest.mark.parametrize("items", [1, 3, 17])
def test_a_reducer_folds_chunk_by_chunk_in_the_order_of_the_list(items):
    host = Host(SMALL)
    host.submit(folding(items, max_parallel=4))
    while host.tasks:
        host.work_one(folded, index=len(host.tasks) - 1)
        host.pump()
        host.restart()
    assert host.output() == {"sum": sum(range(items))}
    asked = [given(e) for _, e in host.sent if e.task == "fold"]
    assert [i for each in asked for i in each["items"]] == list(range(items))
    assert {key.partition("/")[0] for key in host.journal} == {"closed"}


def test_a_reducer_of_nothing_is_not_asked():
    host = Host(SMALL)
    host.submit(folding(0))
    assert ended(host)[0] == "succeeded"
    assert host.output() is None


def test_a_map_does_not_run_far_ahead_of_its_reducer():
    host = Host(SMALL)
    host.submit(folding(1_000, max_parallel=5))
    for _ in range(1_000):
        index = next((i for i, (_, e) in enumerate(host.tasks) if e.task != "fold"), None)
        if index is None:
            break
        host.work_one(folded, index)
        host.pump()
    assert sum(e.task != "fold" for _, e in host.sent) < 8 * 3 + 2 * 5
    records = sum(key.startswith("run/") for key in host.journal)
    host.work(folded)
    assert records < 60
    assert host.output() == {"sum": sum(range(1_000))}


def test_a_reducer_that_fails_fails_the_map_and_says_where():
    def handler(envelope):
        if envelope.task == "fold" and given(envelope)["previous"]:
            raise Raised(retryable=False)
        return folded(envelope)

    host = Host(SMALL)
    host.submit(folding(9))
    host.work(handler)
    assert ended(host) == (
        "failed",
        "task 'm' failed: its reducer failed on chunk 1: error raised",
    )


def test_a_reducer_sees_those_that_succeeded():
    def handler(envelope):
        if envelope.task_id in ("m.1", "m.4"):
            raise Raised(retryable=False)
        return folded(envelope)

    host = Host(SMALL)
    host.submit(folding(6, on_failure={"at_most": 0.5}))
    host.work(handler)
    assert host.output() == {"sum": 0 + 2 + 3 + 5}


def test_a_cancel_while_the_reducer_is_at_work():
    host = Host(SMALL)
    host.submit(folding(6))
    while all(e.task != "fold" for _, e in host.tasks):
        host.work_one(folded)
        host.pump()
    host.command(CommandAction.CANCEL)
    host.work(folded)
    assert ended(host)[0] == "cancelled"
    assert {key.partition("/")[0] for key in host.journal} == {"closed"}


def test_a_map_that_loses_lets_its_reducer_end():
    plan = Plan("race")
    wide = plan.map("m", "a.item", over=list(range(6)), n=Plan.item, reduce="b.fold")
    fast = plan.task("fast", "a.item", n=1)
    plan.task("end", "a.item", n=fast, wide=wide, join="first-success")
    host = Host(SMALL)
    host.submit(resolved(plan))
    while all(e.task != "fold" for _, e in host.tasks):
        index = next(i for i, (_, e) in enumerate(host.tasks) if e.task_id.startswith("m."))
        host.work_one(folded, index)
        host.pump()
    index = next(i for i, (_, e) in enumerate(host.tasks) if e.task_id == "fast")
    host.work_one(folded, index)
    host.pump()
    host.work(folded)
    assert ended(host)[0] == "succeeded"
    fold = [e.task for e in host.events if e.task and e.task.task_id.startswith("~")]
    assert fold[-1].state == "cancelled"


def test_a_map_that_waits_for_one_dead_item_says_so():
    """Its reducer waits for that item, and it is as far ahead of its reducer as it may be."""
    plan = Plan("fold", on_dead_letter="wait")
    items = list(range(200))
    plan.map("m", "a.item", over=items, n=Plan.item, reduce="b.fold", max_parallel=3)
    host = Host(SMALL)
    host.submit(resolved(plan))
    host.work(lambda e: failing(0)(e) if e.task_id == "m.0" else folded(e))
    assert sum(e.task != "fold" for _, e in host.sent) < 100, "it is not far ahead"
    assert host.last_run().type == "run.waiting"
    host.command(CommandAction.REPLAY, "m.0")
    host.work(folded)
    assert host.output() == {"sum": sum(range(200))}
