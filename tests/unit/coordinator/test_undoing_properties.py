"""Generated plans that can be undone, under generated fates: compensation by what the events tell.

What must hold: each success that can be undone is undone once, and the last one first; what is
stuck stays until somebody deals with it; every run ends; a machine that dies after every commit
does the same.
"""

from __future__ import annotations

import random
from typing import Any

from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from holdfast.coordinator.engine import RUN_ENDS, Graphs, call_id
from holdfast.schemas.codec import decode, encode_json
from holdfast.schemas.plan import Expression, Plan, Retry
from holdfast.schemas.records import (
    Ask,
    CoordinatorEnvelope,
    RunState,
    TaskState,
    UndoAsk,
)
from tests.unit.coordinator.host import Host, Raised
from tests.unit.coordinator.test_properties import TASK_ENDS, Pair, digest


def make_saga(rng: random.Random) -> Plan:
    """Return a plan most of whose tasks can be undone."""
    plan = Plan(
        "saga",
        on_dead_letter=rng.choice(["fail", "fail", "wait"]),
        compensate_on=rng.choice(["both", "both", "both", "failure", "cancel", "never"]),
    )
    if rng.random() < 0.2:
        plan.deadline_s = rng.choice([5, 50])
    ids: list[str] = []
    for number in range(rng.randint(1, 6)):
        before = rng.sample(ids, k=min(len(ids), rng.randint(0, 2)))
        common: dict[str, Any] = {
            "retry": Retry(attempts=rng.randint(1, 2)),
            "compensate": _undoing(rng),
            **{f"from_{b}": Expression(f"tasks.{b}") for b in before},
        }
        kind = rng.choice(["task", "task", "map", "loop"])
        if kind == "map":
            plan.map(
                f"t{number}",
                "a.t",
                over=list(range(rng.choice([0, 1, 4, 8]))),
                max_parallel=rng.randint(1, 4),
                on_failure=rng.choice(["fail", "collect"]),
                item=Plan.item,
                **common,
            )
        elif kind == "loop":
            repeat = {"until": "round == `2`", "at_most": rng.randint(1, 3)}
            plan.task(f"t{number}", "a.t", repeat=repeat, **common)
        else:
            plan.task(f"t{number}", "a.t", **common)
        ids.append(f"t{number}")
    plan.task("end", "a.doomed", after=ids)
    return plan


def _undoing(rng: random.Random) -> Any:
    kind = rng.random()
    if kind < 0.15:
        return None
    if kind < 0.25:
        return {"task": "a.undo", "input": Expression("abs(output.made_by)")}  # cannot be made
    if kind < 0.5:
        return {"task": "a.undo", "input": {"g": Plan.given, "by": Plan.result["made_by"]}}
    return "a.undo"


