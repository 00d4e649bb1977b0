"""The rules of the house, held by a test. They only tighten."""

from __future__ import annotations

import ast
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILE_LINES_MAX = 500
FUNCTION_LINES_MAX = 70
PARAMETERS_MAX = 6
NAMELESS = re.compile(r"(utils|helpers|misc|common)\.py$")


@cache
def python_files() -> tuple[Path, ...]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return tuple(p for line in listed.stdout.split() if (p := ROOT / line).exists())


def functions(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]


def source(path: Path) -> bool:
    return path.relative_to(ROOT).parts[0] in {"agents", "bus", "coordinator", "schemas"}


def test_there_is_something_to_look_at() -> None:
    assert sum(map(source, python_files())) > 30


def test_files_are_short_and_their_names_say_something() -> None:
    long = [
        f"{p.relative_to(ROOT)}: {lines} lines"
        for p in python_files()
        if (lines := p.read_text(encoding="utf-8").count("\n")) > FILE_LINES_MAX
    ]
    assert not long
    assert not [p for p in python_files() if NAMELESS.search(p.name)]


def test_functions_are_short() -> None:
    assert not [
        f"{p.relative_to(ROOT)}:{f.lineno} {f.name}: {f.end_lineno - f.lineno + 1} lines"
        for p in python_files()
        for f in functions(p)
        if f.end_lineno is not None and f.end_lineno - f.lineno + 1 > FUNCTION_LINES_MAX
    ]


def test_functions_take_few_parameters() -> None:
    # Command-line functions take one parameter per option: typer's own form. They are thin.
    crowded = []
    for path in filter(source, python_files()):
        if "cli" in path.parts:
            continue
        for function in functions(path):
            arguments = function.args
            names = [a.arg for a in (*arguments.posonlyargs, *arguments.args)]
            names = [n for n in names if n not in ("self", "cls")]
            if len(names) > PARAMETERS_MAX:
                crowded.append(f"{path.relative_to(ROOT)}:{function.lineno} {function.name}")
    assert not crowded


def test_no_class_is_called_manager() -> None:
    assert not [
        f"{p.relative_to(ROOT)}:{n.lineno} {n.name}"
        for p in filter(source, python_files())
        for n in ast.walk(ast.parse(p.read_text(encoding="utf-8")))
        if isinstance(n, ast.ClassDef) and n.name.endswith(("Manager", "Helper"))
    ]


def test_nothing_is_left_open_in_the_source() -> None:
    open_ends = re.compile(r"\b(TODO|FIXME|XXX|NotImplementedError)\b")
    assert not [
        f"{p.relative_to(ROOT)}:{number}"
        for p in filter(source, python_files())
        for number, line in enumerate(p.read_text(encoding="utf-8").splitlines(), 1)
        if open_ends.search(line)
    ]


def test_no_namespace_package_has_an_init() -> None:
    assert not [
        r
        for r in ("agents", "bus", "coordinator", "schemas")
        if (ROOT / r / "holdfast/__init__.py").exists()
    ]


@pytest.mark.parametrize("word", ["/work/", "/root/", "pip-cache", "index-url"])
def test_no_machine_path_or_registry_address_is_committed(word: str) -> None:
    found = subprocess.run(
        ["git", "grep", "-l", "--fixed-strings", word, "--", ".", ":!tests/unit/test_tidy.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert not found.stdout
