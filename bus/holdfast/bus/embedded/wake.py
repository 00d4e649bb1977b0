"""Waking other processes' readers: one byte to a Unix datagram socket each, after the commit.

A full queue means that a wake-up is pending; a refused one, a dead reader. (inotify on the file
fires before a commit is visible; polling costs 2 to 6 % of a core for each reader.)
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from contextlib import suppress
from enum import Enum
from pathlib import Path

__all__ = ["Wake", "WakeReceiver", "WakeSender", "listening"]

_LONGEST_PATH_BYTES = 100
"""A socket's address takes 107 bytes; longer folders are reached through a descriptor."""
_DRAINS = 256


class Wake(Enum):
    """What the byte says: membership need not be looked at for each commit."""

    RECORDS = b"r"
    GROUP = b"g"


class _Folder:
    """Addresses of sockets in a folder, however long its path is."""

    def __init__(self, folder: Path) -> None:
        self._fd: int | None = None
        self._prefix = str(folder)
        if len(os.fsencode(folder)) + 34 > _LONGEST_PATH_BYTES:
            self._fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            self._prefix = f"/proc/self/fd/{self._fd}"

    def address(self, name: str) -> str:
        return f"{self._prefix}/{name}"

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


class WakeReceiver:
    """The socket of one bus; lives on the event loop, which watches `fileno`."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self._folder = _Folder(folder)
        self._path = folder / name
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind(self._folder.address(name))

    def fileno(self) -> int:
        """The descriptor that becomes readable."""
        return self._socket.fileno()

    def drain(self) -> set[Wake]:
        """Take what is pending: any number of wake-ups is one."""
        found = set()
        with suppress(BlockingIOError):
            for _ in range(_DRAINS):
                found.add(Wake(self._socket.recv(1)))
        return found

    def close(self) -> None:
        """Refuse wake-ups from now on."""
        self._socket.close()
        self._path.unlink(missing_ok=True)
        self._folder.close()


class WakeSender:
    """Sends wake-ups from the commit thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = _Folder(folder)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)

    def send(self, names: Iterable[str], wake: Wake) -> list[str]:
        """Wake these; return those who are dead."""
        dead = []
        for name in names:
            try:
                self._socket.sendto(wake.value, self._folder.address(name))
            except BlockingIOError:
                continue
            except OSError:
                dead.append(name)
        return dead

    def close(self) -> None:
        """Give the socket back."""
        self._socket.close()
        self._folder.close()


def listening(folder: Path) -> bool:
    """Tell whether a living process has a socket in `folder`: each bus that is started has one.

    A process that is killed leaves its socket's name behind; the kernel refuses those.
    """
    if not folder.is_dir():
        return False
    addresses = _Folder(folder)
    try:
        return any(_answers(addresses.address(path.name)) for path in folder.iterdir())
    finally:
        addresses.close()


def _answers(address: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(address)
        except OSError:
            return False
    return True