class Saga(Pair):
    """A pair whose runs mostly end badly."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed, make_saga)
        inner, doomed = self.handler, self.rng.random() < 0.8

        def handler(envelope: Any) -> Any:
            if envelope.task == "doomed" and doomed:
                raise Raised(retryable=False)
            return inner(envelope)

        self.handler = handler
        salt = self.rng.random()
        for host in self.hosts:
            host.work_one = tell_steps(host, host.work_one, salt)  # type: ignore[method-assign]


def tell_steps(host: Host, work_one: Any, salt: float) -> Any:
    """Let some attempts tell of steps before they end."""

    def work(handler: Any, index: int = 0) -> None:
        envelope = host.tasks[index][1]
        fate = random.Random(f"{salt}/{envelope.task_id}/{envelope.attempt}")
        known = host.machine.state.entity("run/run-1").records.get(envelope.task_id)
        # Where a ghost has answered: no agent tells of steps after that.
        open_ = known is not None and known.row.state not in TASK_ENDS
        for number in range(fate.choice([0, 0, 1, 2]) if open_ else 0):
            if envelope.task_id.startswith("!"):
                break
            what = UndoAsk("a", "undo", encode_json(number))
            # The same step in a second attempt was journaled by the first: it is told of once.
            ask = Ask(envelope.task_id, envelope.attempt, f"s{envelope.attempt}-{number}", "", what)
            body = CoordinatorEnvelope(envelope.run_id, host.now_ms, ask)
            host.deliver(body, envelope.reply_key)
        work_one(handler, index)

    return work


def check_steps(host: Host) -> None:
    """Each step of a task that has not succeeded is undone once, if the run goes on without it, or
    undoes all; none of a task that has succeeded in a run that did."""
    told = {
        call_id(given.body): given.body.task_id
        for given in (decode(CoordinatorEnvelope, r.value or b"") for r in host.log)
        if isinstance(given.body, Ask)
    }
    states = {e.task.task_id: e.task.state for e in host.events if e.task is not None}
    begun = [e.task_id[1:] for _, e in host.sent if e.task_id.startswith("!~") and e.attempt == 1]
    assert len(begun) == len(set(begun))
    assert set(begun) <= set(told)
    (end,) = {e.run.state for e in host.events if e.run is not None and e.run.state in RUN_ENDS}
    graph = Graphs().get(host.events[0].plan)
    bad = "cancel" if end is RunState.CANCELLED else "failure"
    for name, owner in told.items():
        node = graph.nodes[owner.partition(".")[0]]
        succeeded = states[owner] is TaskState.SUCCEEDED
        if succeeded and (end is RunState.SUCCEEDED or node.undo is not None):
            assert name not in begun
        elif end is RunState.SUCCEEDED or graph.compensate_on in ("both", bad):
            assert name in begun


def check_undone(host: Host) -> None:
    """Read the stack of successes from the events again, and hold what was undone against it."""
    graph = Graphs().get(host.events[0].plan)
    done: list[str] = []
    begun: list[str] = []
    ended: set[str] = set()
    state = RunState.RUNNING
    for event in host.events:
        if event.run is not None:
            state = event.run.state
            if state in RUN_ENDS and state is not RunState.SUCCEEDED:
                check_end(graph.compensate_on, state, done, begun, ended)
        row = event.task
        if row is None:
            continue
        if row.task_id.startswith("!~"):
            continue  # see `check_steps`
        if not row.task_id.startswith("!"):
            node = graph.nodes[row.task_id.partition(".")[0]]
            part = not (node.has_parts and row.task_id == node.id)
            if event.type == "task.succeeded" and node.undo is not None and part:
                done.append(row.task_id)
            continue
        name = row.task_id[1:]
        assert state is RunState.COMPENSATING
        if name not in begun:
            assert name == done[-1 - len(begun)], "the last success that is left comes next"
            begun.append(name)
            at_work = [other for other in begun[:-1] if other not in ended]
            assert all(o.partition(".")[0] == name.partition(".")[0] for o in at_work)
        if row.state in TASK_ENDS:
            assert name not in ended
            ended.add(name)


def check_end(on: str, state: RunState, done: list[str], begun: list[str], ended: set[str]) -> None:
    wanted = on == "both" or on == ("cancel" if state is RunState.CANCELLED else "failure")
    assert begun == (list(reversed(done)) if wanted else [])
    assert ended == set(begun)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
@given(st.integers(min_value=0, max_value=2**32))
def test_each_success_is_undone_once_and_the_last_one_first(seed):
    note(f"seed {seed}")
    pair = Saga(seed)
    pair.both(lambda h: h.submit(pair.plan, pump=False))
    for _ in range(pair.rng.randint(5, 40)):
        pair.act()
        assert digest(pair.steady.machine.state) == digest(pair.mortal.machine.state)
        assert pair.steady.machine.state.stuck == count_stuck(pair.steady)
    pair.finish()
    for host in pair.hosts:
        check_undone(host)
        check_steps(host)
        assert host.machine.state.stuck == 0
        assert [key.partition("/")[0] for key in host.journal] == ["closed"]
    assert pair.steady.told() == pair.mortal.told()


def count_stuck(host: Host) -> int:
    entity = host.machine.state.entity("run/run-1")
    return sum(
        name.startswith("!") and value.row.state is TaskState.DEAD
        for name, value in entity.records.items()
    )
