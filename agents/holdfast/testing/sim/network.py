"""Between a client and the broker: every request takes its time, and may never be answered.

A request is two messages, there and back. What a fault may do to it is one `Fate`; who decides is
the broker's `fates`, a list of functions, the first that answers wins. A request on its way goes on
its way though its sender has died meanwhile, as packets do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

from holdfast.bus.errors import BusUnavailable

__all__ = ["Fate", "Hold", "Link", "Network", "Request", "RequestKind", "settle"]


class RequestKind(Enum):
    """What is asked of the broker."""

    OPEN_WRITER = "open-writer"
    PRODUCE = "produce"
    END = "end-transaction"
    PUBLISH = "publish"
    JOIN = "join"
    LEAVE = "leave"
    HEARTBEAT = "heartbeat"
    READ = "read"
    ADMIN = "admin"


class Fate(Enum):
    """What becomes of a request."""

    PASS = "arrives and is answered"  # noqa: S105
    LOSE_REQUEST = "never arrives; the client sees its connection break"
    LOSE_REPLY = "takes effect; the client sees its connection break"
    HANG_REQUEST = "never arrives, and the client hears nothing"
    HANG_REPLY = "takes effect, and the client hears nothing"
    DELAY = "arrives late: the client has given up by then, or nearly"


class Scheduler(Protocol):
    """Calls back later; the network's own time, which no crash of a process touches."""

    def call_later(self, delay: float, callback: Callable[..., Any], *args: Any) -> Any:
        """See asyncio."""
        ...


@dataclass
class Link:
    """One client's end of the network."""

    name: str
    loop: asyncio.AbstractEventLoop
    dead: bool = False
    """The process behind it is gone: nothing is delivered to it, nothing is taken from it."""
    frozen: bool = False
    """Stands still (SIGSTOP): what is for it, and what it wants to say, waits in `held`."""
    held: list[Callable[[], None]] = field(default_factory=list)

    def thaw(self) -> None:
        """Let everything that waited pass."""
        self.frozen = False
        held, self.held = self.held, []
        for action in held:
            action()


@dataclass
class Request:
    """One request under way. `apply` runs at the broker and returns the answer or raises it."""

    kind: RequestKind
    link: Link
    apply: Callable[[], Any]
    answer: asyncio.Future[Any]
    subject: Any = None
    """What it is about, for those who decide its fate: a slot, a group, a topic."""


@dataclass(eq=False)
class Hold:
    """Requests that stand still at the broker's door; their clients wait, or give up."""

    wants: Callable[[Request], bool]
    held: list[tuple[Request, Fate]] = field(default_factory=list)


class Network:
    """Carries requests. `delay_s` draws how long one way takes."""

    def __init__(
        self, scheduler: Callable[[], Scheduler], delay_s: Callable[[], float], late_s: float
    ) -> None:
        self._scheduler = scheduler
        self._delay_s = delay_s
        self._late_s = late_s
        self._waiting: list[tuple[Request, Fate]] = []
        self.away = False
        """Whether the broker answers nobody. Requests wait at its door while their clients do."""
        self.fates: list[Callable[[Request], Fate | None]] = []
        self.watchers: list[Callable[[Request, str], None]] = []
        """Called with each request and "arrived", "applied" or "answered"."""
        self._holds: list[Hold] = []

    def send(self, request: Request) -> None:
        """Put a request on its way."""
        link = request.link
        if link.dead:
            return
        if link.frozen:
            link.held.append(lambda: self.send(request))
            return
        fate = self._fate(request)
        if fate is Fate.LOSE_REQUEST:
            self._later(self._break, request, BusUnavailable("the connection broke"))
        elif fate is not Fate.HANG_REQUEST:
            delay_s = self._delay_s() + (self._late_s if fate is Fate.DELAY else 0.0)
            self._scheduler().call_later(delay_s, self._arrive, request, fate)

    def tell(self, link: Link, hear: Callable[[], None]) -> None:
        """Bring word from the broker to a client, as one callback on its loop."""

        def deliver() -> None:
            if link.frozen:
                link.held.append(deliver)
            elif not link.dead:
                link.loop.call_soon(hear)

        self._later(deliver)

    def comes_back(self) -> None:
        """The broker is back: those who still wait are served."""
        self.away = False
        waiting, self._waiting = self._waiting, []
        for request, fate in waiting:
            if not request.answer.done() and not request.link.dead:
                self._later(self._arrive, request, fate)

    def hold(self, wants: Callable[[Request], bool]) -> Hold:
        """Let requests that `wants` names stand still at the broker's door until `release`."""
        hold = Hold(wants)
        self._holds.append(hold)
        return hold

    def release(self, hold: Hold) -> None:
        """Let what `hold` has kept go on; again and again is harmless."""
        if hold in self._holds:
            self._holds.remove(hold)
        held, hold.held = hold.held, []
        for request, fate in held:
            self._later(self._arrive, request, fate)

    def _fate(self, request: Request) -> Fate:
        for decide in self.fates:
            if (fate := decide(request)) is not None:
                return fate
        return Fate.PASS

    def _later(self, action: Callable[..., None], *args: Any) -> None:
        self._scheduler().call_later(self._delay_s(), action, *args)

    def _arrive(self, request: Request, fate: Fate) -> None:
        if self.away:
            self._waiting.append((request, fate))
            return
        if (hold := next((h for h in self._holds if h.wants(request)), None)) is not None:
            hold.held.append((request, fate))
            return
        self._tell(request, "arrived")
        error: BaseException | None = None
        value: Any = None
        try:
            value = request.apply()
        except Exception as raised:  # noqa: BLE001 the answer to the request
            error = raised
        self._tell(request, "applied")
        if fate is Fate.LOSE_REPLY:
            self._later(self._break, request, BusUnavailable("the connection broke"))
        elif fate is not Fate.HANG_REPLY:
            self._later(self._answer, request, value, error)

    def _break(self, request: Request, error: BaseException) -> None:
        self._answer(request, None, error)

    def _answer(self, request: Request, value: Any, error: BaseException | None) -> None:
        link = request.link
        if link.dead:
            return
        if link.frozen:
            link.held.append(lambda: self._answer(request, value, error))
            return
        self._tell(request, "answered")
        link.loop.call_soon(settle, request.answer, value, error)

    def _tell(self, request: Request, moment: str) -> None:
        for watch in self.watchers:
            watch(request, moment)


def settle(
    answer: asyncio.Future[Any], value: Any = None, error: BaseException | None = None
) -> None:
    """Answer a future, unless nobody waits for it any more."""
    if answer.done():
        return
    if error is not None:
        answer.set_exception(error)
    else:
        answer.set_result(value)
