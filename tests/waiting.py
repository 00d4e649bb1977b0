"""Waiting for a condition, with a bound: the only way in which these tests let time pass."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable


async def until(condition: Callable[[], object], what: str = "", timeout_s: float = 10.0) -> None:
    """Return once `condition()` is true; fail with `what` after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s:g} s: {what or condition}")
        await asyncio.sleep(0.002)


def until_sync(condition: Callable[[], object], what: str = "", timeout_s: float = 10.0) -> None:
    """As `until`, for tests without a loop."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s:g} s: {what or condition}")
        time.sleep(0.01)
