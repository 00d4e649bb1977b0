"""Plans that tasks of their own run change: what is taken, what is refused, what follows."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from holdfast.coordinator.engine import Graphs, compile_graph
from holdfast.schemas.codec import encode_json
from holdfast.schemas.plan import NODES_MAX, Expression, Plan
from holdfast.schemas.plan_change import PlanChange
from holdfast.schemas.plan_versions import ResolvedChange, changed_plan
from holdfast.schemas.records import (
    Ask,
    CallAsk,
    CommandAction,
    CoordinatorEnvelope,
    EmitAsk,
    EventType,
    PlanAsk,
    PlanRevision,
    RunEntry,
    TaskState,
)
from holdfast.schemas.resolution import ResolvedPlan
from tests.unit.coordinator.growing import (
    adding,
    begun,
    cancelling,
    change,
    echo,
    planner_first,
    refusal,
    revisions,
    state_of,
    version,
)
from tests.unit.coordinator.host import Host, Raised, given, resolved

# --- adding ------------------------------------------------------------------------------------


def test_added_tasks_are_started_and_belong_to_the_run() -> None:
    host = begun()
    what = PlanChange()
    first = what.task("first", "b.work")
    what.task("second", "b.work", after=[first, what.existing("planner")])
    assert version(change(host, what)) == 2
    assert [e.task_id for _, e in host.sent] == ["planner", "first"]
    host.work(echo)
    assert host.last_run().type is EventType.RUN_SUCCEEDED
    assert host.last_run().run.plan_version == 2  # type: ignore[union-attr]
    assert state_of(host, "second") is TaskState.SUCCEEDED
    told = host.told()
    assert told.index("task.dispatched second") > told.index("task.succeeded planner")


def test_a_change_is_told_with_its_version_its_text_and_its_task() -> None:
    host = begun()
    change(host, adding("x"))
    change(host, adding("y"), key="2")
    first, second = revisions(host)
    assert first.revision is not None
    assert (first.revision.version, first.revision.task_id) == (2, "planner")
    assert first.message == "planner: 1 added"
    assert list(ResolvedChange.from_json(first.revision.change).change.add) == ["x"]
    assert first.run is not None
    assert second.run is not None
    assert (first.run.plan_version, second.run.plan_version) == (2, 3)
    assert second.run.version > first.run.version
    versions = [k.rpartition("/")[2] for k in host.journal if "/plan/" in k]
    assert versions == ["1", "2", "3"]


def test_nothing_is_left_of_a_changed_run_that_has_ended() -> None:
    host = begun()
    change(host, adding("x"))
    host.work(echo)
    assert [key for key in host.journal if key.startswith("run/")] == []


def test_a_map_may_be_added_and_reads_the_outputs_of_others() -> None:
    plan = Plan("growing")
    plan.task("list", "a.work")
    plan.task("planner", "a.work", after=["list"])
    host = begun(plan)
    host.work_one(lambda _: {"items": ["a", "b"]})
    host.pump()
    what = PlanChange()
    pages = what.map("pages", "b.work", over=what.existing("list")["items"])
    what.task("sum", "b.work", pages=pages)
    version(change(host, what))
    seen = []
    host.work(lambda e: seen.append((e.task_id, given(e))) or {"of": e.task_id})
    assert ("sum", {"pages": [{"of": "pages.0"}, {"of": "pages.1"}]}) in seen
    assert host.output() == {"of": "sum"}  # the planner's is no end: what it added is


def test_tasks_that_others_added_may_add_more() -> None:
    host = begun()
    change(host, adding("sub"))
    assert version(change(host, adding("leaf", after=["sub"]), task_id="sub")) == 3
    host.work(echo)
    assert state_of(host, "leaf") is TaskState.SUCCEEDED
    assert host.output() == {"report": {"made_by": "report"}, "leaf": {"made_by": "leaf"}}


def test_an_item_of_a_map_and_a_called_task_may_change_the_plan() -> None:
    plan = Plan("growing")
    plan.map("each", "a.work", over=[1])
    host = begun(plan)
    assert version(change(host, adding("x"), task_id="each.0")) == 2
    envelope = host.sent[0][1]
    call = Ask("each.0", 1, "call", "", CallAsk("b", "work", encode_json({})))
    host.deliver(CoordinatorEnvelope("run-1", host.now_ms, call), envelope.reply_key)
    host.pump()
    assert version(change(host, adding("y"), task_id=host.sent[-1][1].task_id)) == 3


def test_what_was_added_word_for_word_is_no_mistake() -> None:
    host = begun()
    assert version(change(host, adding("x"))) == 2
    assert version(change(host, adding("x"), key="again")) == 2
    assert version(change(host, adding("x", "y"), key="more")) == 3
    assert len(revisions(host)) == 2
    assert list(ResolvedChange.from_json(revisions(host)[1].revision.change).change.add) == ["y"]  # type: ignore[union-attr]


def over(task_id: str) -> PlanChange:
    made = PlanChange()
    made.map("over", "a.work", over=Expression(f"emitted.{task_id}"))
    return made


def test_a_map_over_items_is_added_before_the_first_of_them() -> None:
    host = begun()
    assert version(change(host, over("planner"))) == 2
    emission = Ask("planner", 1, "~emit", "0", EmitAsk(0, 1, encode_json([{}])))
    host.deliver(CoordinatorEnvelope("run-1", host.now_ms, emission), "run-1")
    host.pump()
    assert host.sent[-1][1].task_id == "over.0"
    other = PlanChange()
    other.map("late", "a.work", over=Expression("emitted.planner"))
    assert "has handed out items already" in refusal(change(host, other, key="late"))
    assert version(change(host, over("planner"), key="again")) == 2


def test_a_map_over_items_of_what_has_none() -> None:
    host = begun()
    made = PlanChange()
    made.map("each", "a.work", over=[{"word": "x"}])
    made.map("over", "a.work", over=Expression("emitted.each"))
    assert "only a task that is worked once" in refusal(change(host, made))


@pytest.mark.parametrize(
    ("settings", "own"), [({"order_key": "k"}, None), ({}, "${input.word}"), ({}, None)]
)
def test_items_that_would_stand_behind_who_hands_them_out(
    settings: dict[str, Any], own: str | None
) -> None:
    """By the key of the plan, or by their own ones; the agent is one."""
    plan = Plan("growing", **settings)
    plan.task("planner", "a.work", input={"word": "x"}, order_key=own)
    host = begun(plan)
    made = PlanChange()
    made.map("over", "a.work", over=Expression("emitted.planner"), order_key=own)
    found = change(host, made)
    if settings or own:
        assert "its items would wait for 'planner'" in refusal(found)
    else:
        assert version(found) == 2


def test_nothing_is_changed_by_an_empty_change() -> None:
    host = begun()
    assert version(change(host, PlanChange())) == 1
    assert revisions(host) == []


# --- replacing and skipping --------------------------------------------------------------------


def test_a_task_that_was_not_started_is_replaced() -> None:
    host = begun()
    what = PlanChange()
    extra = what.task("extra", "b.work")
    what.replace.task("middle", "c.work", {"word": "new"}, after=[extra])
    assert version(change(host, what)) == 2
    assert [e.task_id for _, e in host.sent] == ["planner", "extra"]
    seen: dict[str, Any] = {}
    host.work(lambda e: seen.setdefault(e.task_id, given(e)))
    assert seen["middle"] == {"word": "new"}
    assert {e.task.agent for e in host.events if e.task and e.task.task_id == "middle"} == {"c"}
    assert host.last_run().type is EventType.RUN_SUCCEEDED


def test_a_skipped_task_waits_for_nothing_and_its_dependants_are_skipped_too() -> None:
    host = begun()
    what = PlanChange()
    what.skip("middle")
    assert version(change(host, what)) == 2
    assert state_of(host, "middle") is TaskState.SKIPPED
    assert state_of(host, "report") is TaskState.SKIPPED
    host.work(echo)
    assert host.last_run().type is EventType.RUN_SUCCEEDED
    # Of what is left of the plan nobody waits for these two; one of them was skipped.
    assert host.output() == {"planner": {"made_by": "planner"}, "report": None}


def test_what_was_taken_out_is_no_end_of_the_plan() -> None:
    host = begun()
    what = PlanChange()
    what.skip("report")
    change(host, what)
    host.work(echo)
    assert host.output() == {"made_by": "middle"}


def test_to_skip_twice_is_no_mistake() -> None:
    host = begun()
    what = PlanChange()
    what.skip("middle")
    assert version(change(host, what)) == 2
    assert version(change(host, what, key="again")) == 2


def test_a_run_that_is_paused_takes_changes_and_does_them_when_it_goes_on() -> None:
    host = begun()
    host.command(CommandAction.PAUSE)
    what = adding("x")
    what.skip("middle")
    assert version(change(host, what)) == 2
    assert [e.task_id for _, e in host.sent] == ["planner"]
    late = PlanChange()
    late.replace.task("middle", "a.work")
    assert "only a task that has not been started" in refusal(change(host, late, key="late"))
    host.command(CommandAction.RESUME)
    assert [e.task_id for _, e in host.sent] == ["planner", "x"]
    assert state_of(host, "middle") is TaskState.SKIPPED


# --- refusals ----------------------------------------------------------------------------------


def replacing(name: str, **settings: Any) -> PlanChange:
    what = PlanChange()
    what.replace.task(name, "a.work", **settings)
    return what


def skipping(name: str) -> PlanChange:
    what = PlanChange()
    what.skip(name)
    return what


@pytest.mark.parametrize(
    ("what", "told"),
    [
        (adding("middle"), "has a task 'middle' already"),
        (adding("x", after=["midle"]), "did you mean 'middle'"),
        (adding("x", after=["x"]), "it waits for itself"),
        (replacing("middle", after=["report"]), "wait for each other: "),
        (
            replacing("planner", order="loose"),
            "task 'planner' is dispatched: only a task that has not been",
        ),
        (skipping("planner"), "task 'planner' is dispatched"),
        (skipping("nobody"), "has no task 'nobody'"),
        (replacing("nobody"), "has no task 'nobody'"),
        (cancelling("nobody"), "has no task 'nobody'"),
        (cancelling("planner"), "cannot cancel itself"),
    ],
)
def test_a_change_that_cannot_be_is_refused_and_changes_nothing(
    what: PlanChange, told: str
) -> None:
    host = begun()
    before = host.machine.state.digest()
    assert told in refusal(change(host, what))
    assert host.machine.state.digest() == before
    assert revisions(host) == []
    assert version(change(host, adding("good"), key="good")) == 2
    host.work(echo)
    assert host.last_run().type is EventType.RUN_SUCCEEDED


def test_a_plan_does_not_grow_above_its_bounds() -> None:
    plan = Plan("growing")
    plan.task("planner", "a.work")
    for number in range(NODES_MAX - 1):
        plan.task(f"t{number}", "a.work", after=["planner"])
    host = begun()
    host.work(echo)
    host.control.limit = 10_000_000
    host.submit(resolved(plan), run_id="wide")
    assert f"more than {NODES_MAX}" in refusal(change(host, adding("x")))


def test_a_chain_does_not_grow_above_its_bound() -> None:
    plan = Plan("growing")
    plan.task("planner", "a.work")
    plan.task("t0", "a.work", after=["planner"])
    for number in range(1, 998):
        plan.task(f"t{number}", "a.work", after=[f"t{number - 1}"])
    host = begun(plan)
    assert version(change(host, adding("last", after=["t997"]))) == 2
    longer = replacing("t0", after=["planner", "x"])
    longer.task("x", "a.work", after=["planner"])
    assert "a chain of 1001 tasks" in refusal(change(host, longer, key="2"))


def test_an_agent_that_nobody_knows_is_named() -> None:
    host = begun()
    host.agents.manifests = lambda names: {}  # type: ignore[method-assign]

    async def ask() -> None:
        envelope = host.sent[-1][1]
        body = Ask("planner", 1, "plan", "", PlanAsk(adding("x").to_json()))
        host.deliver(CoordinatorEnvelope("run-1", host.now_ms, body), envelope.reply_key)
        await host.settle()

    asyncio.run(ask())
    reply = host.controlled[-1][1].reply
    assert reply is not None
    assert "no agent 'a' has ever published itself" in refusal(reply)


def test_a_run_that_ends_and_a_task_that_is_cancelled_change_nothing_any_more() -> None:
    host = begun()
    change(host, adding("other"))
    change(host, cancelling("planner"), task_id="other")
    assert "is being cancelled" in refusal(change(host, adding("x"), key="late"))
    host.command(CommandAction.CANCEL)
    assert "the run ends" in refusal(change(host, adding("y"), task_id="other"))


def test_an_older_attempt_changes_nothing() -> None:
    host = begun()
    host.work_one(lambda _: (_ for _ in ()).throw(Raised()))
    host.pump()
    host.pass_time(10_000)
    body = Ask("planner", 1, "plan", "", PlanAsk(adding("x").to_json()))
    host.deliver(CoordinatorEnvelope("run-1", host.now_ms, body))
    host.pump()
    assert host.events[-1].type is EventType.RESULT_IGNORED
    assert revisions(host) == []


# --- reuse, restore ----------------------------------------------------------------------------


def test_a_replaced_task_of_a_fork_is_worked_and_others_are_reused() -> None:
    host = begun(Plan.of_task("a.work"))
    reused = {"middle": encode_json({"old": 1}), "report": encode_json({"old": 2})}
    host.work(echo)
    host.sent.clear()
    host.submit(resolved(planner_first()), run_id="fork", reused=reused)
    change(host, replacing("report", after=["middle"], order="loose"))
    host.work(echo)
    assert [e.task_id for _, e in host.sent] == ["planner", "report"]
    assert host.output("fork") == {"made_by": "report"}


def test_a_restored_coordinator_has_the_same_plan() -> None:
    host = begun()
    for number in range(30):
        version(change(host, adding(f"x{number}", after=["planner"]), key=str(number)))
    before = graph_of(host)
    host.restart()
    host.pump()
    assert graph_of(host) == before
    host.work(echo)
    assert host.last_run().type is EventType.RUN_SUCCEEDED
    assert sum(e.type == "task.succeeded" for e in host.events) == 33


def graph_of(host: Host) -> dict[str, tuple[Any, ...]]:
    """Return what the machine's graph says of each task, without what cannot be compared."""
    entity = host.machine.state.entity("run/run-1")
    run: Any = entity.get("")
    found = [v for _, v in sorted(entity.records.items()) if isinstance(v, PlanRevision)]
    found.sort(key=lambda revision: revision.version)
    source = run.plan or found.pop(0).change
    graphs: Graphs = host.machine._context.graphs
    graph = graphs.get(source)
    if run.plan_key:
        graph = graphs.version(source, run.plan_key, lambda: found)
        assert graph.key == run.plan_key
    return {
        node.id: (node.agent, set(node.dependencies), set(node.dependants), node.dropped, node.grew)
        for node in graph.nodes.values()
    }


