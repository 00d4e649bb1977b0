"""Results, damaged records and payments: the harness's own arithmetic."""

from __future__ import annotations

import json
import random

import pytest

from holdfast.schemas.codec import decode, encode
from holdfast.schemas.errors import HoldfastError
from holdfast.schemas.records import ControlAction, ControlEnvelope
from tests.torture.catalog import FAULTS, SLICE, fault_named
from tests.torture.faults.records import damage, unreadable
from tests.torture.ledger import Ledger
from tests.torture.points import AGENT_POINTS, COORDINATOR_POINTS
from tests.torture.results import Outcome, line, quantile, shares, write

CONTROL = ControlEnvelope("r", "a", 1, ControlAction.CANCEL, "", "r", 1)


def outcome(**values: object) -> Outcome:
    given = {
        "suite": "torture",
        "bus": "sqlite",
        "fault": "kill-agent",
        "point": "before-poll",
        "injected": 30,
        "runs": 10,
        "tasks": 40,
        "violations": [],
        "recovery_s": [0.1, 0.3],
        "bound_s": 2.0,
        "seed": 7,
        "commit": "c",
        "started": "2026-11-21T10:00:00+00:00",
        "seconds": 30.0,
        "machine": {},
        "notes": "",
    }
    return Outcome(**{**given, **values})  # type: ignore[arg-type]


def test_shares_lose_nothing():
    assert shares(10, [1, 1, 1]) == [4, 3, 3]
    assert shares(7, [0]) == [7]
    assert sum(shares(101, [3, 0, 9])) == 101


def test_quantiles_are_values_that_were_measured():
    assert quantile([], 0.5) is None
    assert quantile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert quantile([1.0, 2.0], 1.0) == 2.0


def test_a_round_is_one_line_and_one_file(tmp_path):
    outcomes = [outcome(), outcome(point="after-poll")]
    assert "60 injected    120/min" in line(outcomes)
    assert "worst 0.30 s" in line(outcomes)
    path = write(tmp_path / "results", outcomes)
    assert [o["point"] for o in json.loads(path.read_text())] == ["before-poll", "after-poll"]


def test_every_damage_changes_the_bytes_and_the_unreadable_ones_cannot_be_read():
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    whole = encode(CONTROL)
    changed = sum(damage(chance, whole) != whole for _ in range(200))
    assert changed > 150  # what is zero may be set to zero
    for _ in range(200):
        with pytest.raises(HoldfastError):
            decode(ControlEnvelope, unreadable(chance, CONTROL))


def test_the_ledger_pays_once_for_a_key_and_tells_of_two_keys_for_one_purpose(tmp_path):
    ledger = Ledger(tmp_path)
    ledger.create()
    assert ledger.pay("k1", "r/a", 5) == ledger.pay("k1", "r/a", 5)
    assert ledger.paid_twice() == []
    with pytest.raises(ValueError, match="k1"):
        ledger.pay("k1", "r/a", 6)
    ledger.pay("k2", "r/a", 5)
    assert ledger.paid_twice() == ["r/a was paid 2 times"]


def test_every_fault_has_a_name_and_the_slice_is_made_of_them():
    for name in FAULTS:
        assert fault_named(name).name == name
    with pytest.raises(KeyError, match="kill-agent"):
        fault_named("kill-cat")
    restricted = fault_named("kill-agent:before-poll+after-step")
    assert restricted.points == ("before-poll", "after-step")
    with pytest.raises(KeyError, match="no point 'x'"):
        fault_named("kill-agent:x")
    with pytest.raises(KeyError, match="has no points"):
        fault_named("storm:x")
    assert {name for name, _, _ in SLICE} <= FAULTS.keys()
    assert len(AGENT_POINTS) >= 12
    assert len(COORDINATOR_POINTS) >= 12
