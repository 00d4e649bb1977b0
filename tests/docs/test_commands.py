"""Commands in the pages exist, with the options and arguments that the pages give them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.commands import WrongCommand, check_command, command_lines, variables_in_code
from tests.docs.pages import Block, blocks, inline_code, page_id, pages

VARIABLE = re.compile(r"\bHOLDFAST_[A-Z][A-Z0-9_]*[A-Z0-9]\b")
COMMAND = re.compile(r"(make|holdfast) [a-z]")


@pytest.fixture(autouse=True)
def files_that_pages_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands are parsed in a folder where the files of the examples exist."""
    monkeypatch.chdir(tmp_path)
    for name in ("hello.py", "plan.yaml", "plan.json", "reviewer.py", "input.json"):
        (tmp_path / name).touch()


@pytest.mark.parametrize("page", pages(), ids=page_id)
def test_commands_in_blocks_exist(page: Path) -> None:
    wrong = []
    for block in blocks(page):
        for line, command in command_lines(block):
            if block.not_run is None and (complaint := complaint_of(command)):
                wrong.append(f"{page_id(page)}:{line}: {complaint}")
    assert not wrong


@pytest.mark.parametrize("page", pages(), ids=page_id)
def test_commands_in_the_text_exist(page: Path) -> None:
    wrong = []
    for line, code in inline_code(page):
        # `holdfast run show|history ID` and `holdfast dev …` speak of commands, not to a shell.
        pattern = any(sign in code for sign in ("|", "…", "...", "[", "<"))
        if COMMAND.match(code) and not pattern and (complaint := complaint_of(code, spoken=True)):
            wrong.append(f"{page_id(page)}:{line}: {complaint}")
    assert not wrong


@pytest.mark.parametrize("page", pages(), ids=page_id)
def test_variables_exist(page: Path) -> None:
    named = set(VARIABLE.findall(page.read_text(encoding="utf-8")))
    assert not named - variables_in_code()


def complaint_of(command: str, *, spoken: bool = False) -> str | None:
    try:
        check_command(command, spoken=spoken)
    except (WrongCommand, ValueError) as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    "command",
    [
        "make dmeo",
        "make demo SPEED=1",
        "holdfast dve hello.py",
        "holdfast dev hello.py --rum greeter.greet",
        "HOLDFAST_BUSS=sqlite:///x holdfast runs",
        "HOLDFAST_BUS=kafka://localhost:9092?tsl=true holdfast runs",
        "cd x && holdfast rnus",
        "holdfats runs",
        "python -m examples.research",
        "python -m examples.research 'Why?' docs --victim nobody",
        "python -m examples.nothing",
        "python -c 1",
    ],
)
def test_a_wrong_command_is_found(command: str) -> None:
    with pytest.raises(WrongCommand):
        check_command(command)


@pytest.mark.parametrize(
    "command",
    [
        "make demo KILL=1 PACE=0.2",
        "git clone https://example.org/x && cd x && make test",
        "HOLDFAST_BUS=kafka://localhost:9092 holdfast runs --json  # all of them",
        "export HOLDFAST_BUS='kafka://a:1?tls=true&tls_ca=/no/such/file'",
        "kill -9 4711",
        "make research QUESTION='Why?' FOLDER=docs KILL=1 VICTIM=coordinator",
        "python -m examples.research 'Why?' docs --kill --bus kafka",
    ],
)
def test_a_right_command_passes(command: str) -> None:
    check_command(command)


def test_commands_are_found_in_blocks(tmp_path: Path) -> None:
    text = "$ make demo \\\n    KILL=1\nits answer\n$ holdfast runs"
    block = Block(tmp_path / "page.md", 10, "console", text, None)
    found = [(line, " ".join(command.split())) for line, command in command_lines(block)]
    assert found == [(10, "make demo KILL=1"), (13, "holdfast runs")]
