"""Journals replayed against code: does what is in flight fit what is about to be deployed?

Reads the journals of an agent from the bus and runs its handlers on them, with each step answered
from the journal. What the journal does not hold is not run: there the replay ends. May use all of
`holdfast.agents` below the runtime; must never write to the bus, nor call a step's function.
"""

from holdfast.agents.replay.journals import TaskJournal, TaskStanding, read_journals
from holdfast.agents.replay.replaying import REPLAY_S, Fit, Replayed, Replayer

__all__ = [
    "REPLAY_S",
    "Fit",
    "Replayed",
    "Replayer",
    "TaskJournal",
    "TaskStanding",
    "read_journals",
]
