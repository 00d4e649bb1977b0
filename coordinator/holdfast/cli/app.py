"""The application: its commands, the flags before and after them, and the way out."""

from __future__ import annotations

import sys
from typing import Annotated, Any, NoReturn

import typer

from holdfast.cli.commands import (
    bulk,
    catalog,
    health,
    letters,
    runs,
    schedules,
    services,
    state,
    versions,
    waiting,
)
from holdfast.cli.failures import ExitCode, report
from holdfast.cli.invocation import Invocation

__all__ = ["app", "hoist", "run"]

GLOBAL_FLAGS = ("--bus", "--namespace", "--partitions", "--blobs", "--log-level")
GLOBAL_SWITCHES = ("--debug",)
# Click's root of what is wrong with arguments: newer versions of typer bring a click of their own.
_USAGE_ERROR: Any = next(
    kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException"
)

app = typer.Typer(
    name="holdfast",
    help="Runs plans of tasks over agents, without losing their place.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
services.register(app)
runs.register(app)
schedules.register(app)
waiting.register(app)
letters.register(app)
bulk.register(app)
state.register(app)
versions.register(app)
catalog.register(app)
health.register(app)


@app.callback()
def _flags(
    context: typer.Context,
    bus: Annotated[
        str | None,
        typer.Option(help="sqlite:///path or kafka://host:port,… (HOLDFAST_BUS)."),
    ] = None,
    namespace: Annotated[
        str | None, typer.Option(help="Prefix of all topics (HOLDFAST_NAMESPACE).")
    ] = None,
    partitions: Annotated[
        int | None, typer.Option(help="Of topics that are created (HOLDFAST_PARTITIONS).")
    ] = None,
    blobs: Annotated[
        str | None, typer.Option(help="Store of large payloads: file:///… (HOLDFAST_BLOBS).")
    ] = None,
    log_level: Annotated[
        str | None, typer.Option(help="debug, info, warning or error (HOLDFAST_LOG_LEVEL).")
    ] = None,
    debug: Annotated[bool, typer.Option(help="Show tracebacks.")] = False,
) -> None:
    """Hold the flags that every command takes; they may stand before or after it."""
    flags = {
        "bus": bus,
        "namespace": namespace,
        "partitions": partitions,
        "blobs": blobs,
        "log_level": log_level,
    }
    context.obj = Invocation(flags, debug)


def hoist(arguments: list[str]) -> list[str]:
    """Return the arguments with the flags that every command takes put before the command.

    So `holdfast runs --bus …` means what it says. What follows `--` stays.
    """
    front: list[str] = []
    rest: list[str] = []
    index = 0
    while index < len(arguments):
        argument = arguments[index]
        if argument == "--":
            rest += arguments[index:]
            break
        if argument in GLOBAL_FLAGS and index + 1 < len(arguments):
            front += [argument, arguments[index + 1]]
            index += 1
        elif argument in GLOBAL_SWITCHES or argument.partition("=")[0] in GLOBAL_FLAGS:
            front.append(argument)
        else:
            rest.append(argument)
        index += 1
    return front + rest


def run(arguments: list[str] | None = None) -> NoReturn:
    """Run a command and end the process with its exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    sys.exit(_invoke(hoist(given)))


def _say_misuse(error: Any) -> None:
    """Say in one line what is wrong with the arguments; help that was asked for stands whole."""
    context = getattr(error, "ctx", None)
    if context is None or type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        return
    message = error.format_message().replace("\n", " ").rstrip(".")
    print(f"holdfast: {message}; see {context.command_path} --help", file=sys.stderr)  # noqa: T201


def _invoke(arguments: list[str]) -> int:
    debug = "--debug" in arguments
    try:
        answer: Any = app(arguments, prog_name="holdfast", standalone_mode=False)
    except typer.Exit as ending:
        return int(ending.exit_code)
    except typer.Abort:
        return ExitCode.INTERRUPTED
    except _USAGE_ERROR as error:
        _say_misuse(error)
        return ExitCode.BAD_INPUT
    except BrokenPipeError:
        # Whoever read our output has seen enough (`holdfast runs | head`).
        sys.stderr.close()
        return ExitCode.OK
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the one place where all of them end
        return report(error, debug=debug)
    return int(answer) if isinstance(answer, int) else ExitCode.OK