def test_a_grown_graph_is_that_of_the_plan_with_its_changes() -> None:
    host = begun()
    what = PlanChange()
    extra = what.task("extra", "b.work")
    what.replace.task("middle", "c.work", after=[extra])
    change(host, what)
    last = PlanChange()
    last.task("again", "b.work", after=["middle"])
    last.skip("report")
    change(host, last, key="2")
    changes = [e.revision for e in revisions(host) if e.revision]
    plan = changed_plan(ResolvedPlan.from_json(host.events[0].plan or ""), changes)
    whole = compile_graph(plan.to_json())
    grown = graph_of(host)
    assert {name: (*values[:3], values[4]) for name, values in grown.items()} == {
        n.id: (n.agent, set(n.dependencies), set(n.dependants), n.grew)
        for n in whole.nodes.values()
    }
    assert plan.plan.tasks["report"].dropped == "skip"


def test_a_change_of_the_plan_of_a_run_with_a_large_input_leaves_that_out_of_its_event() -> None:
    host = begun()
    entry = host.machine.state.entity("run/run-1").get("")
    assert isinstance(entry, RunEntry)
    entry.row.input = b"x" * 524_000
    assert version(change(host, adding("new", word="w" * 1_000))) == 2
    row = revisions(host)[-1].run
    assert row is not None
    assert (row.input, row.plan_version) == (None, 2)
    kept = host.machine.state.entity("run/run-1").get("")
    assert isinstance(kept, RunEntry)
    assert (kept.row.input, kept.row.version) == (b"x" * 524_000, row.version)


def test_a_change_beside_a_small_input_carries_it() -> None:
    host = begun()
    assert version(change(host, adding("new"))) == 2
    row = revisions(host)[-1].run
    assert row is not None
    assert row.input is not None
