"""The `time` module as a simulated process sees it.

A user's code reads `time.time()`, and sleeps in threads. While a world is stepped, both are
virtual: else code that decides by the clock would never see a clock that has moved on. Who took
the functions by name (`from time import time`), and `datetime.now()`, still see the real clock.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from holdfast.testing.sim.threads import sleep_in_thread

__all__ = ["virtual_time"]

_LIBRARY = str(Path(threading.__file__).parent)
_ADDED = str(Path(_LIBRARY, "site-packages"))


@contextmanager
def virtual_time(wall_ms: Callable[[], int], monotonic_s: Callable[[], float]) -> Iterator[None]:
    """Put virtual functions in the place of those of `time`, for as long as the context lasts."""
    real_sleep = time.sleep

    def sleep(seconds: float, /) -> None:
        # The standard library sleeps to look again at something real (a child process): it has
        # to. On the loop's own thread a sleep blocks everything, as it would in production.
        caller = sys._getframe(1).f_code.co_filename  # noqa: SLF001
        of_library = caller.startswith(_LIBRARY) and not caller.startswith(_ADDED)
        if of_library or not sleep_in_thread(seconds):
            real_sleep(seconds)

    virtual: dict[str, Callable[..., object]] = {
        "time": lambda: wall_ms() / 1_000,
        "time_ns": lambda: wall_ms() * 1_000_000,
        "monotonic": monotonic_s,
        "monotonic_ns": lambda: round(monotonic_s() * 1e9),
        "sleep": sleep,
    }
    real = {name: getattr(time, name) for name in virtual}
    for name, function in virtual.items():
        setattr(time, name, function)
    try:
        yield
    finally:
        for name, function in real.items():
            setattr(time, name, function)
