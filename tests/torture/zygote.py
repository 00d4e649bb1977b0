"""Starts services by fork, from one process that has imported everything already.

A start costs some milliseconds of processor time instead of half a second, so that the machine's
time goes into faults. Each service is a process of its own all the same: its own session, loop,
bus and memory, none of which exist before the fork. The zygote has one thread and opens nothing.

Requests and answers are lines of JSON on a socket: {"start": name, "arguments", "variables", "log"}
-> {"started": name, "pid"}, and {"ended": name, "pid", "status"} later. When the socket closes, all
that was started is killed.
"""

from __future__ import annotations

import gc
import json
import os
import selectors
import signal
import socket
import sys
from pathlib import Path
from typing import Any

__all__ = ["run_zygote"]

LOOK_S = 0.5
"""At the latest, should a signal have been missed."""


class _Zygote:
    def __init__(self, harness: socket.socket) -> None:
        self._harness = harness
        self._names: dict[int, str] = {}
        self._unread = b""
        self._pipe = os.pipe()
        for end in self._pipe:
            os.set_blocking(end, False)

    def run(self) -> None:
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
        try:
            self._serve()
        except ConnectionError:
            pass  # the harness is gone, with something unread
        finally:
            for pid in self._names:
                os.kill(pid, signal.SIGKILL)

    def _serve(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._harness, selectors.EVENT_READ)
            selector.register(self._pipe[0], selectors.EVENT_READ)
            while True:
                ready = {key.fileobj for key, _ in selector.select(LOOK_S)}
                if self._pipe[0] in ready:
                    os.read(self._pipe[0], 4096)
                if self._harness in ready and not self._receive():
                    return
                self._reap()

    def _receive(self) -> bool:
        data = self._harness.recv(65536)
        *lines, self._unread = (self._unread + data).split(b"\n")
        for line in lines:
            self._start(json.loads(line))
        return bool(data)

    def _start(self, request: dict[str, Any]) -> None:
        pid = os.fork()
        if pid == 0:
            self._become(request)
        self._names[pid] = request["start"]
        self._tell({"started": request["start"], "pid": pid})

    def _become(self, request: dict[str, Any]) -> None:
        code = 70
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._harness.close()
            for end in self._pipe:
                os.close(end)
            os.setsid()
            log = os.open(request["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            os.dup2(log, 1)
            os.dup2(log, 2)
            os.environ.update(request["variables"])
            from tests.torture.service import main

            code = main(request["arguments"])
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _reap(self) -> None:
        while self._names:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            name = self._names.pop(pid)
            code = os.waitstatus_to_exitcode(status)
            self._tell({"ended": name, "pid": pid, "status": code})

    def _tell(self, message: dict[str, Any]) -> None:
        self._harness.sendall(json.dumps(message).encode() + b"\n")


def run_zygote(descriptor: int, modules: list[str]) -> None:
    """Import what services need, then start them until the socket closes."""
    import importlib

    os.setpriority(os.PRIO_PROCESS, 0, 0)  # the harness may have more
    for name in modules:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # pages of what is imported stay shared
    harness = socket.socket(fileno=descriptor)
    harness.sendall(b'{"ready": true}\n')
    _Zygote(harness).run()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    run_zygote(int(sys.argv[1]), sys.argv[2:])
