"""A child ends when its parent does, however the parent ends: both hold one end of a pipe.

The parent alone has the writing end, and never writes: the reading end reports the end of it when,
and only when, the parent is gone (`kill -9` too). `PR_SET_PDEATHSIG` is Linux's alone, comes
too late when the parent died before it was set, and follows a thread, not a process.
"""

from __future__ import annotations

import os
import signal
import threading
import time

__all__ = ["LIFELINE_VARIABLE", "hold_lifeline"]

LIFELINE_VARIABLE = "HOLDFAST_LIFELINE"
"""Names the file descriptor of the reading end, in a child's environment."""
GRACE_S = 15.0
"""How long a child whose parent has died may take for a graceful stop."""


def hold_lifeline() -> None:
    """In a child: stop this process (SIGTERM, later SIGKILL) when its parent has died.

    Does nothing in a process that was not started with a lifeline. A thread, because a loop that
    stands still must not keep an orphan alive.
    """
    # Taken out of the environment: a grandchild has no such descriptor.
    descriptor = os.environ.pop(LIFELINE_VARIABLE, "")
    if descriptor.isdigit():
        watch = threading.Thread(
            target=_watch, args=(int(descriptor),), name="lifeline", daemon=True
        )
        watch.start()


def _watch(descriptor: int) -> None:
    try:
        os.set_inheritable(descriptor, False)
        os.read(descriptor, 1)
    except OSError:
        return  # not a descriptor of ours: whoever set the variable is no parent of this kind
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_S)
    os.kill(os.getpid(), signal.SIGKILL)
