"""The named crash points, and how a process dies at one of them.

The harness and each process share one small file, mapped into both: the harness arms a point (which
one, at which of its passings), the process looks each time it passes. It says so in `hits`, then
kills itself with SIGKILL, which no handler and no `finally` sees.
"""

from __future__ import annotations

import mmap
import os
import signal
import struct
import time
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import NoReturn

__all__ = [
    "AGENT_POINTS",
    "COORDINATOR_POINTS",
    "PROJECTION_POINTS",
    "RESTORE_POINTS",
    "Control",
    "Hit",
    "Hits",
    "Point",
    "RegistryMode",
]


class Point(Enum):
    """Where a process can be killed; before and after each thing that it does."""

    BEFORE_POLL = "before-poll"
    AFTER_POLL = "after-poll"
    BEFORE_ACCEPT = "before-accept"
    AFTER_ACCEPT = "after-accept"
    BEFORE_HANDLER = "before-handler"
    AFTER_HANDLER = "after-handler"
    BEFORE_STEP = "before-step"
    AFTER_STEP = "after-step"
    BEFORE_EFFECT = "before-effect"
    AFTER_EFFECT = "after-effect"
    BEFORE_PRODUCE = "before-produce"
    AFTER_PRODUCE = "after-produce"
    BEFORE_OFFSETS = "before-offsets"
    AFTER_OFFSETS = "after-offsets"
    BEFORE_COMMIT_SENT = "before-commit-sent"
    AFTER_COMMIT_SENT = "after-commit-sent"
    BEFORE_COMMIT_ANSWERED = "before-commit-answered"
    AFTER_COMMIT_ANSWERED = "after-commit-answered"
    BEFORE_RESTORE = "before-restore"
    AFTER_RESTORE = "after-restore"
    BEFORE_SUBMIT = "before-submit"
    AFTER_SUBMIT = "after-submit"
    BEFORE_PLAN = "before-plan"
    AFTER_PLAN = "after-plan"
    BEFORE_DISPATCH = "before-dispatch"
    AFTER_DISPATCH = "after-dispatch"
    BEFORE_RESULT = "before-result"
    AFTER_RESULT = "after-result"
    BEFORE_TIMER = "before-timer"
    AFTER_TIMER = "after-timer"
    BEFORE_PROJECTION = "before-projection"
    AFTER_PROJECTION = "after-projection"


_POINTS = tuple(Point)
_NUMBERS = {point: number for number, point in enumerate(_POINTS, 1)}

COMMIT_POINTS = (
    Point.BEFORE_PRODUCE,
    Point.AFTER_PRODUCE,
    Point.BEFORE_OFFSETS,
    Point.AFTER_OFFSETS,
    Point.BEFORE_COMMIT_SENT,
    Point.AFTER_COMMIT_SENT,
    Point.BEFORE_COMMIT_ANSWERED,
    Point.AFTER_COMMIT_ANSWERED,
)
RESTORE_POINTS = (Point.BEFORE_RESTORE, Point.AFTER_RESTORE)
"""Passed only by a process that starts, or is given a slot."""
AGENT_POINTS = (
    Point.BEFORE_POLL,
    Point.AFTER_POLL,
    Point.BEFORE_ACCEPT,
    Point.AFTER_ACCEPT,
    Point.BEFORE_HANDLER,
    Point.AFTER_HANDLER,
    Point.BEFORE_STEP,
    Point.AFTER_STEP,
    Point.BEFORE_EFFECT,
    Point.AFTER_EFFECT,
    Point.BEFORE_RESULT,
    Point.AFTER_RESULT,
    *COMMIT_POINTS,
    *RESTORE_POINTS,
)
PROJECTION_POINTS = (Point.BEFORE_PROJECTION, Point.AFTER_PROJECTION)
COORDINATOR_POINTS = (
    Point.BEFORE_SUBMIT,
    Point.AFTER_SUBMIT,
    Point.BEFORE_PLAN,
    Point.AFTER_PLAN,
    Point.BEFORE_DISPATCH,
    Point.AFTER_DISPATCH,
    Point.BEFORE_RESULT,
    Point.AFTER_RESULT,
    Point.BEFORE_TIMER,
    Point.AFTER_TIMER,
    *RESTORE_POINTS,
    Point.BEFORE_COMMIT_SENT,
    Point.AFTER_COMMIT_SENT,
    Point.BEFORE_COMMIT_ANSWERED,
    Point.AFTER_COMMIT_ANSWERED,
)

