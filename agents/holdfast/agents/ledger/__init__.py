"""The ledger: what one slot knows of its tasks.

Holds the tasks of a slot with their attempts, steps, resumes and strikes, order keys, cancels, and
what each commit must write for them. Pure: may use records, the slot's intake and the names of
the port; must never do I/O, read a clock, or wait.
"""

from holdfast.agents.ledger.drafts import Answer, Draft, Identity
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

__all__ = [
    "Answer",
    "Draft",
    "Ending",
    "Entry",
    "Identity",
    "Incoming",
    "JournalBody",
    "Ledger",
    "Phase",
    "StepWrite",
    "cancelled_failure",
    "cancelled_key",
    "fold_step",
    "parse_key",
    "step_key",
    "task_key",
]
