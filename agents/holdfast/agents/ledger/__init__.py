"""The ledger: what one slot knows of its tasks.

Holds the tasks of a slot with their attempts, steps, resumes and strikes, order keys, cancels, and
what each commit must write for them. Pure: may use records, the slot's intake and the names of
the port; must never do I/O, read a clock, or wait.
"""

from holdfast.agents.ledger.drafts import Answer, Draft, Identity, first_that_fits
from holdfast.agents.ledger.endings import unknown_task
from holdfast.agents.ledger.entry import Ending, Entry, Incoming, Phase, StepWrite
from holdfast.agents.ledger.keys import (
    JournalBody,
    cancelled_key,
    fold_step,
    parse_key,
    step_key,
    task_key,
)
from holdfast.agents.ledger.ledger import Ledger
from holdfast.agents.ledger.markers import cancelled_failure
from holdfast.agents.ledger.state import STATE_SLOT_BYTES_MAX, KeyedState

__all__ = [
    "STATE_SLOT_BYTES_MAX",
    "Answer",
    "Draft",
    "Ending",
    "Entry",
    "Identity",
    "Incoming",
    "JournalBody",
    "KeyedState",
    "Ledger",
    "Phase",
    "StepWrite",
    "cancelled_failure",
    "cancelled_key",
    "first_that_fits",
    "fold_step",
    "parse_key",
    "step_key",
    "task_key",
    "unknown_task",
]