_ARMED = struct.Struct("<II")
"""Point number (0: none), at which passing."""
_CLOCK = struct.Struct("<q")
"""By how many milliseconds the process's wall clock is off."""
_REGISTRY = struct.Struct("<I")
_CLOCK_AT = _ARMED.size
_REGISTRY_AT = _CLOCK_AT + _CLOCK.size
_SIZE = _REGISTRY_AT + _REGISTRY.size


class RegistryMode(Enum):
    """What is wrong with a process's registry of schemas."""

    OK = "ok"
    AWAY = "registry-away"
    SLOW = "registry-slow"
    WRONG = "registry-wrong"


_MODES = tuple(RegistryMode)


@dataclass(frozen=True, slots=True)
class Hit:
    """A process killed itself at a point. `at_ns`: `CLOCK_MONOTONIC`, the same in all processes."""

    instance: str
    process: int
    point: Point
    at_ns: int


class Control:
    """The file that the harness and one instance share, whichever process it is right now."""

    def __init__(self, folder: Path, instance: str) -> None:
        self.instance = instance
        self._hits = folder / "hits"
        path = folder / f"{instance}.control"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            os.ftruncate(descriptor, _SIZE)
            self._memory = mmap.mmap(descriptor, _SIZE)
        finally:
            os.close(descriptor)
        self._passed = 0
        self._counted: tuple[int, int] = (0, 0)

    # --- the harness's side ---

    def arm(self, point: Point, passing: int = 1) -> None:
        """Have the process die at its `passing`-th arrival at `point` from now on."""
        _ARMED.pack_into(self._memory, 0, _NUMBERS[point], max(1, passing))

    def disarm(self) -> None:
        """Have it live on."""
        _ARMED.pack_into(self._memory, 0, 0, 0)

    def set_clock(self, offset_ms: int) -> None:
        """Put the process's wall clock forward (or back: negative) from the true time."""
        _CLOCK.pack_into(self._memory, _CLOCK_AT, offset_ms)

    def set_registry(self, mode: RegistryMode) -> None:
        """Have the process's registry be so from now on."""
        _REGISTRY.pack_into(self._memory, _REGISTRY_AT, _MODES.index(mode))

    # --- the process's side ---

    @property
    def armed(self) -> Point | None:
        """At which point it is to die, if at any."""
        number, _ = _ARMED.unpack_from(self._memory)
        return _POINTS[number - 1] if number else None

    @property
    def clock_offset_ms(self) -> int:
        """By how much the wall clock is off."""
        return int(_CLOCK.unpack_from(self._memory, _CLOCK_AT)[0])

    @property
    def registry(self) -> RegistryMode:
        """What is wrong with the registry."""
        return _MODES[int(_REGISTRY.unpack_from(self._memory, _REGISTRY_AT)[0])]

    def reached(self, point: Point) -> None:
        """Die here, if this is what was armed and it is the passing that was meant."""
        armed = _ARMED.unpack_from(self._memory)
        if armed[0] != _NUMBERS[point]:
            return
        if armed != self._counted:
            self._counted, self._passed = armed, 0
        self._passed += 1
        if self._passed >= armed[1]:
            self._die(point)

    def _die(self, point: Point) -> NoReturn:
        self.disarm()  # the next process of this instance shall live
        line = f"{self.instance}\t{os.getpid()}\t{point.value}\t{time.monotonic_ns()}\n"
        descriptor = os.open(self._hits, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.write(descriptor, line.encode())
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("a process outlived SIGKILL")


class Hits:
    """All kills at points so far, read as they come."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "hits"
        self._read = 0
        self._hits: list[Hit] = []

    def all(self) -> list[Hit]:
        """Return them in order."""
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._read)
                data = file.read()
            whole = data[: data.rfind(b"\n") + 1]
            self._read += len(whole)
            self._hits += [_hit(line) for line in whole.decode().splitlines()]
        return self._hits

    def of(self, instance: str, since: int) -> Hit | None:
        """Return the first of an instance behind the first `since` of all, if there is one."""
        return next((hit for hit in self.all()[since:] if hit.instance == instance), None)


def _hit(line: str) -> Hit:
    instance, process, point, at_ns = line.split("\t")
    return Hit(instance, int(process), Point(point), int(at_ns))
