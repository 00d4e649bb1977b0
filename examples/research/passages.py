"""Cuts a document into passages: whole lines, with the numbers they have in the file."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from .words import content_words

__all__ = ["QUOTE_LINES_MAX", "Passage", "lines_of", "passages", "title_of"]

QUOTE_LINES_MAX = 4
"""A longer paragraph is cut: nobody reads a quote of a page."""

_HEADING = re.compile(r"^ {0,3}#{1,6}\s+(?P<title>.+?)\s*#*\s*$")
_FENCE = re.compile(r"^ {0,3}(```|~~~)")
_ITEM = re.compile(r"^\s*(?:[-*+]|\d+[.)])\s+|^\s*\|")


@dataclass(frozen=True, slots=True)
class Passage:
    """Some lines of a document. `heading`: the words of the headings above; `words`: its own."""

    line: int
    text: str
    words: Counter[str] = field(default_factory=Counter)
    heading: frozenset[str] = frozenset()


def lines_of(text: str) -> list[str]:
    """Return the lines of a text as `grep -n` counts them: `str.splitlines` also ends one at a form
    feed, and every number after that would be wrong.
    """
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


def title_of(path: str, lines: list[str]) -> str:
    """Return the first heading of a document; its name if it has none."""
    for line in lines:
        if found := _HEADING.match(line):
            return found["title"]
    return PurePosixPath(path).name


def passages(lines: list[str]) -> Iterator[Passage]:
    """Yield the passages of a document, in order: paragraphs, items of lists, rows of tables.

    Headings and blocks of code are none: the first say nothing by themselves, the second little.
    """
    headings: dict[int, str] = {}
    block: list[tuple[int, str]] = []
    fence = ""
    for number, line in enumerate(lines, 1):
        marker = _FENCE.match(line)
        heading = None if fence or marker else _HEADING.match(line)
        if marker or fence or heading or not line.strip() or _ITEM.match(line):
            yield from _cut(block, headings)
            block = []
        if marker:
            fence = "" if fence == marker[1] else fence or marker[1]
        elif heading:
            level = len(line.lstrip()) - len(line.lstrip().lstrip("#"))
            headings = {deep: told for deep, told in headings.items() if deep < level}
            headings[level] = heading["title"]
        elif not fence and line.strip():
            block.append((number, line))
    yield from _cut(block, headings)


def _cut(block: list[tuple[int, str]], headings: dict[int, str]) -> Iterator[Passage]:
    above = frozenset(stem for told in headings.values() for stem, _ in content_words(told))
    for first in range(0, len(block), QUOTE_LINES_MAX):
        part = block[first : first + QUOTE_LINES_MAX]
        text = "\n".join(line for _, line in part)
        words = Counter(stem for stem, _ in content_words(text))
        if words:
            yield Passage(part[0][0], text, words, above)
