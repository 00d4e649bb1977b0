"""Whether a failed attempt is followed by another, and when: pure arithmetic over a policy.

Failures are counted by the policy that they fall under. The counts of `by_error` stand in the task
(`TaskEntry.failed_by`); all others fall under the task's own policy, whose count is what is left of
its attempts. So a task that was told to wait forty times by a busy service still has all its own
attempts for what may go wrong next.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from holdfast.schemas.records import ErrorRetry, Failure, RetryPolicy, TaskEntry
from holdfast.schemas.retrying import NEVER, RETRY_AFTER_MAX_S, rule_for

__all__ = ["NextAttempt", "backoff_ms", "next_attempt"]

_OUTAGE_FAILURE = 1
"""Outages are not counted: each is waited for as a first failure is, unless its breaker says."""


@dataclass(frozen=True, slots=True)
class NextAttempt:
    """Another attempt, `delay_ms` from now. `why` is for people."""

    delay_ms: int
    attempts_base: int
    failed_by: dict[str, int]
    why: str


def next_attempt(
    policy: RetryPolicy, run_id: str, entry: TaskEntry, failure: Failure
) -> NextAttempt | None:
    """Return what follows a failed attempt of `entry`; None: nothing, its attempts are used up."""
    found = rule_for(policy, failure)
    if not failure.retryable or found == NEVER:
        return None
    rule = found if isinstance(found, ErrorRetry) else None
    row, base, failed_by = entry.row, entry.attempts_base, dict(entry.failed_by)
    if failure.breaker is not None:
        number, base = _OUTAGE_FAILURE, base + 1
    elif rule is not None:
        number = failed_by[rule.error] = failed_by.get(rule.error, 0) + 1
    else:
        number = row.attempt - base - sum(failed_by.values())
    chosen = rule or policy
    if failure.breaker is None and number >= chosen.attempts:
        return None
    if failure.retry_after_ms is not None:
        delay_ms = _asked_ms(chosen, run_id, row.task_id, row.attempt, failure.retry_after_ms)
    else:
        delay_ms = backoff_ms(chosen, run_id, row.task_id, row.attempt, row.attempt - number)
    why = _why(failure, rule, number, chosen.attempts, delay_ms)
    # In one order whatever came first: a restored state has the same digest.
    return NextAttempt(delay_ms, base, dict(sorted(failed_by.items())), why)


def backoff_ms(
    policy: RetryPolicy | ErrorRetry, run_id: str, task_id: str, attempt: int, base: int
) -> int:
    """Return how long to wait after `attempt` failed, in milliseconds.

    initial * factor^(n-1), at most max, n counted from `base`, the last attempt that does not count
    for this policy; jittered up and down by a share that depends on run, task and attempt alone:
    the engine draws no lots, and a restored slot decides the same.
    """
    # The exponent is bounded before the power is taken: 10,000 attempts overflow a float.
    exponent = min(attempt - base - 1, 64)
    delay = min(policy.initial_ms * policy.factor**exponent, float(policy.max_ms))
    digest = _digest(run_id, task_id, attempt)
    share = int.from_bytes(digest[:8], "big") / 2**64 * 2 - 1
    return max(0, round(delay * (1 + policy.jitter * share)))


def _asked_ms(
    policy: RetryPolicy | ErrorRetry, run_id: str, task_id: str, attempt: int, after_ms: int
) -> int:
    """Return the wait that was asked for; jittered only upwards, for no one may come earlier."""
    asked = min(max(0, after_ms), RETRY_AFTER_MAX_S * 1_000)
    share = int.from_bytes(_digest(run_id, task_id, attempt)[:8], "big") / 2**64
    return round(asked * (1 + policy.jitter * share))


def _digest(run_id: str, task_id: str, attempt: int) -> bytes:
    return hashlib.sha256(f"{run_id}/{task_id}/{attempt}".encode()).digest()


def _why(
    failure: Failure, rule: ErrorRetry | None, number: int, attempts: int, delay_ms: int
) -> str:
    what = failure.error_class or str(failure.kind)
    when = f"another attempt in {delay_ms / 1_000:.1f} s"
    if failure.breaker is not None:
        return f"{what}: {failure.breaker!r} is out of reach; {when}, this one is not counted"
    by = "" if rule is None else f" by the policy for {rule.error}"
    asked = "" if failure.retry_after_ms is None else ", as it asks for"
    return f"{what}, failure {number} of {attempts}{by}; {when}{asked}"
