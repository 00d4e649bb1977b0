"""Every test that a page names is there, and every row of the failure contract names one.

A page names a test by its pytest id, in code, or by a link to its file whose words are the test's
name without `test_`. Both are looked up in the syntax tree; nothing is run or imported.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

from tests.docs.pages import ROOT

PROTOCOL = ROOT / "docs" / "protocol-tests.md"
GUARANTEES = ROOT / "docs" / "guarantees.md"

NODE_ID = re.compile(r"`(?P<path>tests/[\w/]+\.py)::(?P<name>[\w:]+)`")
LINK = re.compile(r"\[(?P<words>[^\]]+)\]\((?P<path>[^)#\s]*/tests/[\w/]+\.py)\)")
TRAPS = 20


@cache
def defined_in(path: Path) -> frozenset[str]:
    """Return the tests of a file: `test_x`, and `TestClass::test_x`."""
    if not path.is_file():
        return frozenset()
    body = ast.parse(path.read_text(encoding="utf-8")).body
    found = functions(body)
    for node in body:
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}::{name}" for name in functions(node.body)}
    return frozenset(found)


def functions(body: list[ast.stmt]) -> set[str]:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {n.name for n in body if isinstance(n, kinds) and n.name.startswith("test_")}


def named(text: str, folder: Path) -> list[tuple[Path, str]]:
    """Return (file, test) for each test that `text`, of a page in `folder`, names."""
    ids = [(ROOT / found["path"], found["name"]) for found in NODE_ID.finditer(text)]
    links = [
        ((folder / found["path"]).resolve(), "test_" + found["words"].replace(" ", "_"))
        for found in LINK.finditer(text)
    ]
    return ids + links


def missing(text: str, folder: Path) -> list[str]:
    return [
        f"{path.name}::{name}" for path, name in named(text, folder) if name not in defined_in(path)
    ]


def rows(text: str, heading: str) -> list[str]:
    """Return the rows of the table under `heading`, without its head."""
    section = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return [line for line in section.splitlines() if line.startswith("|")][2:]


def test_every_test_that_a_page_names_is_there() -> None:
    for page in (PROTOCOL, GUARANTEES):
        text = page.read_text(encoding="utf-8")
        assert named(text, page.parent)
        assert missing(text, page.parent) == [], page.name


def test_every_rule_of_the_buses_names_a_test() -> None:
    text = PROTOCOL.read_text(encoding="utf-8")
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    for heading in headings:
        assert rows(text, heading), heading
        for row in rows(text, heading):
            assert named(row, PROTOCOL.parent), row
    traps = rows(text, "Kafka: the traps of its client")
    assert [row.split(".")[0] for row in traps] == [f"| {n + 1}" for n in range(TRAPS)]


def test_every_row_of_the_failure_contract_links_to_the_test_that_holds_it() -> None:
    found = rows(GUARANTEES.read_text(encoding="utf-8"), "Failure by failure")
    assert len(found) > 40
    for row in found:
        assert named(row.split("|")[-2], GUARANTEES.parent), row


def test_a_test_that_is_gone_is_found() -> None:
    here = "tests/docs/test_named_tests.py"
    text = (
        f"`{here}::test_a_test_that_is_gone_is_found` `{here}::test_gone` "
        "`tests/no/file.py::test_x` "
        f"[a test that is gone is found](../{here}) [gone too](../{here}) [not a test](page.md)"
    )
    assert missing(text, ROOT / "docs") == [
        "test_named_tests.py::test_gone",
        "file.py::test_x",
        "test_named_tests.py::test_gone_too",
    ]
