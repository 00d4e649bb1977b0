"""Generated handlers that hand out items, and maps over them, under generated fates.

At every point: nothing is lost, nothing is worked twice or under another index, no list runs far
ahead of its map, a machine that dies after every commit decides the same, and every run ends.
"""

from __future__ import annotations

import json
import random
from typing import Any

from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from holdfast.coordinator.engine import EngineLimits
from holdfast.schemas.codec import encode_json
from holdfast.schemas.plan import Expression, Plan, Retry
from holdfast.schemas.records import (
    EMIT_NAME,
    Ask,
    Command,
    CommandAction,
    ControlAction,
    CoordinatorEnvelope,
    EmitAsk,
    EventType,
    RunState,
    TaskEnvelope,
)
from tests.unit.coordinator.host import Host
from tests.unit.coordinator.host import given as given_input
from tests.unit.coordinator.test_join_properties import check_lives
from tests.unit.coordinator.test_properties import Pair, digest

LIMITS = EngineLimits(records_per_event=40, chunk_items=3, grace_ms=30_000, ahead_items=4)
BATCH_MAX = 5
TAKEN = ("", "e0", "e1", "m0", "m1", "m2", "tail", "m0.1", "m1.0", "aside")


def make_arriving_plan(rng: random.Random) -> Plan:
    """Return one or two tasks that hand out items, up to three maps over them, and some around."""
    plan = Plan("arriving", on_dead_letter=rng.choice(["fail", "fail", "wait"]))
    emitters = [
        plan.task(f"e{n}", "a.emit", retry=Retry(attempts=rng.randint(1, 3)))
        for n in range(rng.randint(1, 2))
    ]
    aside = plan.task("aside", "a.t")
    maps = []
    for number in range(rng.randint(1, 3)):
        extra: dict[str, Any] = {}
        if rng.random() < 0.3:
            extra["aside"] = aside
        if rng.random() < 0.15:
            extra["when"] = rng.choice(["`true`", "`false`"])
        if rng.random() < 0.3:
            extra["order_key"] = Expression("item.key")
        over = rng.choice(emitters).emitted
        maps.append(
            plan.map(
                f"m{number}",
                "b.t",
                over=over,
                max_parallel=rng.randint(1, 6),
                on_failure=rng.choice(["fail", "collect", {"at_most": 1}, {"at_most": 0.4}]),
                reduce="a.fold" if rng.random() < 0.3 else None,
                retry=Retry(attempts=rng.randint(1, 2)),
                item=Plan.item,
                **extra,
            )
        )
    race = rng.random() < 0.4
    join: Any = rng.choice(["any", "first-success"]) if race else "all"
    plan.task("tail", "a.t", all=maps if not race else [*maps, aside], join=join)
    return plan


