"""The same command line over a real Kafka: one setting changes, nothing else."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import pytest

from tests.broker import TestBroker
from tests.integration.test_cli import Project

pytestmark = pytest.mark.kafka


def test_hello_world_on_kafka(tmp_path: Path, kafka_broker: TestBroker) -> None:
    project = Project(tmp_path)
    project.environment["HOLDFAST_BUS"] = kafka_broker.url
    project.environment["HOLDFAST_NAMESPACE"] = f"cli-{uuid.uuid4().hex[:8]}"
    project.environment["HOLDFAST_PARTITIONS"] = "3"
    found = project.call(
        "dev", "hello.py", "--run", "greeter.greet", "--input", "name=Ada", "--json"
    )
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["output"]["text"] == "Hello, Ada"
    (run,) = project.json("runs")["runs"]
    assert run["state"] == "succeeded"
    shown = project.json("run", "show", run["run_id"])
    assert shown["output"]["text"] == "Hello, Ada"
    assert not (tmp_path / ".holdfast" / "bus.db").exists()
    mismatch = project.call("topics", "check", "--partitions", "5")
    assert (mismatch.returncode, "HOLDFAST_PARTITIONS=3" in mismatch.stderr) == (2, True)
