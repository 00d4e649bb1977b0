"""Asks of tasks that have ended: none is left, none swallows a signal; and how asks are found."""

from __future__ import annotations

import random
import time
from typing import Any

from hypothesis import given as drawn
from hypothesis import strategies as st

from holdfast.coordinator.engine import Entity, Overlay, State
from holdfast.coordinator.engine.counting import (
    ASKS,
    EVERY,
    SIGNALS,
    WAITED,
)
from holdfast.schemas.codec import encode_json
from holdfast.schemas.plan import Plan
from holdfast.schemas.records import (
    Ask,
    AskBody,
    AskEntry,
    CallAsk,
    ControlAction,
    Outcome,
    RetryPolicy,
    Signal,
    SignalAsk,
    SignalEntry,
    SleepAsk,
)
from tests.unit.coordinator.host import Host, Raised, resolved
from tests.unit.coordinator.test_asks import ask, at_work, signal

PATIENT = RetryPolicy(attempts=5, initial_ms=60_000, jitter=0)


def two() -> Host:
    plan = Plan("lone")
    plan.task("one", "a.t", x=1)
    plan.task("two", "a.u", x=1)
    host = Host()
    host.submit(resolved(plan))
    return host


def called(host: Host) -> str:
    return [e.task_id for _, e in host.sent if e.task_id.startswith("~")][-1]


def fail(host: Host, task_id: str) -> None:
    host.answer(at_work(host, task_id), outcome=Outcome.FAILED, failure=Raised().failure)
    host.pump()


def asks(host: Host) -> list[str]:
    return [key for key in host.journal if "/ask/" in key]


def test_a_called_task_that_is_dropped_between_two_attempts_leaves_no_ask() -> None:
    host = two()
    ask(host, CallAsk("b", "work", encode_json({"x": 2}), retry=PATIENT))
    ask(host, SignalAsk("go", None, None), task_id=called(host))
    fail(host, called(host))  # it is to be tried again in a minute, and its ask stays open
    assert len(asks(host)) == 2
    host.answer(at_work(host, "one"), "done")
    host.pump()
    assert not asks(host)
    signal(host, "go", 1)
    ask(host, SignalAsk("go", None, None), task_id="two")
    replies = [c for _, c in host.controlled if c.action is ControlAction.REPLY]
    assert [c.task_id for c in replies] == ["two"], "the signal was kept for who could take it"


def test_an_ask_that_there_was_no_room_to_close_takes_no_signal() -> None:
    """A restored slot closes it before it looks at any signal: both must decide the same."""
    host = two()
    overlay = Overlay(host.machine.state.entity("run/run-1"))
    overlay.put("ask/0000000000000000", waiting(9, SignalAsk("go", None, None)))
    host.machine.state.apply("run/run-1", overlay)
    ask(host, SignalAsk("go", None, None), task_id="two")
    signal(host, "go", 1)
    replies = [c for _, c in host.controlled if c.action is ControlAction.REPLY]
    assert [c.task_id for c in replies] == ["two"]


def test_a_row_of_calls_is_dropped_to_its_end() -> None:
    host = two()
    ask(host, CallAsk("b", "work", encode_json({"x": 2}), retry=PATIENT))
    first = called(host)
    ask(host, CallAsk("c", "work", encode_json({"x": 2}), retry=PATIENT), task_id=first)
    second = called(host)
    ask(host, SleepAsk(1_000_000), task_id=second)
    fail(host, second)
    fail(host, first)
    host.answer(at_work(host, "one"), "done")
    host.pump()
    assert not asks(host)
    assert not [key for key in host.journal if "/~" in key]


def waiting(number: int, what: AskBody, asked_ms: int = 0) -> AskEntry:
    return AskEntry(Ask(f"t{number}", 1, "ask", "", what), asked_ms, None, None, None)


