"""The processes of one measurement: coordinator and agent as users start them, and their costs."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
READY_S = 60.0
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass
class Stage:
    """Running services on one bus."""

    bus: str
    namespace: str
    folder: Path
    partitions: int = 2
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    arguments: dict[str, tuple[str, ...]] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)

    def start(self, name: str, *arguments: str) -> None:
        """Start a service and return once it is ready."""
        log = self.folder / f"{name}.log"
        self.arguments[name] = arguments
        before = log.read_text(errors="replace").count(" ready") if log.exists() else 0
        with log.open("ab") as out:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "holdfast.cli", *arguments],
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env={
                    **os.environ,
                    "HOLDFAST_BUS": self.bus,
                    "HOLDFAST_NAMESPACE": self.namespace,
                    "HOLDFAST_PARTITIONS": str(self.partitions),
                    "HOLDFAST_BLOBS": f"file://{self.folder / 'blobs'}",
                    **self.variables,
                },
            )
        deadline = time.monotonic() + READY_S
        while log.read_text(errors="replace").count(" ready") <= before:
            if self.processes[name].poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{name} did not start:\n{log.read_text(errors='replace')}")
            time.sleep(0.02)

    def again(self, name: str) -> None:
        """Start a service that has ended, as it was started before."""
        self.start(name, *self.arguments[name])

    def kill(self, name: str) -> None:
        """`kill -9`, and wait until it is gone."""
        self.processes[name].kill()
        self.processes[name].wait()

    def cpu_s(self) -> float:
        """Processor time of all services and of this process so far, in seconds."""
        own = time.process_time()
        return own + sum(process_cpu_s(p.pid) for p in self.processes.values())

    def peak_mib(self, name: str) -> float:
        """The largest resident size of a service so far."""
        status = Path(f"/proc/{self.processes[name].pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024

    def resident_mib(self, name: str) -> float:
        """The resident size of a service now."""
        status = Path(f"/proc/{self.processes[name].pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1]) / 1024


def process_cpu_s(pid: int) -> float:
    """Processor time of one process, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


@contextlib.contextmanager
def stage(bus: str) -> Iterator[Stage]:
    """Yield a coordinator and the agent `bench` on `bus` (`{folder}` is filled in)."""
    with services(bus) as made:
        made.start("coordinator", "coordinator", "--instance", "c1")
        made.start("bench", "agent", "benchmarks.agents:bench", "--instance", "b1")
        yield made


@contextlib.contextmanager
def services(bus: str, partitions: int = 2) -> Iterator[Stage]:
    """Yield a stage on `bus` (`{folder}` is filled in) where nothing runs yet."""
    with tempfile.TemporaryDirectory(prefix="holdfast-bench-", dir=ROOT / "build") as name:
        folder = Path(name)
        (folder / "blobs").mkdir()
        made = Stage(bus.format(folder=folder), f"b{uuid.uuid4().hex[:8]}", folder, partitions)
        try:
            yield made
        finally:
            for process in made.processes.values():
                process.kill()
                process.wait()


def sync_ms(folder: Path) -> float:
    """The disk's median time for one small write and sync: what a commit on SQLite waits for."""
    times = []
    with (folder / "sync").open("wb") as file:
        for _ in range(50):
            began = time.perf_counter()
            file.write(b"x" * 4096)
            file.flush()
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - began)
    return sorted(times)[len(times) // 2] * 1000
