"""Ends a process whose event loop stands still, after logging where it stands.

A thread beside the loop, started at composition roots only. It also notices that it was itself
stopped (SIGSTOP, suspend): the process then ends before the loop gets to write anything.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import sys
import threading
import time

from holdfast.bus.port import EXIT_RESTART

__all__ = ["Watchdog"]

logger = logging.getLogger(__name__)

TICK_S = 0.1


def _now() -> float:
    # Counts suspend, unlike CLOCK_MONOTONIC: a laptop that slept has lost its slots.
    return (
        time.clock_gettime(time.CLOCK_BOOTTIME)
        if hasattr(time, "CLOCK_BOOTTIME")
        else time.monotonic()
    )


class Watchdog:
    """Watches the running loop; `limit_s` is half of the session time-out."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._seen_at = _now()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Begin; call on the loop that is to be watched."""
        self._loop = asyncio.get_running_loop()
        self._turn()
        self._thread.start()

    def stop(self) -> None:
        """End the watch."""
        self._ended.set()

    def _turn(self) -> None:
        self._seen_at = _now()
        if self._loop is not None and not self._ended.is_set():
            self._loop.call_later(TICK_S, self._turn)

    def _watch(self) -> None:
        woke_at = _now()
        while not self._ended.wait(TICK_S):
            now = _now()
            stopped_s, stalled_s = now - woke_at, now - self._seen_at
            woke_at = now
            if stopped_s > self._limit_s:
                self._die(f"this process was stopped for {stopped_s:.1f} s")
            if stalled_s > self._limit_s:
                faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
                self._die(f"the event loop has stood still for {stalled_s:.1f} s (stack above)")

    def _die(self, what: str) -> None:
        logger.critical(
            "%s, more than the %g s after which its slots may be another's: ending it, so that it "
            "starts again from the journal",
            what,
            self._limit_s,
        )
        logging.shutdown()
        os._exit(EXIT_RESTART)