VALUES = st.one_of(
    st.none(),
    st.builds(
        waiting,
        st.integers(0, 3),
        st.sampled_from([SignalAsk("go", None, None), SignalAsk("no", None, None), SleepAsk(1)]),
        st.integers(0, 9),
    ),
    st.builds(lambda taken: SignalEntry(Signal("s", "go", None, "ann"), 1, taken), st.booleans()),
)
CHANGES = st.lists(st.tuples(st.sampled_from("abcdef"), VALUES), max_size=12)


def members(of: Overlay | Entity, group: str, what: str) -> list[tuple[str, int]]:
    return sorted(of.members(group, what))


def scanned(overlay: Overlay, group: str, what: str) -> list[tuple[str, int]]:
    found = []
    for name in overlay.names():
        value = overlay.get(name)
        if isinstance(value, SignalEntry) and group == SIGNALS:
            found.append((name, value.received_ms))
        elif isinstance(value, AskEntry) and (
            (group == ASKS and what in ("", value.ask.task_id))
            or (
                group == WAITED
                and isinstance(value.ask.what, SignalAsk)
                and value.ask.what.signal == what
            )
        ):
            found.append((name, value.asked_ms))
    return sorted(found)


@drawn(CHANGES, CHANGES, CHANGES)
def test_the_members_of_a_group_are_those_that_a_look_at_all_would_find(
    committed: Any, batch: Any, event: Any
) -> None:
    state = State()
    first = Overlay(state.entity("run/r"))
    for name, value in committed:
        first.put(name, value)
    state.apply("run/r", first)
    lower = Overlay(state.entity("run/r"))
    for name, value in batch:
        lower.put(name, value)
    upper = Overlay(lower)
    for name, value in event:
        upper.put(name, value)
    groups = [(ASKS, ""), (ASKS, "t1"), (WAITED, "go"), (WAITED, "no"), (SIGNALS, "")]
    expected = {group: scanned(upper, *group) for group in groups}
    assert {group: members(upper, *group) for group in groups} == expected
    lower.absorb(upper)
    assert {group: members(lower, *group) for group in groups} == expected
    state.apply("run/r", lower)
    assert {group: members(state.entity("run/r"), *group) for group in groups} == expected
    upper.clear()
    assert not list(upper.changes)


def test_who_has_waited_longest_is_served_first_and_of_many_soon() -> None:
    """10,000 tasks wait; a look at all of them for each signal would take minutes."""
    host = two()
    overlay = Overlay(host.machine.state.entity("run/run-1"))
    names = [f"ask/{number:016x}" for number in range(9_000)]
    random.Random(1).shuffle(names)
    for number, name in enumerate(names):
        overlay.put(name, waiting(number, SignalAsk(f"other-{number}", None, None), number))
    host.machine.state.apply("run/run-1", overlay)
    ask(host, SignalAsk("go", None, None), "late", task_id="two")
    host.now_ms += 1
    ask(host, SignalAsk("go", None, None), "later", task_id="one")
    began = time.process_time()
    for _ in range(300):
        signal(host, "nobody", 1)
    signal(host, "go", 1)
    assert time.process_time() - began < 3, "each signal looks at all that wait"
    replies = [c for _, c in host.controlled if c.action is ControlAction.REPLY]
    assert [c.task_id for c in replies] == ["two"]


def test_all_tasks_are_counted_without_a_look_at_each_map() -> None:
    plan = Plan("maps")
    plan.map("first", "a.t", over=[1, 2, 3])
    plan.map("second", "a.t", over=[1, 2], max_parallel=1)
    plan.task("third", "a.t", x=1)
    host = Host()
    host.submit(resolved(plan))
    entity = host.machine.state.entity("run/run-1")
    assert entity.count(EVERY, "dispatched") == 5
    assert entity.count(EVERY, "expanded") == 2
    host.restart()
    assert host.machine.state.entity("run/run-1").count(EVERY, "dispatched") == 5
