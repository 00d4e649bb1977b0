"""Requests to a Kafka cluster over one shared client: topics, offsets, purging, single fetches.

Every call is bounded by the operation time-out and tries again on what passes by itself; what does
not is raised as one of our errors. Nothing is cached but what a topic takes (`known`).
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, NamedTuple, TypeVar

from aiokafka import errors as kafka_errors
from aiokafka.client import AIOKafkaClient, CoordinationType
from aiokafka.protocol.admin import (
    CreateTopicsRequest,
    DeleteRecordsRequest,
    DescribeConfigsRequest,
)
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.protocol.offset import OffsetRequest

from holdfast.bus.errors import BusUnavailable, OffsetOutOfRange, TopicMismatch, TopicMissing
from holdfast.bus.kafka.clients import describe_error
from holdfast.bus.kafka.protocol import UNSTABLE_OFFSET_COMMIT, StableOffsetFetchRequest
from holdfast.bus.port import Cleanup, TopicInfo, TopicPartition, TopicSpec
from holdfast.bus.settings import KafkaSettings

__all__ = ["BATCH_OVERHEAD_BYTES", "Cluster", "missing"]

T = TypeVar("T")

MAX_UNSTABLE_S = 20.0
"""A dead client's transaction ends after its time-out (5 s), at a broker's next look (10 s)."""
RETRY_S = 0.02
MAX_RETRY_S = 0.5
BATCH_OVERHEAD_BYTES = 61 + 36
"""The header of a batch, and what a record costs at most beyond its key, value and headers."""
DEFAULT_MAX_MESSAGE_BYTES = 1_048_588

EARLIEST, LATEST = -2, -1
READ_UNCOMMITTED = 0
TOPIC_RESOURCE = 2
SEGMENT_CONFIG = {"segment.bytes": str(16 * 1024 * 1024), "segment.ms": str(10 * 60 * 1000)}
COMPACT_CONFIG = {
    # Else restoring a slot reads gigabytes that were long replaced.
    "cleanup.policy": "compact",
    **SEGMENT_CONFIG,
    "min.cleanable.dirty.ratio": "0.1",
    # A finished run leaves tombstones, which a broker keeps for a day as it comes: at 100 runs a
    # second some 20 million, and whoever restores the slot reads all of them.
    "delete.retention.ms": str(5 * 60 * 1000),
}


class Unstable(kafka_errors.KafkaError):  # type: ignore[misc]
    """An offset is about to be replaced by an open transaction."""

    retriable = True


class _Topic(NamedTuple):
    """Partitions and their leaders; a leader of -1 is being elected."""

    leaders: dict[int, int]


def missing(topic: str) -> TopicMissing:
    """Return the error for a topic that does not exist."""
    return TopicMissing(f"topic {topic!r} does not exist: create it with `holdfast topics create`")


class Cluster:
    """One Kafka cluster, over a client that was started."""

    def __init__(self, client: AIOKafkaClient, settings: KafkaSettings) -> None:
        self._client = client
        self._settings = settings
        self.known: dict[str, TopicInfo] = {}
        """Topics described so far: partition counts and limits, for checks without I/O."""
        self.left_by: dict[str, Any] = {}
        """How the last transactions of writers stood that are being opened anew; see `hanging`."""
        self.doubted: set[str] = set()
        """Topics of commits that failed: one may have been deleted, and would be written to for
        ever. `require` asks for them once more."""

    # -- calls -----------------------------------------------------------------------------------

    async def call(self, what: str, attempt: Callable[[], Awaitable[T]]) -> T:
        """Return what `attempt` returns; tries again until the operation's time-out.

        Raises:
            BusUnavailable: it never succeeded; the message holds `what` and the last error.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._settings.operation_timeout_s
        last: BaseException = TimeoutError()
        delay_s = RETRY_S
        while loop.time() < deadline:
            try:
                async with asyncio.timeout_at(deadline):
                    return await attempt()
            except kafka_errors.KafkaError as error:
                last = error
                if not error.retriable:
                    break
            except (OSError, TimeoutError, AssertionError) as error:
                last = error
            self._client.force_metadata_update()
            await asyncio.sleep(min(delay_s, max(0.0, deadline - loop.time())))
            delay_s = min(delay_s * 2, MAX_RETRY_S)
        where = ", ".join(self._settings.bootstrap)
        raise BusUnavailable(f"{what}: Kafka at {where} says {describe_error(last)}") from last

    async def send(self, node: int | None, request: Any) -> Any:
        """Send one request to a node, or to any; returns the response."""
        if node is None:
            node = self._client.get_random_node()
        if node is None:
            raise kafka_errors.NodeNotReadyError("no broker is known")
        return await self._client.send(node, request)

    async def leaders(self, topics: Collection[str]) -> dict[str, dict[int, int]]:
        """Return per topic each partition's leader; raises `TopicMissing`."""
        found = await self._metadata(list(topics))
        for topic in topics:
            if topic not in found:
                raise missing(topic)
        return {topic: found[topic].leaders for topic in topics}

    @property
    def client(self) -> AIOKafkaClient:
        """The shared client."""
        return self._client

    async def all_leaders(self, also: Collection[str] = ()) -> dict[str, dict[int, int]]:
        """Return each partition's leader (-1: none) of every topic, of internal ones if named."""
        found = await self._metadata(None)
        if also:
            found |= await self._metadata(list(also))
        return {name: topic.leaders for name, topic in found.items()}

    async def _metadata(self, topics: list[str] | None) -> dict[str, _Topic]:
        # Describing must not create: brokers may be set to create topics on the first mention.
        response = await self.send(None, MetadataRequest(topics, allow_auto_topic_creation=False))
        found = {}
        for code, topic, internal, partitions in response.topics:
            if code in (3, 17) or (internal and topics is None):
                continue  # unknown; invalid name
            if code:
                raise kafka_errors.for_code(code)(topic)
            found[topic] = _Topic({number: leader for _, number, leader, *_ in partitions})
        return found

    # -- topics ----------------------------------------------------------------------------------

    async def describe(self, names: Collection[str] | None) -> dict[str, TopicInfo]:
        """Return those of `names` that exist, or all; remembers them in `known`."""
        if names is not None and not names:
            return {}
        asked = None if names is None else sorted(set(names))
        infos = await self.call("describing topics", lambda: self._describe(asked))
        self.known.update(infos)
        return infos

    async def _describe(self, names: list[str] | None) -> dict[str, TopicInfo]:
        topics = await self._metadata(names)
        if not topics:
            return {}
        keys = ["cleanup.policy", "retention.ms", "retention.bytes", "max.message.bytes"]
        resources = [(TOPIC_RESOURCE, topic, keys) for topic in topics]
        response = await self.send(None, DescribeConfigsRequest(resources))
        infos = {}
        for code, _message, _kind, name, entries in response.resources:
            if code == 3:
                continue
            if code:
                raise kafka_errors.for_code(code)(name)
            config = {entry[0]: entry[1] for entry in entries}
            infos[name] = _info(name, len(topics[name].leaders), config)
        return infos

    async def require(self, names: Collection[str]) -> None:
        """Make all of `names` known; raises `TopicMissing`."""
        unknown = [name for name in names if name not in self.known or name in self.doubted]
        if unknown:
            infos = await self.describe(unknown)
            for name in unknown:
                self.doubted.discard(name)
                if name not in infos:
                    self.known.pop(name, None)
                    raise missing(name)

    async def create(self, specs: Collection[TopicSpec]) -> None:
        """Create those that are missing; raises `TopicMismatch` before any is created."""
        existing = await self.describe([spec.name for spec in specs])
        for spec in specs:
            if spec.name in existing:
                _match(spec, existing[spec.name])
        wanted = [spec for spec in specs if spec.name not in existing]
        if not wanted:
            return
        await self.call("creating topics", lambda: self._create(wanted))
        await self.call("creating topics", lambda: self._await_created(wanted))

    async def _create(self, specs: Collection[TopicSpec]) -> None:
        replicas = self._settings.replication_factor
        timeout_ms = int(self._settings.request_timeout_s * 1000)
        topics: list[Any] = [
            (spec.name, spec.partitions, replicas, [], list(_config(spec).items()))
            for spec in specs
        ]
        controller = self._client.cluster.controller
        node = controller.nodeId if controller is not None else None
        response = await self.send(node, CreateTopicsRequest(topics, timeout_ms, False))
        for topic, code, *message in response.topic_errors:
            error = kafka_errors.for_code(code)
            if code and error is not kafka_errors.TopicAlreadyExistsError:
                raise error(f"topic {topic!r}: {message[0] if message else ''}")

    async def _await_created(self, specs: Collection[TopicSpec]) -> None:
        """Return once every partition has a leader; another process may have created them first."""
        infos = await self._describe([spec.name for spec in specs])
        leaders = await self._metadata([spec.name for spec in specs])
        for spec in specs:
            if spec.name not in infos or any(at < 0 for at in leaders[spec.name].leaders.values()):
                raise kafka_errors.LeaderNotAvailableError(spec.name)
            _match(spec, infos[spec.name])
        self.known.update(infos)

    # -- offsets ---------------------------------------------------------------------------------

    async def log_offsets(
        self, partitions: Collection[TopicPartition], which: int
    ) -> dict[TopicPartition, int]:
        """Return the first (`EARLIEST`) offset of each log, or its high watermark (`LATEST`)."""
        if not partitions:
            return {}
        return await self.call("asking for offsets", lambda: self._log_offsets(partitions, which))

    async def _log_offsets(
        self, partitions: Collection[TopicPartition], which: int
    ) -> dict[TopicPartition, int]:
        offsets = {}
        for node, by_topic in (await self._by_leader(partitions)).items():
            topics = [(t, [(p, which) for p in numbers]) for t, numbers in by_topic.items()]
            # Read committed would answer with the last stable offset, not the high watermark.
            response = await self.send(node, OffsetRequest(-1, READ_UNCOMMITTED, topics))
            for topic, answers in response.topics:
                for partition, code, _timestamp, offset in answers:
                    if code:
                        raise kafka_errors.for_code(code)(f"{topic}-{partition}")
                    offsets[TopicPartition(topic, partition)] = offset
        return offsets

    async def _by_leader(
        self, partitions: Collection[TopicPartition]
    ) -> dict[int, dict[str, list[int]]]:
        leaders = await self.leaders({tp.topic for tp in partitions})
        nodes: dict[int, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        for topic, partition in partitions:
            node = leaders[topic].get(partition)
            if node is None:
                raise TopicMissing(
                    f"topic {topic!r} has {len(leaders[topic])} partitions: there is no {partition}"
                )
            if node < 0:
                raise kafka_errors.LeaderNotAvailableError(f"{topic}-{partition}")
            nodes[node][topic].append(partition)
        return nodes

    async def committed(
        self, group: str, partitions: Collection[TopicPartition]
    ) -> dict[TopicPartition, int]:
        """Return the group's offsets, as no open transaction can change them any more.

        Where they are about to change for longer than any transaction lasts, as before it: the
        broker's memory of the group is wrong (ADR 8), and would say so until it is restarted.
        """
        if not partitions:
            return {}
        changing_until = asyncio.get_running_loop().time() + MAX_UNSTABLE_S
        topics: dict[str, list[int]] = defaultdict(list)
        for topic, partition in partitions:
            topics[topic].append(partition)
        what = f"asking for the offsets of group {group!r}"

        async def ask() -> dict[TopicPartition, int]:
            stable = asyncio.get_running_loop().time() < changing_until
            return await self._committed(group, dict(topics), stable=stable)

        return await self.call(what, ask)

    async def _committed(
        self, group: str, topics: dict[str, list[int]], *, stable: bool
    ) -> dict[TopicPartition, int]:
        node = await self._client.coordinator_lookup(CoordinationType.GROUP, group)
        response = await self.send(node, StableOffsetFetchRequest(group, topics, stable=stable))
        if response.error_code:
            raise kafka_errors.for_code(response.error_code)(group)
        offsets = {}
        for topic, answers, _tags in response.topics:
            for partition, offset, _epoch, _metadata, code, _ in answers:
                if code == UNSTABLE_OFFSET_COMMIT:
                    raise Unstable(f"{topic}-{partition}")
                if code:
                    raise kafka_errors.for_code(code)(f"{topic}-{partition}")
                if offset >= 0:
                    offsets[TopicPartition(topic, partition)] = offset
        return offsets

    async def purge(self, before: Mapping[TopicPartition, int]) -> None:
        """Forget all records below these offsets (DeleteRecords)."""
        if before:
            await self.call("purging records", lambda: self._purge(before))

    async def _purge(self, before: Mapping[TopicPartition, int]) -> None:
        timeout_ms = int(self._settings.request_timeout_s * 1000)
        for node, by_topic in (await self._by_leader(before.keys())).items():
            topics = [
                (t, [(p, before[TopicPartition(t, p)]) for p in numbers])
                for t, numbers in by_topic.items()
            ]
            response = await self.send(node, DeleteRecordsRequest(topics, timeout_ms))
            for topic, answers, *_ in response.topics:
                for partition, _low, code, *_ in answers:
                    if code == kafka_errors.OffsetOutOfRangeError.errno:
                        asked = before[TopicPartition(topic, partition)]
                        raise OffsetOutOfRange(
                            f"{topic}-{partition} cannot be purged up to {asked}: it ends before"
                        )
                    if code:
                        raise kafka_errors.for_code(code)(f"{topic}-{partition}")


def _info(name: str, partitions: int, config: Mapping[str, str | None]) -> TopicInfo:
    if "compact" in (config.get("cleanup.policy") or ""):
        cleanup = Cleanup.COMPACT
    elif config.get("retention.ms") == "-1" and config.get("retention.bytes") == "-1":
        cleanup = Cleanup.CONSUMED
    else:
        cleanup = Cleanup.RETAIN
    largest = int(config.get("max.message.bytes") or DEFAULT_MAX_MESSAGE_BYTES)
    return TopicInfo(name, partitions, cleanup, largest - BATCH_OVERHEAD_BYTES)


def _config(spec: TopicSpec) -> dict[str, str]:
    if spec.cleanup is Cleanup.COMPACT:
        return COMPACT_CONFIG
    if spec.cleanup is Cleanup.CONSUMED:
        # A purge frees whole segments only, and never the newest: with the broker's 1 GiB and 7
        # days each partition would keep a gigabyte of what was consumed long ago.
        never = {"retention.ms": "-1", "retention.bytes": "-1"}
        return {"cleanup.policy": "delete", **never, **SEGMENT_CONFIG}
    return {
        "cleanup.policy": "delete",
        "retention.ms": str(spec.retention_ms),
        "retention.bytes": str(spec.retention_bytes),
    }


def _match(spec: TopicSpec, info: TopicInfo) -> None:
    if info.partitions != spec.partitions:
        raise TopicMismatch(
            f"topic {spec.name!r} has {info.partitions} partitions, not the {spec.partitions} that "
            "are configured: configure as many, or use another namespace"
        )
    if (info.cleanup is Cleanup.COMPACT) != (spec.cleanup is Cleanup.COMPACT):
        raise TopicMismatch(
            f"topic {spec.name!r} has the clean-up policy {info.cleanup.value!r}, not "
            f"{spec.cleanup.value!r}: correct it with the broker's tools, or use another namespace"
        )
