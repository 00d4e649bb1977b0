"""Any commands at any moment: nothing hangs, rulings hold, a restored machine does the same."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from holdfast.bus.port import Received
from holdfast.schemas.codec import encode_json
from holdfast.schemas.plan import Plan
from holdfast.schemas.records import (
    Command,
    CommandAction,
    CoordinatorEnvelope,
    EventType,
    TaskEntry,
    TaskState,
)
from holdfast.testing.history import Decoded
from holdfast.testing.invariants.rulings import rulings_hold
from tests.unit.coordinator.host import Host
from tests.unit.coordinator.test_properties import LIMITS, TASK_ENDS, Pair, check_story, make_plan

ACTIONS = (
    CommandAction.SKIP,
    CommandAction.SKIP,
    CommandAction.OVERRIDE,
    CommandAction.OVERRIDE,
    CommandAction.RETRY,
    CommandAction.REPLAY,
    CommandAction.DISCARD,
)


def make_living_plan(rng: random.Random) -> Plan:
    """As `make_plan`, with a loop and what waits for it."""
    plan = make_plan(rng)
    plan.task("loop", "a.t", repeat={"until": "`false`", "at_most": rng.randint(1, 4)})
    plan.task("one", "a.t", x=1)
    plan.task("both", "a.t", after=["one", "loop"])
    return plan


class Operated(Pair):
    """A story in which somebody steps in."""

    def __init__(self, seed: int, make: Any = make_living_plan) -> None:
        super().__init__(seed, make)
        self.count = 0

    def step_in(self) -> None:
        """Say something about some task; it may be wrong."""
        rng = self.rng
        entity = self.steady.machine.state.entity("run/run-1")
        begun = sorted(n for n, v in entity.records.items() if isinstance(v, TaskEntry))
        task_id = rng.choice([*begun, *begun, *(f"t{n}" for n in range(7)), "both", "t1.2", "no"])
        command = Command("", rng.choice(ACTIONS), task_id, "{}", "ann", "because")
        if command.action is CommandAction.OVERRIDE:
            command.output = encode_json(rng.choice([{"by": "ann"}, [1, 2, 3], [], None]))
        self.count += 1
        command.command_id = f"c{self.count}"
        self.both(lambda h: h.deliver(CoordinatorEnvelope("run-1", h.now_ms, command)))


def check_rulings(host: Host) -> None:
    """Look at the events as the simulation's invariant does."""
    problems: list[str] = []
    findings = SimpleNamespace(
        looked=lambda *_: None, violated=lambda what, where: problems.append(what)
    )
    received = Received("events", 0, 0, None, None, (), 0)
    events = [Decoded(received, event) for event in host.events if event.run_id == "run-1"]
    rulings_hold("run-1", events, findings)  # type: ignore[arg-type]
    assert problems == []


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
@given(st.integers(min_value=0, max_value=2**32))
def test_any_commands_at_any_moment(seed: int) -> None:
    note(f"seed {seed}")
    pair = Operated(seed)
    pair.both(lambda h: h.submit(pair.plan, pump=False))
    for _ in range(pair.rng.randint(5, 40)):
        pair.step_in() if pair.rng.random() < 0.35 else pair.act()
        assert pair.steady.machine.state.digest() == pair.mortal.machine.state.digest()
    pair.finish()
    for host in pair.hosts:
        check_story(host)
        check_rulings(host)
        assert max(map(len, host.commits)) <= 4 * LIMITS.records_per_event
        assert [key.partition("/")[0] for key in host.journal] == ["closed"]
    assert pair.steady.told() == pair.mortal.told()


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
@given(st.integers(min_value=0, max_value=2**32))
def test_a_refused_command_changes_nothing_and_an_accepted_one_is_told(seed: int) -> None:
    note(f"seed {seed}")
    pair = Operated(seed)
    pair.both(lambda h: h.submit(pair.plan, pump=False))
    host = pair.steady
    for _ in range(30):
        pair.act()
        before, seen = host.machine.state.digest(), len(host.events)
        pair.step_in()
        answers = [e for e in host.events[seen:] if e.command is not None]
        assert len(answers) == 1
        if answers[0].type is EventType.COMMAND_REFUSED:
            assert host.machine.state.digest() == before
            assert len(host.events) == seen + 1
        else:
            assert answers[0].type is EventType.COMMAND_ACCEPTED


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
@given(st.integers(min_value=0, max_value=2**32))
def test_a_run_of_which_all_is_skipped_succeeds(seed: int) -> None:
    note(f"seed {seed}")
    pair = Operated(seed, make_plan)
    host = pair.steady
    host.submit(pair.plan)
    nodes = sorted(host.machine._context.graphs.get(host.events[0].plan or "").nodes)
    for name in pair.rng.sample(nodes, len(nodes)):
        command = Command("c", CommandAction.SKIP, name, "{}", "ann", "")
        host.deliver(CoordinatorEnvelope("run-1", host.now_ms, command))
        host.pump()
    host.answer_cancels()
    host.pump()
    host.answer_cancels()
    host.pump()
    rows = {e.task.task_id: e.task for e in host.events if e.task is not None}
    assert all(rows[name].state in TASK_ENDS for name in nodes)
    assert all(rows[name].state is not TaskState.CANCELLING for name in rows)
    assert host.last_run().type == "run.succeeded"
