"""Crash points: armed from outside, hit once, told of; in a real process, since it dies."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.torture.points import Control, Hits, Point, RegistryMode

ROOT = Path(__file__).parents[3]
CHILD = """
import sys
from pathlib import Path
from tests.torture.points import Control, Point
control = Control(Path(sys.argv[1]), "a-1")
for n in range(5):
    print(n, flush=True)
    control.reached(Point.BEFORE_POLL)
    control.reached(Point.AFTER_POLL)
print("lived", flush=True)
"""


def child(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", CHILD, str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_a_process_dies_at_the_passing_that_was_armed_and_its_successor_lives(tmp_path):
    control = Control(tmp_path, "a-1")
    control.arm(Point.AFTER_POLL, 3)
    hits = Hits(tmp_path)
    assert hits.all() == []
    dead = child(tmp_path)
    assert dead.returncode == -9
    assert dead.stdout.split() == ["0", "1", "2"]
    assert control.armed is None
    assert child(tmp_path).stdout.endswith("lived\n")
    assert [(hit.instance, hit.point) for hit in hits.all()] == [("a-1", Point.AFTER_POLL)]
    assert hits.of("a-1", 0) is not None
    assert hits.of("a-1", 1) is None


def test_a_process_that_is_disarmed_in_time_lives(tmp_path):
    control = Control(tmp_path, "a-1")
    control.arm(Point.BEFORE_POLL, 2)
    control.disarm()
    assert child(tmp_path).stdout.endswith("lived\n")


def test_half_a_line_of_a_hit_is_read_when_it_is_whole(tmp_path):
    hits = Hits(tmp_path)
    path = tmp_path / "hits"
    path.write_text("a-1\t12\tbefore-poll\t5\nb-1\t13\tafter")
    assert [hit.process for hit in hits.all()] == [12]
    with path.open("a") as file:
        file.write("-poll\t6\n")
    assert [hit.process for hit in hits.all()] == [12, 13]


@pytest.mark.parametrize("offset_ms", [-3_600_000, 0, 3_600_000])
def test_clock_and_registry_are_shared(tmp_path, offset_ms):
    ours, theirs = Control(tmp_path, "a-1"), Control(tmp_path, "a-1")
    ours.set_clock(offset_ms)
    ours.set_registry(RegistryMode.SLOW)
    ours.arm(Point.BEFORE_STEP)
    assert theirs.clock_offset_ms == offset_ms
    assert theirs.registry is RegistryMode.SLOW
    assert theirs.armed is Point.BEFORE_STEP
