"""From an exception to a typed failure that fits into a record."""

from __future__ import annotations

import traceback
from pathlib import Path
from types import TracebackType

from holdfast.agents.errors import DefinitionError, Fatal, Parked, StepMismatch
from holdfast.schemas.records import Failure, FailureKind, RetryPolicy
from holdfast.schemas.retrying import NEVER, RETRY_AFTER_MAX_S, error_names, rule_for

__all__ = ["failure_of", "shortened", "text_of"]

MESSAGE_CHARS_MAX = 2_000
"""The longest message that a failure carries."""
MISMATCH_CHARS_MAX = 8_000
"""The same, of a task that is parked with a diff of its steps."""
TRACEBACK_CHARS_MAX = 12_000
"""The longest traceback that a failure carries: its frames nearest to the error are kept."""

_OWN_FOLDER = str(Path(__file__).parent)


def failure_of(error: BaseException, policy: RetryPolicy | None = None) -> Failure:
    """Return the failure that an exception of a handler becomes.

    Its traceback begins at the user's first frame; our own frames in front of it are left out. What
    the task's own `policy` never tries again is not retryable, whatever a plan says.
    """
    limit = MISMATCH_CHARS_MAX if isinstance(error, StepMismatch) else MESSAGE_CHARS_MAX
    failure = Failure(
        error.kind if isinstance(error, Parked) else FailureKind.ERROR,
        _printable(type(error).__qualname__),
        shortened(text_of(error), limit),
        _traceback(error),
        not isinstance(error, (Fatal, Parked, DefinitionError)),
        error_names(type(error)),
        _retry_after_ms(error),
    )
    if policy is not None and rule_for(policy, failure) == NEVER:
        failure.retryable = False
    return failure


def _retry_after_ms(error: BaseException) -> int | None:
    """Return what the exception says of when to try again; nonsense counts as nothing."""
    try:
        after_s = getattr(error, "retry_after_s", None)
        if isinstance(after_s, int | float) and not isinstance(after_s, bool) and after_s >= 0:
            return round(min(after_s, RETRY_AFTER_MAX_S) * 1000)
    except Exception:  # noqa: BLE001 a user's property may raise anything
        return None
    return None


def text_of(error: BaseException) -> str:
    """Return an exception's message; one whose `__str__` fails, or says nothing, is named."""
    try:
        return _printable(str(error) or type(error).__name__)
    except Exception:  # noqa: BLE001 a user's __str__ may raise anything
        return f"{type(error).__name__} (its text cannot be made)"


def _traceback(error: BaseException) -> str:
    try:
        lines = traceback.format_exception(type(error), error, _users_part(error.__traceback__))
    except Exception:  # noqa: BLE001 as above
        return ""
    return shortened("".join(lines), TRACEBACK_CHARS_MAX)


def _users_part(trace: TracebackType | None) -> TracebackType | None:
    first = trace
    while first is not None and first.tb_frame.f_code.co_filename.startswith(_OWN_FOLDER):
        first = first.tb_next
    return first


def _printable(text: str) -> str:
    """Return `text` as UTF-8 can hold it: file names and surrogates come as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def shortened(text: str, limit: int = MESSAGE_CHARS_MAX) -> str:
    """Return `text` as a record can hold it: in UTF-8, its middle left out if it is too long."""
    text = _printable(text)
    if len(text) <= limit:
        return text
    head = limit // 4
    tail = limit - head
    return f"{text[:head]}\n… {len(text) - limit} characters left out …\n{text[-tail:]}"
