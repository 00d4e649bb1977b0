"""What stands in the shell blocks of the pages, held against the real commands.

`holdfast …` is parsed by the command line itself (without running anything), `make …` against the
Makefile, variables against those that the code reads.
"""

from __future__ import annotations

import importlib
import re
import shlex
from collections.abc import Iterator
from functools import cache
from typing import Any

import typer

from holdfast.cli.app import app, hoist
from holdfast.cli.settings import Settings
from holdfast.coordinator.settings import CoordinatorSettings
from holdfast.schemas.errors import ConfigurationError
from tests.docs.pages import ROOT, Block

__all__ = [
    "WrongCommand",
    "check_command",
    "command_lines",
    "settings_variables",
    "variables_in_code",
]

SHELLS = ("sh", "bash", "shell", "console")
OTHER_PROGRAMS = frozenset({"git", "cd", "kill", "curl", "export", "pip", "uv", "docker", "cat"})
"""Programs of others that the pages may name; what they are given is not looked at."""
EXAMPLES = ("examples.audit", "examples.research")
"""Modules with a command line of their own."""
SOURCES = ("agents", "bus", "coordinator", "schemas", "deploy", "examples", "benchmarks")
TEST_SUPPORT = ("tests/broker.py",)

_ASSIGNMENT = re.compile(r"(?P<name>[A-Za-z_][A-Za-z0-9_]*)=(?P<value>.*)", re.DOTALL)
_SEPARATORS = frozenset({"&&", "||", ";", "|", "&"})
_VARIABLE = re.compile(r"\bHOLDFAST_[A-Z][A-Z0-9_]*\b")


class WrongCommand(AssertionError):
    """A command in a page that the project does not have."""


def command_lines(block: Block) -> Iterator[tuple[int, str]]:
    """Yield (line, command) of a shell block; in `console` blocks those after a `$`."""
    if block.language not in SHELLS:
        return
    joined, first = "", 0
    for number, line in enumerate(block.text.splitlines(), block.line):
        if block.language == "console" and not joined:
            if not line.startswith("$ "):
                continue
            line = line[2:]
        first = first if joined else number
        if line.endswith("\\"):
            joined += line[:-1] + " "
            continue
        if (joined + line).strip():
            yield first, joined + line
        joined = ""


def check_command(line: str, *, spoken: bool = False) -> None:
    """Raise `WrongCommand` if something in `line` is not what the project has."""
    for words in _simple_commands(line):
        rest = list(_without_assignments(words))
        if not rest:
            continue
        program, arguments = rest[0], rest[1:]
        if program == "holdfast":
            check_holdfast(arguments, spoken=spoken)
        elif program == "make":
            _check_make(arguments)
        elif program == "python":
            _check_example(arguments)
        elif program == "export":
            list(_without_assignments(arguments))
        elif program not in OTHER_PROGRAMS:
            raise WrongCommand(f"{program!r} is no program that the pages may name: {line}")


def check_holdfast(arguments: list[str], *, spoken: bool = False) -> None:
    """Let the command line parse `arguments`, as far as the call of the command itself.

    `spoken`: what is missing does not matter, as in "see `holdfast run show`".
    """
    told = " ".join(["holdfast", *arguments])
    arguments = hoist(arguments)
    # Newer typers carry a click of their own: its classes are told by what they can do.
    command: Any = typer.main.get_command(app)
    context: Any = None
    name = "holdfast"
    try:
        while True:
            is_group = hasattr(command, "resolve_command")
            if is_group and not arguments:
                if spoken:
                    return
                raise WrongCommand(f"`{told}` names no command")
            context = command.make_context(name, list(arguments), parent=context)
            if not is_group:
                return
            rest = [*context._protected_args, *context.args]
            name, command, arguments = command.resolve_command(context, rest)
    except typer.Exit:
        return  # --help, --version
    except WrongCommand:
        raise
    except Exception as error:
        if spoken and type(error).__name__ == "MissingParameter":
            return
        message = error.format_message() if hasattr(error, "format_message") else str(error)
        raise WrongCommand(f"`{told}`: {message}") from None


@cache
def variables_in_code() -> frozenset[str]:
    """Return the `HOLDFAST_*` variables that the code reads: settings, and those it names."""
    paths = [path for folder in SOURCES for path in (ROOT / folder).rglob("*.py")]
    paths += [ROOT / name for name in TEST_SUPPORT]
    named = {name for path in paths for name in _VARIABLE.findall(path.read_text(encoding="utf-8"))}
    return frozenset(named | settings_variables())


@cache
def settings_variables() -> frozenset[str]:
    """Return the variables that hold settings."""
    return frozenset(
        f"{kind.model_config['env_prefix']}{field.upper()}"
        for kind in (Settings, CoordinatorSettings)
        for field in kind.model_fields
    )


@cache
def make_words() -> tuple[frozenset[str], frozenset[str]]:
    """Return the targets of the Makefile, and the variables that it uses."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^([a-z][a-z-]*):(?!=)", text, re.MULTILINE)
    return frozenset(targets), frozenset(re.findall(r"\$\((?:if \$\()?([A-Z]+)\)", text))


def _simple_commands(line: str) -> Iterator[list[str]]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;")
    lexer.whitespace_split = True
    lexer.commenters = "#"
    words: list[str] = []
    for word in lexer:
        if word in _SEPARATORS:
            yield words
            words = []
        else:
            words.append(word)
    yield words


def _without_assignments(words: list[str]) -> Iterator[str]:
    """Yield `words` from the program on; the variables set before it must be known ones."""
    before = True
    for word in words:
        assignment = _ASSIGNMENT.fullmatch(word) if before else None
        if assignment is None:
            before = False
            yield word
        elif assignment["name"].startswith("HOLDFAST_"):
            _check_variable(assignment["name"], assignment["value"])


def _check_variable(name: str, value: str) -> None:
    if name not in variables_in_code():
        raise WrongCommand(f"nothing reads the variable {name}")
    if name == "HOLDFAST_BUS":
        from holdfast.bus.settings import parse_bus_url

        given = {"HOLDFAST_KAFKA_USERNAME": "user", "HOLDFAST_KAFKA_PASSWORD": "secret"}
        try:
            parse_bus_url(value, given)
        except ConfigurationError as error:
            # The last thing that is checked: certificates in a page are the reader's, not ours.
            if not str(error).startswith("no file "):
                raise WrongCommand(f"{name}={value}: {error}") from None


def _check_example(arguments: list[str]) -> None:
    """Let an example's own command line parse what it is given."""
    module = arguments[1] if len(arguments) > 1 and arguments[0] == "-m" else ""
    if module not in EXAMPLES:
        raise WrongCommand(f"python may run {' or '.join(EXAMPLES)} only: {arguments}")
    parser = importlib.import_module(f"{module}.__main__").parser()
    try:
        parser.parse_args(arguments[2:])
    except SystemExit as ended:
        if ended.code:
            raise WrongCommand(f"`python {' '.join(arguments)}`: {parser.format_usage()}") from None


def _check_make(arguments: list[str]) -> None:
    targets, variables = make_words()
    for argument in arguments:
        assignment = _ASSIGNMENT.fullmatch(argument)
        if assignment is None and argument not in targets:
            raise WrongCommand(f"the Makefile has no target {argument!r}")
        if assignment is not None and assignment["name"] not in variables:
            raise WrongCommand(f"the Makefile has no variable {assignment['name']!r}")
