"""What is told of asks and signals: rows that stand for themselves, refusals with a remedy, and
numbers that agree with the state."""

from __future__ import annotations

import pytest
from prometheus_client import REGISTRY

from holdfast.coordinator.engine.run.asks import ask_name
from holdfast.schemas.records import (
    Ask,
    AskBody,
    AskEntry,
    AskKind,
    CallAsk,
    RunAsk,
    SignalAsk,
    SleepAsk,
)
from tests.unit.coordinator.host import START_MS, Host, given
from tests.unit.coordinator.surroundings import PARTITION
from tests.unit.coordinator.test_asks import ask, begun, replies, signal

HOUR_MS = 3_600_000


def open_asks(host: Host) -> dict[str, int]:
    return {str(kind): n for kind, n in host.machine.state.open_asks.items() if n}


def test_a_row_tells_since_when_until_when_and_what_fits() -> None:
    host = begun()
    host.schemas.schemas[1_000] = {"type": "record", "name": "Go", "fields": []}
    ask(host, SignalAsk("go", 1_000, HOUR_MS))
    asked = next(e.ask for e in host.events if e.type == "task.asked")
    assert asked is not None
    assert (asked.asked_ms, asked.until_ms) == (START_MS, START_MS + HOUR_MS)
    assert (asked.schema_id, asked.describe()) == (1_000, "waits for signal 'go'")
    signal(host, "go", {})
    answered = next(e.ask for e in host.events if e.type == "task.answered")
    assert answered == asked


@pytest.mark.parametrize(
    ("what", "child", "text"),
    [
        (SleepAsk(5), None, "sleeps ('it', key '7')"),
        (SignalAsk("go", None, None), None, "waits for signal 'go'"),
        (CallAsk("a", "t", None), "~00", "waits for a.t (task ~00)"),
        (RunAsk('{"name": "small"}', None, None, False), "r.1", "waits for run r.1 (plan small)"),
        (RunAsk("[" * 100_000, None, None, False), "r.1", "waits for run r.1"),
    ],
)
def test_each_kind_has_its_words(what: AskBody, child: str | None, text: str) -> None:
    row = AskEntry(Ask("a", 1, "it", "7", what), 1, child, None, None).row()
    assert row.describe() == text
    assert ask_name("a", "it", "7") == f"ask/{row.ask_id}"


def test_a_refusal_names_what_fits() -> None:
    host = begun()
    fields = [{"name": "speed", "type": "long"}]
    host.schemas.schemas[1_000] = {"type": "record", "name": "Go", "fields": fields}
    ask(host, SignalAsk("go", 1_000, None))
    signal(host, "go", {"speed": "fast"})
    refused = host.events[-1]
    assert "speed" in refused.message
    assert "`holdfast schemas show signal.go`" in refused.message


@pytest.mark.parametrize(
    ("name", "signal_id"), [("x" * 20_000, "s"), ("go", "x" * 20_000), ("", "s")]
)
def test_a_signal_that_nobody_could_take_is_refused_without_repeating_it(
    name: str, signal_id: str
) -> None:
    host = begun()
    signal(host, name, 1, signal_id)
    refused = host.events[-1]
    assert (str(refused.type), refused.signal) == ("signal.refused", None)
    assert len(refused.message) < 200
    host.work(given)
    assert host.last_run().run is not None


def test_open_asks_are_counted_by_kind_over_a_restart() -> None:
    host = begun()
    ask(host, SleepAsk(HOUR_MS), key="1")
    ask(host, SleepAsk(2 * HOUR_MS), key="2")
    ask(host, SignalAsk("go", None, None), key="3")
    assert open_asks(host) == {"sleep": 2, "signal": 1}
    host.restart()
    host.pump()
    assert open_asks(host) == {"sleep": 2, "signal": 1}
    host.pass_time(HOUR_MS)
    signal(host, "go", 1)
    assert open_asks(host) == {"sleep": 1}
    assert (
        REGISTRY.get_sample_value(
            "holdfast_coordinator_open_asks", {"partition": str(PARTITION), "kind": "sleep"}
        )
        == 1
    )
    host.command("cancel")
    host.work(given)
    assert open_asks(host) == {}
    assert set(host.machine.state.open_asks) == set(AskKind)


def test_signals_are_counted_by_what_became_of_them() -> None:
    def counted() -> dict[str, float]:
        name = "holdfast_coordinator_signals_total"
        outcomes = ("kept", "taken", "repeated", "refused")
        return {o: REGISTRY.get_sample_value(name, {"outcome": o}) or 0.0 for o in outcomes}

    before = counted()
    host = begun()
    signal(host, "go", 1, "one")
    signal(host, "go", 1, "one")
    ask(host, SignalAsk("go", None, None))
    host.work(given)
    signal(host, "go", 2)
    assert len(replies(host)) == 1
    after = counted()
    assert {o: after[o] - before[o] for o in after} == dict.fromkeys(after, 1.0)
