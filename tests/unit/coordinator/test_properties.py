"""Generated plans under generated fates: what must hold of every run, at every point.

Each example is one seed (hypothesis prints and shrinks it); everything else is drawn from it.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from holdfast.coordinator.engine import EngineLimits, Graphs, State
from holdfast.coordinator.restoring import Restoring
from holdfast.schemas.plan import Expression, Plan, Retry
from holdfast.schemas.records import CommandAction, FailureKind, RunState, TaskState
from tests.unit.coordinator.host import Host, Raised, resolved
from tests.unit.coordinator.host import given as given_input

LIMITS = EngineLimits(records_per_event=34, chunk_items=3, grace_ms=30_000)
ENDS = {RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED}
TASK_ENDS = {TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED, TaskState.SKIPPED}


def make_plan(rng: random.Random) -> Plan:
    """Return a plan of up to seven tasks: chains, fans, maps, conditions, retries."""
    plan = Plan("generated", on_dead_letter=rng.choice(["fail", "fail", "wait"]))
    if rng.random() < 0.2:
        plan.deadline_s = rng.choice([5, 50])
    ids: list[str] = []
    for number in range(rng.randint(1, 7)):
        before = rng.sample(ids, k=min(len(ids), rng.randint(0, 2)))
        common: dict[str, Any] = {
            "after": [b for b in before if rng.random() < 0.3],
            "retry": Retry(attempts=rng.randint(1, 3)),
        }
        if rng.random() < 0.2:
            source = f"tasks.t{before[0][1:]}" if before else "input"
            common["when"] = f"{source} && `{rng.choice(['true', 'false'])}`"
        inputs = {f"from_{b}": Expression(f"tasks.{b}") for b in before}
        if rng.random() < 0.3:
            plan.map(
                f"t{number}",
                "a.t",
                over=list(range(rng.choice([0, 1, 4, 17]))),
                max_parallel=rng.randint(1, 20),
                on_failure=rng.choice(["fail", "collect"]),
                item=Plan.item,
                **inputs,
                **common,
            )
        else:
            plan.task(f"t{number}", "a.t", **inputs, **common)
        ids.append(f"t{number}")
    return plan


def handler_of(rng: random.Random):
    """Return a handler that decides by task and attempt, the same way each time."""
    salt = rng.random()
    share = rng.choice([0.0, 0.0, 0.1, 0.4])

    def handler(envelope):
        fate = random.Random(f"{salt}/{envelope.task_id}/{envelope.attempt}")
        if fate.random() < share:
            kind = fate.choice([FailureKind.ERROR, FailureKind.TIMEOUT, FailureKind.POISON])
            raise Raised(kind, retryable=kind is not FailureKind.POISON)
        given_input(envelope)
        return {"made_by": envelope.task_id}

    return handler


class Pair:
    """The same story told to a machine that lives on, and to one that dies after every commit."""

    def __init__(self, seed: int, make: Callable[[random.Random], Plan] = make_plan) -> None:
        self.rng = random.Random(seed)
        self.plan = resolved(make(self.rng))
        self.handler = handler_of(self.rng)
        self.hosts = (Host(LIMITS), Host(LIMITS))
        for host in self.hosts:
            host.machine._settings._settings = host.settings.model_copy(
                update={"batch_inputs": self.rng.choice([1, 1, 4])}
            )
        self.steady, self.mortal = self.hosts
        self.mortal.after_commit = self.mortal.restart
        self.steady.after_commit = self._check_journal

    def _check_journal(self) -> None:
        restoring = Restoring(Graphs())
        for key, value in self.steady.journal.items():
            restoring.take(key, value)
        assert digest(restoring.state) == digest(self.steady.machine.state)

    def both(self, act) -> None:
        for host in self.hosts:
            act(host)
            host.pump()
            host.relay()

    def act(self) -> None:
        """Do one thing that may happen."""
        host, rng = self.steady, self.rng
        choice = rng.random()
        if choice < 0.6 and host.tasks:
            index = rng.randrange(len(host.tasks))
            self.both(lambda h: h.work_one(self.handler, index))
        elif choice < 0.7 and host.controls:
            self.both(lambda h: h.answer_cancels())
        elif choice < 0.75 and host.sent:
            old = rng.randrange(len(host.sent))
            self.both(lambda h: h.answer(h.sent[old][1], {"made_by": "a ghost"}))
        elif choice < 0.8:
            self.both(lambda h: h.submit(self.plan, pump=False))
        elif choice < 0.9:
            ms = rng.choice([100, 5_000, 40_000])
            self.both(lambda h: h.pass_time(ms))
        elif choice < 0.93:
            action = rng.choice([CommandAction.PAUSE, CommandAction.RESUME])
            self.both(lambda h: h.command(action))
        elif choice < 0.94:
            self.both(lambda h: h.command(CommandAction.CANCEL))
        else:
            self.settle_dead()

    def settle_dead(self) -> None:
        dead = sorted(
            name
            for key in self.steady.machine.state.entities
            for name, value in self.steady.machine.state.entity(key).records.items()
            if getattr(getattr(value, "row", None), "state", None) is TaskState.DEAD
        )
        if dead:
            name = self.rng.choice(dead)
            action = self.rng.choice([CommandAction.REPLAY, CommandAction.DISCARD])
            self.both(lambda h: h.command(action, name))

    def finish(self) -> None:
        """Let all faults end, and everything be answered."""
        for _ in range(2_000):
            if not self.steady.machine.state.entities:
                return
            if any(e.type == "run.paused" for e in self.steady.events):
                self.both(lambda h: h.command(CommandAction.RESUME))
            if self.steady.tasks:
                self.both(lambda h: h.work_one(self.handler))
            self.both(lambda h: h.answer_cancels())
            self.settle_dead()
            self.both(lambda h: h.pass_time(2_000))
        raise AssertionError(f"the run never ends: {self.steady.told()[-10:]}")


def digest(state: State) -> str:
    return state.digest()


def check_story(host: Host) -> None:
    """Check the events as a foreign reader would."""
    assert not [e.message for e in host.events if "internal error" in e.message]
    runs = [e for e in host.events if e.run is not None]
    ends = [e for e in runs if e.type in ("run.succeeded", "run.failed", "run.cancelled")]
    assert len(ends) == 1
    assert ends[0].run.state in ENDS
    accepted = Counter(e.task.task_id for e in host.events if e.type == "task.succeeded")
    assert not accepted or max(accepted.values()) == 1
    ended: set[str] = set()
    versions: dict[str, int] = {}
    dependencies = Graphs().get(host.events[0].plan).nodes
    for event in host.events:
        if event.task is None:
            continue
        row = event.task
        if event.type == "task.dispatched":
            for name in dependencies[row.task_id.partition(".")[0]].dependencies:
                assert name in ended, f"{row.task_id} was started before {name} had ended"
        if event.type != "task.progressed":
            assert row.version > versions.get(row.task_id, 0)
            versions[row.task_id] = row.version
        if row.state in TASK_ENDS:
            ended.add(row.task_id)
    attempts = Counter((e.task_id, e.attempt) for _, e in host.sent)
    assert not attempts or max(attempts.values()) == 1


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
@given(st.integers(min_value=0, max_value=2**32))
def test_every_run_ends_once_and_a_machine_that_dies_all_the_time_does_the_same(seed):
    note(f"seed {seed}")
    pair = Pair(seed)
    pair.both(lambda h: h.submit(pair.plan, pump=False))
    for _ in range(pair.rng.randint(5, 40)):
        pair.act()
        assert digest(pair.steady.machine.state) == digest(pair.mortal.machine.state)
    pair.finish()
    for host in pair.hosts:
        check_story(host)
        assert max(map(len, host.commits)) <= 4 * LIMITS.records_per_event
        assert [key.partition("/")[0] for key in host.journal] == ["closed"]
    assert pair.steady.told() == pair.mortal.told()


@settings(max_examples=30, deadline=None, print_blob=True)
@given(st.integers(min_value=0, max_value=2**32))
def test_one_event_never_makes_more_records_than_allowed(seed):
    pair = Pair(seed)
    host = pair.steady
    host.machine._settings._settings = host.settings.model_copy(update={"batch_inputs": 1})
    host.submit(pair.plan)
    host.work(pair.handler)
    if host.machine.state.entities:
        host.command(CommandAction.CANCEL)
        host.work(pair.handler)
    assert max(map(len, host.commits)) <= LIMITS.records_per_event


@settings(max_examples=30, deadline=None, print_blob=True)
@given(st.integers(min_value=0, max_value=2**32))
def test_every_input_may_come_twice(seed):
    rng = random.Random(seed)
    plan, handler = resolved(make_plan(rng)), handler_of(rng)
    once, twice = Host(LIMITS), Host(LIMITS)
    for host in (once, twice):
        host.submit(plan)
    twice.submit(plan)
    for _ in range(400):
        if not once.tasks:
            break
        for host in (once, twice):
            host.work_one(handler)
        twice.log.append(twice.log[-1]._replace(offset=len(twice.log)))
        twice.machine.receive([twice.log[-1]])
        for host in (once, twice):
            host.pump()
            host.answer_cancels()
            host.pump()
    ignored = ("run.repeated", "result.ignored")
    assert [t for t in twice.told() if t not in ignored] == [
        t for t in once.told() if t not in ignored
    ]
