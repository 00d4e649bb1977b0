"""Keeps aiokafka's loggers from flooding: with the broker away they write 4,000 lines a second.

Two filters, put once on every `aiokafka` logger: per message template at most `BURST` lines in
`WINDOW_S`, the rest counted and told in the next line that passes; and the warnings written for
each retry of a produce request (routine: the broker still writes the markers of the transaction
before) are never shown, only counted in `SUPPRESSED`.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable

__all__ = ["SUPPRESSED", "RateLimit", "quieten"]

BURST = 3
WINDOW_S = 10.0
MAX_TEMPLATES = 1_000
"""Templates are few; a library that formats before it logs must not make us grow."""

ROUTINE = ("Got error produce response on topic-partition %s, retrying. Error: %s",)
"""Written per retry by `aiokafka.producer.sender`."""

SUPPRESSED: Counter[str] = Counter()
"""How many lines of each template were not shown since the process began."""


class RateLimit(logging.Filter):
    """Lets `BURST` lines of one template pass in `WINDOW_S`; tracebacks count alike."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._windows: dict[str, tuple[float, int]] = {}
        self._withheld: Counter[str] = Counter()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether `record` is written."""
        template = str(record.msg)
        if template in ROUTINE:
            SUPPRESSED[template] += 1
            return False
        now = self._clock()
        began, count = self._windows.get(template, (now, 0))
        if now - began >= WINDOW_S:
            began, count = now, 0
        if len(self._windows) >= MAX_TEMPLATES:
            self._windows.clear()
        self._windows[template] = (began, count + 1)
        if count >= BURST:
            SUPPRESSED[template] += 1
            self._withheld[template] += 1
            return False
        if withheld := self._withheld.pop(template, 0):
            record.msg = f"{template} ({withheld} more of these were not shown)"
        return True


_limit = RateLimit()


def quieten() -> None:
    """Put the filter on each logger that aiokafka has made; again and again is harmless.

    On each, because a filter of a parent is not asked for the records of its children.
    """
    for name in list(logging.root.manager.loggerDict):
        if name == "aiokafka" or name.startswith("aiokafka."):
            logger = logging.getLogger(name)
            if _limit not in logger.filters:
                logger.addFilter(_limit)
