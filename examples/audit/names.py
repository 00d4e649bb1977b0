"""File names as text: git and the file system allow any bytes, a report does not."""

from __future__ import annotations

import os

__all__ = ["printable", "shown"]


def printable(name: str) -> str:
    """A name as Unicode: where it is not UTF-8, its odd bytes become ``\\xNN``."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def shown(text: str) -> str:
    """Text on one line and as it is: line breaks and characters that turn the reading direction
    are shown as escapes.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
