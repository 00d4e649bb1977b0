"""What the next commit of a slot must hold: ends, acceptances, steps, and the offsets with them.

- A task that finishes in the first commit after its start costs no journal record. One that is
  still open 20 ms after its start is accepted, and with that a commit starts.
- A commit moves the offset past the last record that it closes, accepts or drops; each earlier
  record still open is accepted in it. Else what a crash brings again could be dealt with twice:
  of a task that was forgotten, or a record that was forwarded, nothing is left to tell.
"""

from __future__ import annotations

from collections import deque

from holdfast.agents.ledger.closing import Closing
from holdfast.agents.ledger.drafts import Draft, Outbox
from holdfast.agents.ledger.entry import OPEN_PHASES, Entry, Phase
from holdfast.agents.ledger.inbox import Inbox
from holdfast.bus.slot.machine import COMMIT_RECORDS_MAX

__all__ = ["ACCEPT_AFTER_S", "NextCommit"]

ACCEPT_AFTER_S = 0.020
"""A started task that is not accepted yet is accepted after so long."""


class NextCommit:
    """The tasks of which something is to be written, in the order in which it came up."""

    def __init__(self, inbox: Inbox, outbox: Outbox, closing: Closing) -> None:
        self._inbox = inbox
        self._outbox = outbox
        self._closing = closing
        self._wanting: dict[Entry, None] = {}
        self._ended: deque[Entry] = deque()
        self._unaccepted: deque[tuple[float, Entry, int]] = deque()

    def want(self, entry: Entry, *, rewrite: bool) -> None:
        """Have what waits in an open task written; `rewrite`: its acceptance too, as it then is."""
        if rewrite and entry.wanted == entry.drafted:
            entry.wanted += 1
        self._wanting[entry] = None

    def close(self, entry: Entry) -> None:
        """Have the end of an attempt written."""
        self._ended.append(entry)

    def started(self, entry: Entry, at_s: float) -> None:
        """A task runs: if it is not accepted, it shall be soon."""
        if not entry.accepted:
            self._unaccepted.append((at_s + ACCEPT_AFTER_S, entry, entry.attempt))

    def due_at_s(self) -> float | None:
        """Return when the next started task is to be accepted (monotonic seconds)."""
        queue = self._unaccepted
        while queue:
            at_s, entry, attempt = queue[0]
            if entry.phase is Phase.RUNNING and not entry.accepted and entry.attempt == attempt:
                return at_s
            queue.popleft()
        return None

    def pending(self) -> bool:
        """Tell whether something waits for a commit."""
        return bool(self._ended or self._wanting or self._inbox.moved or self._outbox)

    def collect(self, now_ms: int, at_s: float) -> list[Draft] | None:
        """See `Ledger.collect`."""
        while (due := self.due_at_s()) is not None and due <= at_s:
            self.want(self._unaccepted.popleft()[1], rewrite=True)
        if not self.pending():
            return None
        drafts = self._outbox.take()
        budget = COMMIT_RECORDS_MAX - sum(draft.size for draft in drafts)
        horizon = self._inbox.horizon()
        while self._ended and budget > 0:
            entry = self._ended.popleft()
            if entry.phase is not Phase.ENDED:
                continue  # cancelled while the bus refused a record of it: that was its end
            horizon = max(horizon, self._inbox.finish(entry))
            self._inbox.finish_controls(entry)
            drafts.append(self._closing.close(entry, now_ms))
            budget -= drafts[-1].size
        while self._wanting and budget > 0:
            entry = next(iter(self._wanting))
            del self._wanting[entry]
            if entry.phase in OPEN_PHASES and (entry.writes or entry.drafted != entry.wanted):
                horizon = max(horizon, self._inbox.finish(entry))
                drafts.append(self._closing.keep(entry, now_ms))
                budget -= drafts[-1].size
        drafts += self._accept_before(horizon, now_ms)
        for draft in drafts:
            for write in draft.steps:
                self._inbox.deal(write)
            if draft.entry is not None and draft.entry.phase in OPEN_PHASES and draft.entry.writes:
                self.want(draft.entry, rewrite=False)  # more steps than one draft may hold
        self._inbox.moved = False
        return drafts

    def _accept_before(self, horizon: int, now_ms: int) -> list[Draft]:
        if horizon < 0:
            return []
        drafts = []
        for entry in self._inbox.open_before(horizon):
            self.want(entry, rewrite=True)
            self._inbox.finish(entry)
            del self._wanting[entry]
            drafts.append(self._closing.keep(entry, now_ms))
        return drafts
