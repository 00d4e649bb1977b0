"""`signal`, and what `run show` tells of what a run waits for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli.commands.finding import open_run_key
from holdfast.cli.failures import ExitCode
from holdfast.cli.inputs import parse_payload
from holdfast.cli.invocation import Invocation, invocation_of
from holdfast.cli.printing import clip, duration, moment, print_json, print_lines, print_table

if TYPE_CHECKING:
    from holdfast.cli.reading import Reading
    from holdfast.client import SignalReceipt
    from holdfast.coordinator.projection import ChildView, SignalView, WaitView

__all__ = ["Surroundings", "event_text", "read_surroundings", "register"]

SHOWN_MAX = 20
"""Of waits, children and signals each, for people; `--json` has them all."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(signal)


def signal(
    context: typer.Context,
    run_id: Annotated[str, typer.Argument(metavar="RUN", show_default=False)],
    name: Annotated[str, typer.Argument(metavar="NAME", show_default=False)],
    payload: Annotated[
        str | None, typer.Argument(metavar="PAYLOAD|@FILE", help="JSON, or a file of it.")
    ] = None,
    input: Annotated[  # noqa: A002 - the flag's name
        list[str] | None, typer.Option(metavar="NAME=VALUE|JSON|@FILE", help="The payload.")
    ] = None,
    id: Annotated[  # noqa: A002 - the flag's name
        str | None,
        typer.Option(metavar="SIGNAL_ID", help="Repeat the command with it: it counts once."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """Tell a run something: the task that waits for a signal of this name gets it.

    One that nobody waits for yet is kept.
    """
    value = parse_payload(payload, input or [])

    async def execute(invocation: Invocation) -> int:
        order_key = await open_run_key(invocation, run_id, "signals")
        async with invocation.client() as client:
            run = await client.run(run_id, order_key)
            receipt = await run.signal(name, value, signal_id=id)
        _print_receipt(run_id, receipt, json=json)
        return ExitCode.OK

    invocation = invocation_of(context)
    return invocation.run(execute(invocation))


def _print_receipt(run_id: str, receipt: SignalReceipt, *, json: bool) -> None:
    if not json:
        print_lines(receipt.message)
        return
    position = receipt.position
    print_json(
        {
            "run_id": run_id,
            "signal_id": receipt.command_id,
            "outcome": receipt.outcome.value,
            "task_id": receipt.task_id,
            "position": {"partition": position.partition, "offset": position.offset},
        }
    )


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a run waits for, what waits for it, and what it started."""

    waits: list[WaitView]
    signals: list[SignalView]
    children: list[ChildView]

    async def document(self, decode: Any) -> dict[str, Any]:
        """Return it as `--json` has it."""
        from holdfast.cli.documents import (
            child_document,
            payload_document,
            signal_document,
            wait_document,
        )

        signals = [
            {**signal_document(each), "payload": await payload_document(each.payload, decode)}
            for each in self.signals
        ]
        return {
            "waits": [wait_document(wait) for wait in self.waits],
            "signals": signals,
            "children": [child_document(child) for child in self.children],
        }

    def print(self, now_ms: int) -> None:
        """Print it for people; nothing where there is nothing."""
        self._table(
            ("WAITS", "", "SINCE", "UNTIL"), [_wait_row(wait, now_ms) for wait in self.waits]
        )
        self._table(
            ("KEPT SIGNAL", "BY", "SINCE"),
            [(each.signal, each.actor, moment(each.at_ms)) for each in self.signals],
        )
        self._table(
            ("STARTED RUN", "PLAN", "STATE", "BY TASK", "TOOK"),
            [_child_row(child, now_ms) for child in self.children],
        )

    @staticmethod
    def _table(headers: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
        if not rows:
            return
        print_lines("")
        print_table(headers, rows[:SHOWN_MAX], "")
        if len(rows) > SHOWN_MAX:
            print_lines(f"and {len(rows) - SHOWN_MAX} more: --json has them all")


async def read_surroundings(reading: Reading, run_id: str, *, is_open: bool) -> Surroundings:
    """Read it; a run that has ended waits for nothing, and keeps no signals."""
    from holdfast.coordinator.projection import (
        SignalState,
        list_children,
        list_signals,
        list_waits,
    )

    children = await reading.ask(lambda c: list_children(c, run_id, limit=10_000))
    if not is_open:
        return Surroundings([], [], children)
    kept = (SignalState.KEPT,)
    return Surroundings(
        await reading.ask(lambda c: list_waits(c, run_id, limit=10_000)),
        await reading.ask(lambda c: list_signals(c, run_id, states=kept)),
        children,
    )


def _wait_row(wait: WaitView, now_ms: int) -> tuple[str, ...]:
    row = wait.row
    state = f", {wait.child_state}" if wait.child_state is not None else ""
    since = "-" if row.asked_ms is None else duration(now_ms - row.asked_ms)
    return row.task_id, f"{row.describe()}{state}", since, moment(row.until_ms)


def _child_row(child: ChildView, now_ms: int) -> tuple[str, ...]:
    took = None
    if child.created_ms is not None:
        took = (child.finished_ms or now_ms) - child.created_ms
    state = "not taken in" if child.state is None else child.state.value
    return child.run_id, child.plan_name, state, child.task_id, duration(took)


def event_text(message: str, ask: dict[str, Any] | None, signal: dict[str, Any] | None) -> str:
    """Return what an event of the history says, on one line."""
    from holdfast.schemas import AskKind, AskRow

    told = []
    if ask is not None:
        row = AskRow(**{**ask, "kind": AskKind(ask["kind"])})
        until = f" until {moment(row.until_ms)}" if row.until_ms is not None else ""
        told.append(f"{row.describe()}{until}")
    if signal is not None:
        told.append(f"signal {signal['signal']!r} of {signal['actor']}")
    return clip("; ".join([*told, message] if message else told), 120)
