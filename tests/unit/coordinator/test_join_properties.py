"""Generated plans with joins, loops, plans within plans and shares, under generated fates.

What must hold at every point: nothing hangs, every run ends once, a machine that dies after every
commit decides the same, no loser is left open, and nobody starts before what it waits for allows.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from typing import Any

from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from holdfast.coordinator.engine import OPEN_TASK_STATES, Graphs
from holdfast.schemas.plan import Expression, Plan, Retry
from holdfast.schemas.records import CommandAction, TaskState
from tests.unit.coordinator.host import Host
from tests.unit.coordinator.test_properties import ENDS, LIMITS, TASK_ENDS, Pair, digest

BAD_ENDS = {TaskState.FAILED, TaskState.CANCELLED}


def make_inner(rng: random.Random, depth: int) -> Plan:
    """Return a small plan that stands in a task."""
    plan = Plan("inner")
    first = plan.task("x", "a.t", retry=Retry(attempts=rng.randint(1, 2)))
    if rng.random() < 0.5:
        plan.task("y", "a.t", x=first)
    if depth < 2 and rng.random() < 0.3:
        plan.task("z", make_inner(rng, depth + 1), x=first)
    if rng.random() < 0.3:
        plan.continue_as_new = {"when": "!(input.last)", "input": {"last": True}}
    return plan


def make_living_plan(rng: random.Random) -> Plan:
    """Return a plan of up to eight tasks that need more or less of what they wait for."""
    plan = Plan("living", on_dead_letter=rng.choice(["fail", "fail", "wait"]))
    if rng.random() < 0.15:
        plan.deadline_s = rng.choice([5, 50])
    ids: list[str] = []
    for number in range(rng.randint(2, 8)):
        before = rng.sample(ids, k=min(len(ids), rng.randint(0, 4)))
        inputs = {f"from_{b}": Expression(f"tasks.{b}") for b in before}
        common: dict[str, Any] = {"join": _join(rng, len(before))}
        if common["join"] != "all":
            common["losers"] = rng.choice(["cancel", "cancel", "leave"])
        if rng.random() < 0.1:
            common["when"] = rng.choice(["`true`", "`false`"])
        _add(plan, f"t{number}", rng, {**common, **inputs})
        ids.append(f"t{number}")
    return plan


def _join(rng: random.Random, dependencies: int) -> str | int:
    if not dependencies:
        return "all"
    return rng.choice(["all", "any", "first-success", rng.randint(1, dependencies)])


def _add(plan: Plan, node_id: str, rng: random.Random, settings: dict[str, Any]) -> None:
    kind = rng.choice(["task", "task", "map", "fold", "loop", "plan", "plans", "looped-plan"])
    work: Any = make_inner(rng, 0) if "plan" in kind else "a.t"
    if work == "a.t":
        settings["retry"] = Retry(attempts=rng.randint(1, 3))
    if "loop" in kind:
        until = rng.choice(["round == `2`", "`false`", "output.made_by == 'nobody'"])
        exhausted = rng.choice(["succeed", "fail"])
        repeat = {"until": until, "at_most": rng.randint(1, 4), "on_exhausted": exhausted}
        plan.task(node_id, work, repeat=repeat, before=Plan.previous, **settings)
    elif kind in ("task", "plan"):
        plan.task(node_id, work, **settings)
    else:
        plan.map(
            node_id,
            work,
            over=list(range(rng.choice([0, 1, 4, 11]))),
            max_parallel=rng.randint(1, 8),
            on_failure=rng.choice(["fail", "collect", {"at_most": 1}, {"at_most": 0.4}]),
            reduce="a.fold" if kind == "fold" else None,
            item=Plan.item,
            **settings,
        )


def check_lives(host: Host) -> None:
    """Check the events of all runs as a foreign reader would."""
    assert not [e.message for e in host.events if "internal error" in e.message]
    by_run = defaultdict(list)
    for event in host.events:
        by_run[event.run_id].append(event)
    for run_id, events in by_run.items():
        ends = [e for e in events if e.run is not None and e.run.state in ENDS]
        assert len({e.type for e in ends if e.type.startswith("run.")}) == 1, run_id
        check_tasks(events)
    attempts = Counter((e.run_id, e.task_id, e.attempt) for _, e in host.sent)
    assert not attempts or max(attempts.values()) == 1


def check_tasks(events: list[Any]) -> None:
    """Check the tasks of one run: their order, their ends, and what of them the run tolerated."""
    graph = Graphs().get(events[0].plan)
    states: dict[str, TaskState] = {}
    for event in events:
        row = event.task
        if row is None:
            continue
        assert states.get(row.task_id) not in TASK_ENDS, f"{row.task_id} after its end"
        if row.task_id in graph.nodes and row.task_id not in states and row.ruling is None:
            check_start(graph.nodes[row.task_id], row.state, states)
        states[row.task_id] = row.state
    if events[-1].run is not None and events[-1].type == "run.succeeded":
        left = {name: s for name, s in states.items() if s in OPEN_TASK_STATES}
        assert not left, "a run that has succeeded leaves nothing open"
        sinks = {states[name] for name in graph.sinks}
        assert not sinks & BAD_ENDS, "an end of the plan did not succeed"


def check_start(node: Any, state: TaskState, states: dict[str, TaskState]) -> None:
    # A map over items that arrive begins while the task that hands them out is at work.
    needed = [n for n in node.dependencies if n != node.arrives_from or n not in states]
    ended = [states[n] for n in needed if states.get(n) in TASK_ENDS]
    good = ended.count(TaskState.SUCCEEDED)
    if state in (TaskState.FAILED, TaskState.CANCELLED, TaskState.DEAD):
        return
    if node.join == "all" or state is TaskState.SKIPPED:
        assert node.join != "all" or len(ended) == len(needed)
    elif node.join == "any":
        assert ended
    else:
        assert good >= (node.join if isinstance(node.join, int) else 1)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
@given(st.integers(min_value=0, max_value=2**32))
def test_every_run_ends_and_a_machine_that_dies_all_the_time_does_the_same(seed):
    note(f"seed {seed}")
    pair = Pair(seed, make_living_plan)
    pair.both(lambda h: h.submit(pair.plan, pump=False))
    for _ in range(pair.rng.randint(5, 40)):
        pair.act()
        assert digest(pair.steady.machine.state) == digest(pair.mortal.machine.state)
    pair.finish()
    for host in pair.hosts:
        check_lives(host)
        assert max(map(len, host.commits)) <= 4 * LIMITS.records_per_event
        assert {key.partition("/")[0] for key in host.journal} == {"closed"}
    assert pair.steady.told() == pair.mortal.told()


@settings(max_examples=25, deadline=None, print_blob=True)
@given(st.integers(min_value=0, max_value=2**32))
def test_agents_that_answer_nothing_hold_up_nobody(seed):
    note(f"seed {seed}")
    pair = Pair(seed, make_living_plan)
    host = pair.steady
    host.submit(pair.plan)
    for _ in range(300):
        host.relay()
        if not host.machine.state.entities:
            break
        host.controls.clear()  # no cancel is ever answered
        if host.tasks:
            host.work_one(pair.handler, pair.rng.randrange(len(host.tasks)))
        host.pass_time(70_000)
        pair.settle_dead() if host.machine.state.entities else None
    else:
        host.command(CommandAction.CANCEL)
        for _ in range(10):
            host.relay()
            host.pass_time(70_000)
    assert not host.machine.state.entities, host.told()[-8:]
