"""An outside witness of what the examples ran: each step's body writes one line before all else.

The journal says what was committed; this file says what was executed, by whom and when. Tests and
demos that kill processes compare the two. Off unless ``HOLDFAST_EXAMPLE_WITNESS`` names a file.
"""

from __future__ import annotations

import functools
import json
import os
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from holdfast.agents import Context

__all__ = ["VARIABLE", "witnessed"]

VARIABLE = "HOLDFAST_EXAMPLE_WITNESS"

P = ParamSpec("P")
R = TypeVar("R")


def witnessed(ctx: Context, subject: str, body: Callable[P, R], key: str = "") -> Callable[P, R]:
    """``body``, which first writes down that it runs, on ``subject``, for this task's attempt.

    ``key``: that of the step. One JSON object a line: step, key, file, run, task, attempt, pid, at
    (seconds since 1970).
    """
    witness = os.environ.get(VARIABLE)
    if not witness:
        return body

    @functools.wraps(body)
    def seen(*args: P.args, **kwargs: P.kwargs) -> R:
        line = {
            "step": body.__name__,
            "key": key,
            "file": subject,
            "run": ctx.run_id,
            "task": ctx.task_id,
            "attempt": ctx.attempt,
            "pid": os.getpid(),
            "at": time.time(),
        }
        _append(witness, json.dumps(line).encode() + b"\n")
        return body(*args, **kwargs)

    return seen


def _append(path: str, line: bytes) -> None:
    """One write to a file opened for appending: lines of several processes never mix."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        os.write(descriptor, line)
    finally:
        os.close(descriptor)
