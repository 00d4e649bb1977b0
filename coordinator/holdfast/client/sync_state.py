"""Keyed state without `await`: what `SyncClient.state` and the simulation give."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, overload

from holdfast.client.run import COMMAND_WAIT_S
from holdfast.client.state import KeyState, StateDeleted, StatePlace

__all__ = ["SyncKeyState"]

T = TypeVar("T")


class SyncKeyState:
    """See `KeyState`, whose methods it has. `call` carries out a coroutine."""

    def __init__(self, state: KeyState, call: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self._state = state
        self._call = call

    def __repr__(self) -> str:
        return f"<SyncKeyState {self._state.agent!r} {self._state.order_key!r}>"

    def places(self) -> dict[str, StatePlace]:
        """See `KeyState.places`."""
        found: dict[str, StatePlace] = self._call(self._state.places())
        return found

    def documents(self) -> dict[str, Any]:
        """See `KeyState.documents`."""
        found: dict[str, Any] = self._call(self._state.documents())
        return found

    @overload
    def get(self, name: str) -> Any: ...

    @overload
    def get(self, name: str, kind: type[T]) -> T | None: ...

    def get(self, name: str, kind: Any = None) -> Any:
        """See `KeyState.get`."""
        return self._call(self._state.get(name, kind))

    def delete(
        self, name: str | None = None, *, reason: str, timeout_s: float = COMMAND_WAIT_S
    ) -> StateDeleted:
        """See `KeyState.delete`."""
        deleting = self._state.delete(name, reason=reason, timeout_s=timeout_s)
        deleted: StateDeleted = self._call(deleting)
        return deleted
