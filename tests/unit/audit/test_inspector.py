"""The workers: other processes that may hang or die without taking the agent with them."""

from __future__ import annotations

import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from examples.audit import inspector
from examples.audit.complexity import measure
from examples.audit.inspector import stop_workers
from examples.audit.leaks import search
from examples.audit.weaknesses import scan

pytestmark = pytest.mark.usefixtures("workers")

# lizard 1.24 tries every way to split these backslashes: 2 to the power of 60 of them.
ENDLESS = 'x = """' + "a\\\n" * 60
TEXT = "import hashlib\npassword = 'hunter2-is-no-good'\nhashlib.md5(b'')\n"


def short_lived(limit_s: int) -> list[str]:
    program = f"import examples.audit.worker as w; w.LIMIT_S = {limit_s}; w.main()"
    return [sys.executable, "-c", program]


def test_a_worker_answers_as_the_tools_do(put, digest) -> None:
    source = put("a \n ü.py", TEXT)
    assert inspector.measure(source, digest(source)) == measure(source, digest(source))
    assert inspector.scan(source, digest(source)) == scan(source, digest(source))
    assert inspector.search(source, digest(source)) == search(source, digest(source))
    assert inspector.scan(source, digest(source)).high == 1


def test_one_worker_serves_call_after_call_and_several_at_once(put, digest) -> None:
    source = put("a.py", TEXT)
    for _ in range(3):
        inspector.measure(source, digest(source))
    assert len(inspector.idle_workers()) == 1
    with ThreadPoolExecutor(3) as threads:
        answers = list(threads.map(lambda _: inspector.scan(source, digest(source)), range(12)))
    assert {each.high for each in answers} == {1}
    assert 1 <= len(inspector.idle_workers()) <= 3


def test_a_file_that_a_tool_never_ends_with_is_a_problem_in_words(put, digest, monkeypatch) -> None:
    monkeypatch.setattr(inspector, "COMMAND", short_lived(1))
    source = put("endless.py", ENDLESS)
    started = time.monotonic()
    metrics = inspector.measure(source, digest(source))
    assert metrics.problem == f"measure: no end after {inspector.LIMIT_S} s"
    assert time.monotonic() - started < 15
    good = put("good.py", "def f():\n    return 1\n")
    assert inspector.measure(good, digest(good)).functions == 1


def test_a_worker_that_somebody_killed_is_replaced(put, digest) -> None:
    source = put("a.py", TEXT)
    inspector.scan(source, digest(source))
    (worker,) = inspector.idle_workers()
    os.kill(worker, signal.SIGKILL)
    assert inspector.scan(source, digest(source)).high == 1


def test_workers_that_cannot_start_are_a_problem_in_words(put, digest, monkeypatch) -> None:
    monkeypatch.setattr(inspector, "COMMAND", [sys.executable, "-c", "raise SystemExit(7)"])
    source = put("a.py", TEXT)
    assert inspector.scan(source, digest(source)).problem == "scan: its process ended with 7"


def test_workers_end_when_they_are_stopped(put, digest) -> None:
    source = put("a.py", TEXT)
    inspector.scan(source, digest(source))
    (worker,) = inspector.idle_workers()
    stop_workers()
    assert inspector.idle_workers() == []
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)
