"""The names of topics and groups in one namespace, and how each topic is kept.

Names of namespaces, agents and instances match `[a-z0-9-]{1,64}`: no dots, so that
`<namespace>.tasks.<agent>` reads one way only, and a broker's ACL prefix fits one namespace only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from holdfast.bus.port import Cleanup, TopicSpec
from holdfast.schemas.errors import ConfigurationError

__all__ = [
    "COORDINATOR_GROUP",
    "RESERVED_GROUPS",
    "SCHEMAS_GROUP",
    "SOURCE_PREFIX",
    "Topics",
    "check_name",
]

COORDINATOR_GROUP = "coordinator"
"""The consumer group of the coordinators."""
SCHEMAS_GROUP = "schemas"
"""The group whose one slot writes schemas."""
SOURCE_PREFIX = "source-"
"""What the groups of sources begin with."""
RESERVED_GROUPS = frozenset({COORDINATOR_GROUP, SCHEMAS_GROUP})
"""No agent may have one of these names: they are taken by groups of our own."""

DAY_MS = 86_400_000
EVENTS_RETENTION_MS = 90 * DAY_MS
EVENTS_RETENTION_BYTES = 50 * 10**9
DEAD_LETTERS_RETENTION_MS = 90 * DAY_MS

_NAME = re.compile(r"[a-z0-9-]{1,64}")


def check_name(name: str, what: str) -> str:
    """Return `name`; raises `ConfigurationError` if it cannot name a namespace, agent, instance."""
    if _NAME.fullmatch(name) is None:
        raise ConfigurationError(
            f"{what} {name!r} cannot be used: names are 1 to 64 of a-z, 0-9 and '-'"
        )
    return name


@dataclass(frozen=True, slots=True)
class Topics:
    """The names within one namespace; raises `ConfigurationError` for one that cannot be used."""

    namespace: str

    def __post_init__(self) -> None:
        check_name(self.namespace, "namespace")

    @property
    def coordinator(self) -> str:
        """What coordinators consume."""
        return f"{self.namespace}.coordinator"

    @property
    def events(self) -> str:
        """Each transition; has the partitions of `coordinator`, written by number."""
        return f"{self.namespace}.events"

    @property
    def dead_letters(self) -> str:
        """Whole records with their reason."""
        return f"{self.namespace}.dead-letters"

    @property
    def agents(self) -> str:
        """Manifests and signs of life."""
        return f"{self.namespace}.agents"

    @property
    def schemas(self) -> str:
        """Avro schemas; always one partition."""
        return f"{self.namespace}.schemas"

    def tasks(self, agent: str) -> str:
        """Tasks for an agent."""
        return f"{self.namespace}.tasks.{check_name(agent, 'agent')}"

    def control(self, agent: str) -> str:
        """Words about an agent's tasks; has the partitions of `tasks(agent)`."""
        return f"{self.namespace}.control.{check_name(agent, 'agent')}"

    def journal(self, group: str) -> str:
        """The compacted changelog of a group's slots; `group` without the namespace."""
        return f"{self.namespace}.journal.{check_name(group, 'group')}"

    def group(self, name: str) -> str:
        """A consumer group's whole name: an agent's name, or `COORDINATOR_GROUP`."""
        return f"{self.namespace}.{check_name(name, 'group')}"

    def source_group(self, source: str) -> str:
        """Return the name of a source's group, as `group`, `control` and `journal` take it."""
        return check_name(f"{SOURCE_PREFIX}{source}", "group of a source")

    def source_specs(self, source: str, partitions: int) -> list[TopicSpec]:
        """Return the topics of one source; `partitions`: those of the topic that it reads."""
        group = self.source_group(source)
        return [
            TopicSpec(self.control(group), partitions),
            TopicSpec(self.journal(group), partitions, Cleanup.COMPACT),
        ]

    def coordinator_specs(self, partitions: int, *, keep_events: bool = False) -> list[TopicSpec]:
        """Return the topics of the coordinators, and those that all share.

        `keep_events`: events are kept for ever, instead of 90 days or 50 GB.
        """
        return [
            TopicSpec(self.coordinator, partitions),
            TopicSpec(
                self.events,
                partitions,
                Cleanup.RETAIN,
                retention_ms=-1 if keep_events else EVENTS_RETENTION_MS,
                # The limit holds for the whole topic, a broker counts by partition.
                retention_bytes=-1 if keep_events else EVENTS_RETENTION_BYTES // partitions,
            ),
            TopicSpec(self.journal(COORDINATOR_GROUP), partitions, Cleanup.COMPACT),
            *self.shared_specs(),
        ]

    def shared_specs(self) -> list[TopicSpec]:
        """Return the topics of one partition that agents, coordinators and clients share."""
        return [
            TopicSpec(self.dead_letters, 1, Cleanup.RETAIN, retention_ms=DEAD_LETTERS_RETENTION_MS),
            TopicSpec(self.agents, 1, Cleanup.COMPACT),
            TopicSpec(self.schemas, 1, Cleanup.COMPACT),
        ]

    def agent_specs(self, agent: str, partitions: int) -> list[TopicSpec]:
        """Return the topics of one agent.

        Raises `ConfigurationError` for a name that a group of our own has.
        """
        if agent in RESERVED_GROUPS or agent.startswith(SOURCE_PREFIX):
            raise ConfigurationError(
                f"agent {agent!r} cannot be used: Holdfast itself has a group of this name"
                f" (so may any that begins with {SOURCE_PREFIX!r}); choose another"
            )
        return [
            TopicSpec(self.tasks(agent), partitions),
            TopicSpec(self.control(agent), partitions),
            TopicSpec(self.journal(agent), partitions, Cleanup.COMPACT),
        ]
