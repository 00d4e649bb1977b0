"""The four agents. Start them all with ``holdfast dev examples.research.agents``, or each as a
service: ``holdfast agent examples.research.agents:reader``.

``PACE`` (seconds a document, a decimal number) slows the readers down, for watching.
"""

from __future__ import annotations

from .critic import critic
from .planner import planner
from .reader import reader
from .writer import writer

__all__ = ["critic", "planner", "reader", "writer"]