class Handing(Pair):
    """A story in which handlers hand out items."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed, make_arriving_plan)
        self.hosts = (Host(LIMITS), Host(LIMITS))
        self.steady, self.mortal = self.hosts
        self.mortal.after_commit = self.mortal.restart
        self.steady.after_commit = self._check_journal
        self.items: dict[str, list[Any]] = {"e0": [], "e1": []}
        self.left = {name: self.rng.choice([0, 1, 7, 20]) for name in self.items}
        self.batches: list[tuple[str, int, int]] = []
        self.past: dict[str, int] = {}
        self.anew: set[tuple[str, int]] = set()

    def act(self) -> None:
        """Do one thing that may happen."""
        host, rng = self.steady, self.rng
        choice = rng.random()
        if choice < 0.65 and host.tasks:
            self.work(rng.randrange(len(host.tasks)))
        elif choice < 0.72:
            self.both(lambda h: h.answer_cancels())
        elif choice < 0.8:
            ms = rng.choice([100, 5_000, 40_000])
            self.both(lambda h: h.pass_time(ms))
        elif choice < 0.86:
            action = rng.choice([CommandAction.PAUSE, CommandAction.RESUME, CommandAction.RESUME])
            self.both(lambda h: h.command(action))
        elif choice < 0.87:
            self.both(lambda h: h.command(CommandAction.CANCEL))
        elif choice < 0.91:
            self.step_in()
        else:
            self.settle_dead()

    def work(self, index: int) -> None:
        """Let an agent do something: one that hands out items does so, or ends."""
        envelope = self.steady.tasks[index][1]
        if envelope.task != "emit":
            self.both(lambda h: h.work_one(self.handler, index))
            return
        if (
            envelope.journal_from == envelope.attempt
            and (envelope.task_id, envelope.attempt) not in self.anew
        ):
            self.begin_anew(envelope)
        if self.answered(envelope) < len(self.items[envelope.task_id]):
            self.work_other(index)
        elif self.left[envelope.task_id] and self.rng.random() < 0.9:
            self.emit(envelope)
        else:
            self.both(lambda h: h.work_one(self.handler, index))

    def begin_anew(self, envelope: TaskEnvelope) -> None:
        """It was restarted: what it had sent and nobody had taken is forgotten."""
        name = envelope.task_id
        self.anew.add((name, envelope.attempt))
        over = f"${{emitted.{name}}}"
        assert self.answered(envelope) == 0 or over not in self.plan, "its items are being worked"
        self.past[name] = len(self.replies(name))
        self.left[name] += len(self.items[name])
        self.items[name] = []
        self.batches = [each for each in self.batches if each[0] != name]

    def replies(self, task_id: str) -> list[Any]:
        return [
            c.reply
            for _, c in self.steady.controlled
            if c.action is ControlAction.REPLY and c.task_id == task_id
        ]

    def work_other(self, index: int) -> None:
        """It waits for room: somebody else works, or it fails meanwhile."""
        ready = [i for i, (_, e) in enumerate(self.steady.tasks) if e.task != "emit"]
        if ready:
            other = self.rng.choice(ready)
            self.both(lambda h: h.work_one(self.handler, other))
        elif self.rng.random() < 0.2:
            self.both(lambda h: h.command(CommandAction.RESUME))

    def answered(self, envelope: TaskEnvelope) -> int:
        """How many items of a task were answered for, since it was begun anew."""
        replies = self.replies(envelope.task_id)[self.past.get(envelope.task_id, 0) :]
        assert not [r for r in replies if r.failure and r.failure.kind != "cancelled"]
        sizes = {s: n for t, s, n in self.batches if t == envelope.task_id}
        return sum(sizes[int(r.key)] for r in replies)

    def emit(self, envelope: TaskEnvelope) -> None:
        name = envelope.task_id
        first = len(self.items[name])
        count = min(self.left[name], self.rng.randint(1, BATCH_MAX))
        new = [{"n": first + n, "key": f"k{(first + n) % 2}"} for n in range(count)]
        self.items[name] += new
        self.left[name] -= count
        self.batches.append((name, first, count))
        what = EmitAsk(first, count, encode_json(new))
        ask = Ask(name, envelope.attempt, EMIT_NAME, str(first), what)
        told = CoordinatorEnvelope(envelope.run_id, self.steady.now_ms, ask)
        self.both(lambda h: h.deliver(told, envelope.reply_key))

    def step_in(self) -> None:
        """Somebody skips a task, gives it an output, or wants it to begin anew."""
        actions = (CommandAction.SKIP, CommandAction.OVERRIDE, CommandAction.RESTART)
        action, name = self.rng.choice(actions), self.rng.choice(TAKEN)
        number, output = self.rng.random(), encode_json([])
        command = Command(f"c{number}", action, name or None, "{}", "ann", "why", output)
        told = CoordinatorEnvelope("run-1", self.steady.now_ms, command)
        self.both(lambda h: h.deliver(told, "run-1"))

    def finish(self) -> None:
        """Let all faults end, and everything be answered."""
        for _ in range(3_000):
            if not self.steady.machine.state.entities:
                return
            if self.steady.last_run().run.state is RunState.PAUSED:
                self.both(lambda h: h.command(CommandAction.RESUME))
            if self.steady.tasks:
                self.work(self.rng.randrange(len(self.steady.tasks)))
            self.both(lambda h: h.answer_cancels())
            self.settle_dead()
            self.both(lambda h: h.pass_time(2_000))
        raise AssertionError(f"the run never ends: {self.steady.told()[-10:]}")

    def check_now(self) -> None:
        assert digest(self.steady.machine.state) == digest(self.mortal.machine.state)
        for key in self.steady.machine.state.entities:
            for value in self.steady.machine.state.entity(key).records.values():
                ahead = getattr(value, "expanded", 0) - getattr(value, "next_index", 0)
                assert ahead <= LIMITS.ahead_items + BATCH_MAX

    def check_items(self, host: Host) -> None:
        """Each item is worked under its index, once for each attempt; all of them where a map has
        succeeded by itself."""
        emitter_of = {
            name: node["map"]["over"].removeprefix("${emitted.").removesuffix("}")
            for name, node in _tasks(self.plan).items()
            if "map" in node
        }
        seen: dict[str, set[int]] = {}
        for _, envelope in host.sent:
            name, _, index = envelope.task_id.partition(".")
            if name in emitter_of and index:
                assert given_input(envelope)["item"] == self.items[emitter_of[name]][int(index)]
                seen.setdefault(name, set()).add(int(index))
        overruled = {e.task.task_id for e in host.events if e.task and e.task.ruling}
        for event in host.events:
            row = event.task
            if row is None or event.type is not EventType.TASK_SUCCEEDED:
                continue
            if row.task_id in emitter_of and not overruled & {row.task_id, *emitter_of.values()}:
                assert seen.get(row.task_id, set()) == set(range(row.total))
                assert row.total == len(self.items[emitter_of[row.task_id]])
                assert row.done == row.total


def _tasks(plan: str) -> Any:
    return json.loads(plan)["plan"]["tasks"]


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
@given(st.integers(min_value=0, max_value=2**32))
def test_what_is_handed_out_is_worked_once_whatever_happens(seed: int) -> None:
    note(f"seed {seed}")
    pair = Handing(seed)
    pair.both(lambda h: h.submit(pair.plan, pump=False))
    for _ in range(pair.rng.randint(5, 60)):
        pair.act()
        pair.check_now()
    pair.finish()
    for host in pair.hosts:
        check_lives(host)
        pair.check_items(host)
        assert max(map(len, host.commits)) <= 4 * LIMITS.records_per_event
        assert {key.partition("/")[0] for key in host.journal} == {"closed"}
    assert pair.steady.told() == pair.mortal.told()
