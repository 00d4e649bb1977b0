"""Python in the pages runs, and does what the pages say."""

from __future__ import annotations

import ast
import inspect
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.docs.commands import command_lines
from tests.docs.pages import ROOT, Block, blocks, page_id, pages
from tests.docs.program import (
    awaits,
    compiled,
    holdfast_command,
    load,
    python_blocks,
    run,
    served,
)

HELLO_LINES_MAX = 12
WITH_PYTHON = [page for page in pages() if python_blocks(page)]


@pytest.fixture
def variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A folder of its own, where a bus of its own is the default one."""
    monkeypatch.chdir(tmp_path)
    own = {
        "HOLDFAST_BUS": f"sqlite:///{tmp_path}/bus.db",
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    return own


@pytest.mark.parametrize("page", WITH_PYTHON, ids=page_id)
async def test_python_in_blocks_runs(page: Path, tmp_path: Path, variables: dict[str, str]) -> None:
    module = load(page, tmp_path)
    for name, test in list(vars(module).items()):
        if name.startswith("test_") and inspect.isfunction(test):
            result = test()
            if inspect.isawaitable(result):
                await result
    asking = [block for block in python_blocks(page) if awaits(block)]
    if asking:
        assert module.__file__ is not None
        with served(Path(module.__file__), variables):
            for block in asking:
                await run(block, vars(module))


def test_every_block_says_what_language_it_is_in() -> None:
    assert not [block.place for page in pages() for block in blocks(page) if not block.language]


# --- hello world


def hello() -> Block:
    return next(b for b in python_blocks(ROOT / "README.md"))


def test_hello_world_is_short_and_is_the_example() -> None:
    text = hello().text
    written = [line for line in text.splitlines() if line.strip()]
    assert len(written) <= HELLO_LINES_MAX
    example = (ROOT / "examples/hello.py").read_text(encoding="utf-8")
    assert ast.dump(ast.parse(text)) == ast.dump(ast.parse(example))


@pytest.mark.acceptance
def test_hello_world_greets(tmp_path: Path, variables: dict[str, str]) -> None:
    commands = [
        shlex.split(line)
        for block in blocks(ROOT / "README.md")
        for _, line in command_lines(block)
        if line.startswith("holdfast dev hello.py")
    ]
    (tmp_path / "hello.py").write_text(hello().text, encoding="utf-8")
    answer = subprocess.run(
        holdfast_command(*commands[0][1:]),
        cwd=tmp_path,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    assert re.search(r"Hello, Ada!", answer.stdout)


# --- the harness itself


def block(text: str, tmp_path: Path) -> Block:
    return Block(tmp_path / "page.md", 7, "python", text, None)


def test_a_block_that_fails_is_named_by_its_line(tmp_path: Path) -> None:
    with pytest.raises(SyntaxError) as caught:
        compiled(block("x = 1\nx = = 2", tmp_path))
    assert caught.value.filename == "page.md:7"


def test_blocks_that_await_are_told_from_others(tmp_path: Path) -> None:
    assert awaits(block("x = await f()", tmp_path))
    assert not awaits(block("async def g():\n    await f()", tmp_path))


def test_blocks_of_a_page_are_one_module(tmp_path: Path) -> None:
    page = tmp_path / "some-page.md"
    page.write_text(
        "```python\nx = 1\n```\n<!-- not run: it would fail -->\n```python\nraise ValueError\n```\n"
        "```sh\nnot python\n```\n```python\ny = x + 1\n```\n"
    )
    assert load(page, tmp_path).y == 2
