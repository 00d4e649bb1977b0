"""The project's pages, taken apart: fenced blocks, headings, links, words of inline code.

A block that is not to be run says why, in an HTML comment on the line before it:

    <!-- not run: needs a Kafka cluster with TLS -->
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

__all__ = ["ROOT", "Block", "anchors", "blocks", "inline_code", "links", "page_id", "pages"]

ROOT = Path(__file__).resolve().parents[2]

_FENCE = re.compile(r"^(?P<indent> *)(?P<fence>```+|~~~+)(?P<language>[\w+-]*)")
_NOT_RUN = re.compile(r"^\s*<!--\s*not run:\s*(?P<reason>.+?)\s*-->\s*$")
_HEADING = re.compile(r"^#{1,6}\s+(?P<title>.+?)\s*#*$")
_LINK = re.compile(r"!?\[[^\]]*\]\((?P<target>[^)\s]+)\)")
_INLINE = re.compile(r"(?<!`)`(?P<code>[^`\n]+)`(?!`)")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block. `line` is that of its first line of code, from 1."""

    page: Path
    line: int
    language: str
    text: str
    not_run: str | None

    @property
    def place(self) -> str:
        """`docs/page.md:12`, as editors understand it."""
        return f"{page_id(self.page)}:{self.line}"


@cache
def pages() -> tuple[Path, ...]:
    """Return all Markdown pages of the project, those that are not committed yet included."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return tuple(sorted(p for line in listed.stdout.splitlines() if (p := ROOT / line).is_file()))


def page_id(page: Path) -> str:
    """Return the page's path in the project: what a test is called by."""
    return str(page.relative_to(ROOT)) if page.is_relative_to(ROOT) else page.name


def blocks(page: Path) -> Iterator[Block]:
    """Yield the fenced blocks of `page`, in order."""
    lines = page.read_text(encoding="utf-8").splitlines()
    number = 0
    while number < len(lines):
        opening = _FENCE.match(lines[number])
        number += 1
        if opening is None:
            continue
        first = number
        while number < len(lines) and not _closes(lines[number], opening["fence"]):
            number += 1
        indent = len(opening["indent"])
        text = "\n".join(line[indent:] for line in lines[first:number])
        reason = _NOT_RUN.match(lines[first - 2]) if first >= 2 else None
        yield Block(
            page, first + 1, opening["language"], text, reason["reason"] if reason else None
        )
        number += 1


def inline_code(page: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, code) of each span of inline code."""
    for number, line in _prose(page):
        for span in _INLINE.finditer(line):
            yield number, span["code"]


def links(page: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, target) of each link and image."""
    for number, line in _prose(page):
        for link in _LINK.finditer(_INLINE.sub("", line)):
            yield number, link["target"]


def anchors(page: Path) -> frozenset[str]:
    """Return the anchors that GitHub makes of the headings of `page`."""
    found: list[str] = []
    for _, line in _prose(page):
        heading = _HEADING.match(line)
        if heading is None:
            continue
        name = re.sub(r"[^\w\- ]", "", heading["title"].lower()).replace(" ", "-")
        again = sum(1 for known in found if known == name or known.startswith(f"{name}-dup"))
        found.append(f"{name}-dup{again}" if again else name)
    return frozenset(name.replace("-dup", "-") for name in found)


def _closes(line: str, fence: str) -> bool:
    return line.strip().startswith(fence) and not line.strip().strip(fence[0])


def _prose(page: Path) -> Iterator[tuple[int, str]]:
    """Yield the numbered lines that stand in no fenced block."""
    fence: str | None = None
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        if fence is not None:
            fence = None if _closes(line, fence) else fence
            continue
        opening = _FENCE.match(line)
        if opening is not None:
            fence = opening["fence"]
            continue
        yield number, line
