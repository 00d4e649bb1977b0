"""From an exception to one or two lines and an exit code: the only place that decides both."""

from __future__ import annotations

import sys
import traceback
from enum import IntEnum

from holdfast.schemas.errors import ConfigurationError, HoldfastError

__all__ = ["BadInput", "ExitCode", "NotThere", "exit_code", "report"]


class ExitCode(IntEnum):
    """What scripts may rely on; documented in docs/howto/command-line.md."""

    OK = 0
    RUN_FAILED = 1
    """The command did its work; the run it waited for failed or was cancelled, or what it tested
    (`replay-test`) does not fit."""
    BAD_INPUT = 2
    """Something given (a flag, a file, a setting, an address) cannot be used; nothing was done."""
    TIMEOUT = 3
    """The wait is over or the bus went away; what was sent stays sent."""
    NOT_FOUND = 4
    """No such run, dead letter, agent, schema or schedule."""
    UNEXPECTED = 70
    """A fault of Holdfast."""
    RESTART = 75
    """A service ended itself so that its supervisor starts it again."""
    INTERRUPTED = 130


class BadInput(ConfigurationError):
    """Something that was typed cannot be used."""


class NotThere(HoldfastError):
    """What was asked for does not exist."""


def exit_code(error: BaseException) -> ExitCode:
    """Return the exit code that an exception stands for."""
    from holdfast.bus.errors import BusUnavailable, OffsetOutOfRange, OutcomeUnknown
    from holdfast.client.errors import (
        ClientClosed,
        EventsLost,
        RunFailed,
        RunNotFound,
        ScheduleNotFound,
        WaitTimeout,
    )

    if isinstance(error, KeyboardInterrupt):
        return ExitCode.INTERRUPTED
    if isinstance(error, RunFailed):
        return ExitCode.RUN_FAILED
    if isinstance(error, (NotThere, RunNotFound, ScheduleNotFound)):
        return ExitCode.NOT_FOUND
    later = (
        WaitTimeout,
        BusUnavailable,
        EventsLost,
        ClientClosed,
        OutcomeUnknown,
        OffsetOutOfRange,
    )
    if isinstance(error, later):
        return ExitCode.TIMEOUT
    if isinstance(error, HoldfastError):
        return ExitCode.BAD_INPUT
    return ExitCode.UNEXPECTED


def report(error: BaseException, *, debug: bool) -> ExitCode:
    """Say on stderr what happened; return the exit code. A traceback only with `debug`."""
    code = exit_code(error)
    if debug and code is not ExitCode.INTERRUPTED:
        traceback.print_exception(error, file=sys.stderr)
    elif code is ExitCode.UNEXPECTED:
        what = f"{type(error).__name__}: {error}".strip()
        print(  # noqa: T201
            f"holdfast: unexpected error: {what}\n"
            "Run it again with --debug and report what it prints.",
            file=sys.stderr,
        )
    elif code is not ExitCode.INTERRUPTED:
        print(f"holdfast: {error}", file=sys.stderr)  # noqa: T201
    return code
