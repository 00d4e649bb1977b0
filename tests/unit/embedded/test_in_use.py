"""Whether a living process has the bus file open: what is asked before it is removed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from holdfast.bus.embedded import in_use
from tests.broker import REPOSITORY
from tests.unit.embedded.places import started

OPENS = """
import asyncio, sys
from pathlib import Path
from holdfast.bus.embedded import EmbeddedBus, EmbeddedSettings

async def main():
    await EmbeddedBus(EmbeddedSettings(Path(sys.argv[1]))).start()
    print("open", flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


def test_a_file_that_is_not_there_is_used_by_nobody(tmp_path: Path) -> None:
    assert not in_use(tmp_path / "bus.db")


async def test_a_bus_of_this_process_counts(tmp_path: Path) -> None:
    async with started(tmp_path):
        assert in_use(tmp_path / "bus.db")
    assert not in_use(tmp_path / "bus.db")


def test_another_process_counts_while_it_lives_however_it_ends(tmp_path: Path) -> None:
    path = tmp_path / ("long" * 25) / "bus.db"  # longer than the address of a socket may be
    path.parent.mkdir()
    other = subprocess.Popen(
        [sys.executable, "-c", OPENS, str(path)], stdout=subprocess.PIPE, cwd=REPOSITORY
    )
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == b"open\n"
        assert in_use(path)
    finally:
        other.kill()
        other.wait()
    assert list(Path(f"{path}.d/wake").iterdir()), "its socket's name is left behind"
    assert not in_use(path)
