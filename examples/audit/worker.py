"""The process that the tools run in: one request a line on stdin, one answer a line on stdout.

``inspector`` starts it. It ends when its stdin does, so it does not outlive its agent.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable

from pydantic import BaseModel

from . import complexity, leaks, weaknesses
from .models import SourceFile

__all__ = ["LIMIT_S", "TOOLS", "main"]

#: For one tool and one file.
LIMIT_S = 20

TOOLS: dict[str, Callable[[SourceFile, str], BaseModel]] = {
    "measure": complexity.measure,
    "scan": weaknesses.scan,
    "search": leaks.search,
}


def main() -> None:
    """Answer requests until stdin ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the agent
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # whatever a tool prints is no answer
    for line in sys.stdin.buffer:
        request = json.loads(line)
        # The default action of this signal ends the process from outside of Python: an expression
        # that never ends holds the interpreter, and no exception could reach it.
        signal.alarm(LIMIT_S)
        tool = TOOLS[request["tool"]]
        answer = tool(SourceFile.model_validate(request["source"]), request["digest"])
        signal.alarm(0)
        print(answer.model_dump_json(), file=answers, flush=True)


if __name__ == "__main__":
    main()
