"""What a synchronous handler can wait for: the same as an asynchronous one, in its own thread.

A thread cannot be cancelled. One that waits for longer than a second is let go: the `ctx` call in
which it waits raises `asyncio.CancelledError` (no `Exception`: let it pass), the handler ends, and
it is run again from its first line when the answer is there; its steps are found in the journal.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar, overload

from holdfast.agents.batches import batches
from holdfast.schemas.plan import Plan, PlanDocument, Task

if TYPE_CHECKING:
    from holdfast.agents.errors import CallFailed
    from holdfast.agents.execution import AskCall, Execution

__all__ = ["SyncWaits"]

R = TypeVar("R")
In = TypeVar("In")


class SyncWaits:
    """The part of `SyncContext` that waits."""

    _execution: Execution

    def patched(self, name: str) -> bool:
        """See `Context.patched`."""
        answer: bool = self._execution.drive_in_thread(self._execution.patched(name))
        return answer

    def emit(self, item: Any) -> None:
        """See `Context.emit`."""
        self.emit_many((item,))

    def emit_many(self, items: Iterable[Any]) -> None:
        """See `Context.emit_many`."""
        for batch in batches(items):
            self._execution.drive_in_thread(self._execution.emit(batch))

    def sleep(self, name: str, duration: float | timedelta, *, key: str = "") -> None:
        """See `Context.sleep`."""
        self._wait(self._execution.asking.sleep(name, duration, key))

    @overload
    def wait_for(
        self,
        signal: str,
        kind: type[R],
        *,
        timeout: float | timedelta | None = None,
        name: str | None = None,
        key: str = "",
    ) -> R: ...

    @overload
    def wait_for(
        self,
        signal: str,
        kind: None = None,
        *,
        timeout: float | timedelta | None = None,
        name: str | None = None,
        key: str = "",
    ) -> Any: ...

    def wait_for(
        self,
        signal: str,
        kind: type[Any] | None = None,
        *,
        timeout: float | timedelta | None = None,
        name: str | None = None,
        key: str = "",
    ) -> Any:
        """See `Context.wait_for`. Raises `SignalTimeout`."""
        asking = self._execution.asking
        return self._wait(asking.signal(signal, kind, timeout, name or signal, key))

    def call(
        self,
        task: Task[In, R] | str,
        given: In | Any = None,
        *,
        order_key: str | None = None,
        name: str | None = None,
        key: str = "",
    ) -> R:
        """See `Context.call`. Raises `CallFailed`."""
        full_name = task if isinstance(task, str) else task.full_name
        call = self._execution.asking.call(task, given, order_key, name or full_name, key)
        result: R = self._wait(call)
        return result

    def call_many(
        self,
        task: Task[In, R] | str,
        given: Iterable[In | Any],
        *,
        max_parallel: int = 16,
        name: str | None = None,
    ) -> list[R | CallFailed]:
        """See `Context.call_many`: they are worked at once, though the handler blocks."""
        from holdfast.agents.asking import ask_all

        execution = self._execution
        calls = execution.asking.call_many(task, given, name)
        return execution.on_loop(ask_all(execution, calls, max_parallel))

    def start_run(
        self,
        plan: Plan | PlanDocument,
        given: Any = None,
        *,
        run_id: str | None = None,
        detached: bool = False,
        name: str | None = None,
        key: str = "",
    ) -> Any:
        """See `Context.start_run`. Raises `RunFailed`."""
        step = (name or f"run-{plan.name}", key)
        asking = self._execution.asking
        return self._wait(asking.run(plan, given, run_id, step, detached=detached))

    def _wait(self, call: AskCall) -> Any:
        return self._execution.drive_in_thread(self._execution.ask(call))
