"""Random changes at random moments, with a machine that dies after each commit beside one that
lives on: both have the same plan, and the run ends when all of its last plan has."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from holdfast.coordinator.engine import Graph, Graphs, compile_graph
from holdfast.schemas.ids import OwnSchema
from holdfast.schemas.plan import Expression, Plan
from holdfast.schemas.plan_change import PlanChange
from holdfast.schemas.plan_versions import changed_plan
from holdfast.schemas.records import (
    Ask,
    CommandAction,
    CoordinatorEnvelope,
    EventType,
    PlanAsk,
    PlanRevision,
    TaskState,
)
from holdfast.schemas.resolution import ResolvedPlan
from tests.unit.coordinator.growing import AnyAgents
from tests.unit.coordinator.host import Host, Raised, resolved
from tests.unit.coordinator.test_properties import LIMITS

PASSED = {TaskState.SUCCEEDED, TaskState.SKIPPED, TaskState.CANCELLED}
ENDED = PASSED | {TaskState.FAILED}
IDS_MAX = 40


def make_plan(rng: random.Random) -> Plan:
    plan = Plan("generated", on_dead_letter=rng.choice(["fail", "wait"]))
    ids: list[str] = []
    for number in range(rng.randint(1, 6)):
        before = rng.sample(ids, k=min(len(ids), rng.randint(0, 2)))
        if rng.random() < 0.3:
            plan.map(f"t{number}", "a.work", over=list(range(rng.choice([0, 1, 7]))), after=before)
        else:
            plan.task(f"t{number}", "a.work", after=before)
        ids.append(f"t{number}")
    return plan


def make_change(rng: random.Random, known: list[str]) -> PlanChange:
    """Return a change of one to four parts; some of what it says cannot be."""
    change, ids = PlanChange(), list(known)
    touched: set[str] = set()
    for _ in range(rng.randint(1, 4)):
        name = rng.choice(ids) if rng.random() < 0.7 else f"n{rng.randrange(IDS_MAX)}"
        if name in touched:
            continue
        touched.add(name)
        after = rng.sample(ids, k=min(len(ids), rng.randint(0, 2)))
        choice = rng.random()
        if choice < 0.5:
            fresh = f"n{rng.randrange(IDS_MAX)}"
            if fresh in touched:
                continue
            touched.add(fresh)
            build: Any = change
            if rng.random() < 0.3:
                build.map(fresh, "b.work", over=[{}] * rng.choice([0, 2, 7]), after=after)
            else:
                word = Expression(f"tasks.{after[0]}") if after and rng.random() < 0.5 else "w"
                build.task(fresh, "b.work", word=word, after=after)
            ids.append(fresh)
        elif choice < 0.7:
            change.replace.task(name, "c.work", after=[n for n in after if n != name])
        elif choice < 0.85:
            change.skip(name)
        else:
            change.cancel(name)
    return change


class Growing:
    """One story, told to two machines."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.plan = resolved(make_plan(self.rng))
        self.salt, self.share = self.rng.random(), self.rng.choice([0.0, 0.0, 0.1])
        self.hosts = (Host(LIMITS), Host(LIMITS))
        for host in self.hosts:
            host.agents = AnyAgents()
            word = {"name": "word", "type": ["null", "string"], "default": None}
            host.schemas.schemas[OwnSchema.Json] = {
                "type": "record",
                "name": "Given",
                "fields": [word],
            }
            host.restart()
        self.steady, self.mortal = self.hosts
        self.mortal.after_commit = self.mortal.restart
        self.asked = 0
        self.both(lambda h: h.submit(self.plan, pump=False))

    def both(self, act: Any) -> None:
        for host in self.hosts:
            act(host)
            host.pump()
        assert self.steady.machine.state.digest() == self.mortal.machine.state.digest()

    def handler(self, envelope: Any) -> Any:
        fate = random.Random(f"{self.salt}/{envelope.task_id}/{envelope.attempt}")
        if fate.random() < self.share:
            raise Raised(retryable=fate.random() < 0.5)
        return {"made_by": envelope.task_id}

    def change(self) -> None:
        """Let a task at work change the plan."""
        if not self.steady.tasks:
            return
        _, envelope = self.rng.choice(list(self.steady.tasks))
        what = make_change(self.rng, list(graph_of(self.steady).nodes))
        self.asked += 1
        body = Ask(
            envelope.task_id, envelope.attempt, "plan", str(self.asked), PlanAsk(what.to_json())
        )
        sent = CoordinatorEnvelope(envelope.run_id, self.steady.now_ms, body)
        self.both(lambda h: h.deliver(sent, envelope.reply_key))
        if self.steady.machine.state.entities:
            assert shape(graph_of(self.steady)) == shape(graph_of(self.mortal))

    def act(self) -> None:
        """Do one thing that may happen."""
        choice = self.rng.random()
        if choice < 0.35:
            self.change()
        elif choice < 0.75 and self.steady.tasks:
            index = self.rng.randrange(len(self.steady.tasks))
            self.both(lambda h: h.work_one(self.handler, index))
        elif choice < 0.85:
            self.both(lambda h: h.answer_cancels())
        elif choice < 0.9:
            action = self.rng.choice([CommandAction.PAUSE, CommandAction.RESUME])
            self.both(lambda h: h.command(action))
        else:
            self.both(lambda h: h.pass_time(5_000))

    def finish(self) -> None:
        """Let everything be answered."""
        for _ in range(2_000):
            if not self.steady.machine.state.entities:
                return
            if any(e.type == "run.paused" for e in self.steady.events):
                self.both(lambda h: h.command(CommandAction.RESUME))
            if self.steady.tasks:
                self.both(lambda h: h.work_one(self.handler))
            self.both(lambda h: h.answer_cancels())
            for name in dead_tasks(self.steady):
                self.both(lambda h, name=name: h.command(CommandAction.DISCARD, name))
            self.both(lambda h: h.pass_time(2_000))
        raise AssertionError(f"the run never ends: {self.steady.told()[-10:]}")


