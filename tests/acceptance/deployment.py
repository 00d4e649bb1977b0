"""Real processes, started as users start them, on either bus; and ways to hurt them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.waiting import until_sync

ROOT = Path(__file__).parents[2]
AGENTS = "tests.acceptance.agents"


@dataclass
class Service:
    """One process of a deployment. `arguments` are those of `holdfast`."""

    name: str
    arguments: tuple[str, ...]
    log: Path
    process: subprocess.Popen[bytes]
    starts: int = 1


@dataclass
class Deployment:
    """The services of one test on one bus, in one folder."""

    bus: str
    folder: Path
    namespace: str
    environment: dict[str, str] = field(default_factory=dict)
    services: dict[str, Service] = field(default_factory=dict)
    partitions: int = 4

    def variables(self) -> dict[str, str]:
        own = {
            "HOLDFAST_BUS": self.bus,
            "HOLDFAST_NAMESPACE": self.namespace,
            "HOLDFAST_PARTITIONS": str(self.partitions),
            "XDG_CACHE_HOME": str(self.folder / "cache"),
            "PYTHONPATH": str(ROOT),
            "HOLDFAST_TEST_FOLDER": str(self.folder),
        }
        if self.bus.startswith("kafka"):
            (self.folder / "blobs").mkdir(exist_ok=True)
            own["HOLDFAST_BLOBS"] = f"file://{self.folder / 'blobs'}"
        return {**os.environ, **own, **self.environment}

    def coordinator(self, name: str = "c1") -> Service:
        return self.start(name, "coordinator", "--instance", name)

    def agent(self, attribute: str, name: str = "", module: str = AGENTS) -> Service:
        name = name or f"{attribute}-1"
        return self.start(name, "agent", f"{module}:{attribute}", "--instance", name)

    def start(self, name: str, *arguments: str) -> Service:
        assert name not in self.services or self.services[name].process.poll() is not None
        log = self.folder / f"{name}.log"
        with log.open("ab") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "holdfast.cli", *arguments],
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=ROOT,
                env=self.variables(),
                start_new_session=True,
            )
        starts = self.services[name].starts + 1 if name in self.services else 1
        self.services[name] = Service(name, arguments, log, process, starts)
        return self.services[name]

    def again(self, name: str) -> Service:
        """Start a service that has ended, with the same name and arguments."""
        return self.start(name, *self.services[name].arguments)

    def send(self, name: str, number: signal.Signals) -> None:
        self.services[name].process.send_signal(number)

    def kill(self, name: str) -> None:
        """`kill -9`, and wait until it is gone."""
        process = self.services[name].process
        process.kill()
        process.wait()

    def stop(self, name: str, timeout_s: float = 20.0) -> float:
        """SIGTERM; return how many seconds it took to end."""
        process = self.services[name].process
        began = time.monotonic()
        process.terminate()
        process.wait(timeout_s)
        return time.monotonic() - began

    def alive(self, name: str) -> bool:
        return self.services[name].process.poll() is None

    def text(self, name: str) -> str:
        return self.services[name].log.read_text(errors="replace")

    def wait_ready(self, *names: str, timeout_s: float = 30.0) -> None:
        """Return once each service has said that it is ready, as often as it was started."""
        for name in names or tuple(self.services):
            service = self.services[name]

            def ready(service: Service = service) -> bool:
                if service.process.poll() is not None:
                    raise AssertionError(
                        f"{service.name} ended with {service.process.returncode}:\n"
                        + service.log.read_text(errors="replace")[-3000:]
                    )
                text = service.log.read_text(errors="replace")
                return text.count(" ready") >= service.starts

            until_sync(ready, f"{name} is not ready: {service.log}", timeout_s)

    def cli(self, *arguments: str, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "holdfast.cli", *arguments],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=self.variables(),
            timeout=timeout_s,
            check=False,
        )

    def close(self) -> None:
        for service in self.services.values():
            if service.process.poll() is None:
                service.process.send_signal(signal.SIGCONT)
                service.process.kill()
                service.process.wait()


@contextmanager
def deployment(
    bus: str, folder: Path, namespace: str, environment: Mapping[str, str] | None = None
) -> Iterator[Deployment]:
    """Yield a deployment without services; kills what is left of them at the end."""
    made = Deployment(bus, folder, namespace, dict(environment or {}))
    try:
        yield made
    finally:
        made.close()


def witnessed(path: Path) -> list[list[str]]:
    """Return the lines that handlers wrote, split at tabs."""
    if not path.exists():
        return []
    return [line.split("\t") for line in path.read_text().splitlines()]
