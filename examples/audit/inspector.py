"""The inspector's steps: read a file, measure it, scan it, search it.

The tools run in processes of their own. A file of 200 bytes can keep one of lizard's regular
expressions busy for years, and a regular expression cannot be stopped from within its process: it
would take the agent with it. So a worker is a child that ends after ``LIMIT_S``, and the file's
inspection says so.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
from pathlib import Path
from typing import TypeVar

from .models import Findings, Metrics, Secrets, SourceFile
from .reading import read
from .worker import LIMIT_S

__all__ = ["idle_workers", "measure", "read", "scan", "search", "stop_workers"]

COMMAND = [sys.executable, "-P", "-m", f"{__package__}.worker"]
#: A worker may have been killed by somebody while it waited; its file is not to blame for that.
TRIES = 2

_Answer = TypeVar("_Answer", Metrics, Findings, Secrets)
_Worker = subprocess.Popen[bytes]

#: Workers with nothing to do. There are as many in all as there were steps at once.
_idle: queue.LifoQueue[_Worker] = queue.LifoQueue()


def measure(source: SourceFile, digest: str) -> Metrics:
    """Measure size and complexity with lizard."""
    return _ask("measure", Metrics, source, digest)


def scan(source: SourceFile, digest: str) -> Findings:
    """Scan Python for weaknesses with bandit."""
    return _ask("scan", Findings, source, digest)


def search(source: SourceFile, digest: str) -> Secrets:
    """Search for secrets with detect-secrets."""
    return _ask("search", Secrets, source, digest)


def _ask(tool: str, answer: type[_Answer], source: SourceFile, digest: str) -> _Answer:
    request = json.dumps({"tool": tool, "source": source.model_dump(), "digest": digest}).encode()
    for _ in range(TRIES):
        worker = _take()
        line = _exchange(worker, request)
        if line.endswith(b"\n"):
            _idle.put(worker)
            return answer.model_validate_json(line)
        ended = _end(worker)
        if ended == -signal.SIGALRM:
            return answer(problem=f"{tool}: no end after {LIMIT_S} s")
    return answer(problem=f"{tool}: its process ended with {ended}")


def _exchange(worker: _Worker, request: bytes) -> bytes:
    assert worker.stdin is not None
    assert worker.stdout is not None
    try:
        worker.stdin.write(request + b"\n")
        worker.stdin.flush()
        return worker.stdout.readline()
    except BrokenPipeError:
        return b""


def _end(worker: _Worker) -> int:
    with contextlib.suppress(BrokenPipeError):
        worker.communicate()  # closes both pipes, and its stdin's end ends it
    return worker.returncode


def idle_workers() -> list[int]:
    """The process ids of the workers that have nothing to do."""
    return [worker.pid for worker in list(_idle.queue)]


@atexit.register
def stop_workers() -> None:
    """End the workers that have nothing to do."""
    while not _idle.empty():
        _end(_idle.get_nowait())


def _take() -> _Worker:
    """An idle worker that is still there, or a new one."""
    while True:
        try:
            worker = _idle.get_nowait()
        except queue.Empty:
            return _start()
        if worker.poll() is None:
            return worker
        _end(worker)


def _start() -> _Worker:
    root = str(Path(__file__).resolve().parents[2])
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    return subprocess.Popen(
        COMMAND,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
    )