def dead_tasks(host: Host) -> list[str]:
    rows = {e.task.task_id: e.task for e in host.events if e.task is not None}
    dead = sorted(name for name, row in rows.items() if row.state is TaskState.DEAD)
    return dead[:1] if host.machine.state.entities else []


def graph_of(host: Host) -> Graph:
    """Return the machine's graph; before the run began, or once it has ended, its base."""
    entry: Any = host.machine.state.entity("run/run-1").get("")
    graphs: Graphs = host.machine._context.graphs
    if entry is None or not entry.plan_key:
        return graphs.get(host.events[0].plan or "")
    records = host.machine.state.entity("run/run-1").records.values()
    made = sorted((v for v in records if isinstance(v, PlanRevision)), key=lambda v: v.version)
    return graphs.version(made[0].change, entry.plan_key, lambda: made[1:])


def shape(graph: Graph) -> dict[str, Any]:
    """Return what can be compared of a graph."""
    nodes = {
        n.id: (n.agent, n.dependencies, n.dependants, n.dropped, n.grew, n.has_parts)
        for n in graph.nodes.values()
    }
    return {"key": graph.key, "maps": graph.maps, "depths": graph.depths, "nodes": nodes}


def check_story(host: Host) -> None:
    """Check the events as a foreign reader would, who knows changes only by them."""
    assert not [e.message for e in host.events if "internal error" in e.message]
    graphs, made = Graphs(), []
    graph = graphs.get(host.events[0].plan or "")
    states: dict[str, TaskState] = {}
    for event in host.events:
        if event.revision is not None:
            made.append(event.revision)
            graph = graphs.grown(graph, event.revision)
            assert event.run is not None
            assert event.run.plan_version == event.revision.version == 1 + len(made)
        if event.task is not None:
            row = event.task
            if event.type in ("task.dispatched", "task.expanded"):
                for name in graph.nodes[row.task_id.partition(".")[0]].dependencies:
                    assert states.get(name) in PASSED, f"{row.task_id} came before {name}"
            states[row.task_id] = row.state
    end = host.last_run()
    if end.type is EventType.RUN_SUCCEEDED:
        assert {name for name in graph.nodes if states.get(name) not in ENDED} == set()
    whole = compile_graph(changed_plan(ResolvedPlan.from_json(graph.source), made).to_json())
    assert {
        n.id: (n.agent, set(n.dependencies), set(n.dependants)) for n in graph.nodes.values()
    } == {n.id: (n.agent, set(n.dependencies), set(n.dependants)) for n in whole.nodes.values()}
    assert graph.depths == whole.depths
    attempts = Counter((e.task_id, e.attempt) for _, e in host.sent)
    assert max(attempts.values(), default=1) == 1


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
@given(st.integers(min_value=0, max_value=2**32))
def test_a_changed_run_ends_with_all_of_its_last_plan_whenever_its_machine_dies(seed: int) -> None:
    note(f"seed {seed}")
    story = Growing(seed)
    for _ in range(story.rng.randint(5, 40)):
        if story.steady.machine.state.entities:
            story.act()
    story.finish()
    for host in story.hosts:
        check_story(host)
        assert [key.partition("/")[0] for key in host.journal] == ["closed"]
    assert story.steady.told() == story.mortal.told()


@settings(max_examples=15, deadline=None, print_blob=True)
@given(st.integers(min_value=0, max_value=2**32))
def test_a_change_makes_no_more_records_than_an_event_may(seed: int) -> None:
    story = Growing(seed)
    for host in story.hosts:
        settings_of = host.settings.model_copy(update={"batch_inputs": 1})
        host.machine._settings._settings = settings_of  # type: ignore[attr-defined]
    for _ in range(20):
        if story.steady.machine.state.entities:
            story.act()
    assert max(map(len, story.steady.commits)) <= LIMITS.records_per_event
