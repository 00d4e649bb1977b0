"""Bugs of the client: how a run enters the system."""

from __future__ import annotations

from tests.planted.patching import Patch
from tests.planted.table import bug


@bug(
    "submission-answered-before-it-is-kept",
    area="client",
    breaks=("I1",),
    needs="submissions by `holdfast.client`, and clients that die or a bus that is away meanwhile",
)
def submission_answered_before_it_is_kept(patch: Patch) -> None:
    """`submit` returns once the submission waits in the outbox, not once the bus keeps it. A client
    that ends then, or a publish that fails, takes the run with it: its caller was told that it is
    safe.
    """
    patch.edit(
        "holdfast.client.outbox:Outbox.send",
        "    return await waiting.written\n",
        "    waiting.written.add_done_callback(lambda done: done.cancelled() or done.exception())\n"
        "    return Position(record.topic, -1, -1)\n",
    )


@bug(
    "submission-without-its-order-key",
    area="client",
    breaks=("I13", "I1"),
    needs="submissions by `holdfast.client` of plans with an order key; two partitions",
)
def submission_without_its_order_key(patch: Patch) -> None:
    """A run is sent under its id although its plan has an order key. The runs of one key are held
    by different slots, their tasks are handed over in any order; and the client waits where no
    event of the run will ever come.
    """
    patch.edit(
        "holdfast.client.client:Client._send",
        "key = submission.order_key or run_id",
        "key = run_id",
    )
