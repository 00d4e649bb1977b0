"""Sources: a run for each record of a topic of the user's own, exactly once.

Holds what a user writes (`Source`, or the decorator `source`; `Topic`, `TopicRecord`, `Submit`) and
the service that carries it out (`SourceRuntime`). A source is a slot service, as agents and
coordinators are: it writes the submission of a run in the commit that moves its offset. May use:
the bus, the schemas, and how the client makes submissions. Must never: import agents or the
coordinator, or write to the topic that it reads.
"""

from holdfast.sources.definition import Source, Submit, Topic, TopicRecord, source
from holdfast.sources.runtime import SourceRuntime, SourceSettings

__all__ = [
    "Source",
    "SourceRuntime",
    "SourceSettings",
    "Submit",
    "Topic",
    "TopicRecord",
    "source",
]
