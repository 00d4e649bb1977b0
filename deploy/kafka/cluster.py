"""Several Kafka brokers on this machine that are one cluster, for faults of single brokers.

    cluster = LocalCluster(Path("build/cluster"))
    cluster.start()                     # cluster.bootstrap == "127.0.0.1:43210,127.0.0.1:43211,…"
    cluster.brokers[0].kill()
    cluster.brokers[0].start()
    cluster.stop()

Every broker is a controller too. Topics, offsets and transactions are on all of them, and a write
counts once a majority has it (`min.insync.replicas`), so one broker may go at a time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from deploy.kafka.broker import LocalBroker, free_port, new_cluster_id

__all__ = ["CLUSTER_BROKERS", "ClusterBroker", "LocalCluster"]

CLUSTER_BROKERS = 3


class ClusterBroker(LocalBroker):
    """Broker and controller number `node` (from 0) of a cluster.

    `controllers` are the ports of all controllers, in order. Start all of a new cluster at once:
    none is ready before a majority of controllers is.
    """

    def __init__(
        self,
        folder: Path,
        node: int,
        controllers: Sequence[int],
        cluster_id: str,
        *,
        stock: bool = False,
        properties: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(folder, free_port(), stock=stock, properties=properties)
        self.node_id = node + 1
        self._controllers = tuple(controllers)
        self._controller_port = controllers[node]
        self._cluster_id = cluster_id

    def _format_options(self) -> list[str]:
        return ["-t", self._cluster_id]

    def _properties(self) -> dict[str, str]:
        properties = super()._properties()
        del properties["controller.quorum.bootstrap.servers"]
        brokers = len(self._controllers)
        replicas, majority = str(brokers), str(brokers // 2 + 1)
        voters = (
            f"{number}@127.0.0.1:{port}" for number, port in enumerate(self._controllers, start=1)
        )
        of_cluster = {
            "node.id": str(self.node_id),
            "controller.quorum.voters": ",".join(voters),
            "default.replication.factor": replicas,
            "min.insync.replicas": majority,
            "offsets.topic.replication.factor": replicas,
            "transaction.state.log.replication.factor": replicas,
            "transaction.state.log.min.isr": majority,
            "share.coordinator.state.topic.replication.factor": replicas,
            "share.coordinator.state.topic.min.isr": majority,
        }
        return {**properties, **of_cluster, **self._extra_properties()}


class LocalCluster:
    """Brokers that are one cluster, in folders below `folder`.

    `properties` are, for each broker, added to its own, and win. `stock` as in `LocalBroker`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        stock: bool = False,
        properties: Sequence[Mapping[str, str]] = ({},) * CLUSTER_BROKERS,
    ) -> None:
        cluster_id = new_cluster_id()
        controllers = [free_port() for _ in properties]
        self.brokers = [
            ClusterBroker(
                folder / f"broker-{node + 1}",
                node,
                controllers,
                cluster_id,
                stock=stock,
                properties=own,
            )
            for node, own in enumerate(properties)
        ]

    @property
    def bootstrap(self) -> str:
        """Where clients connect, as host:port,host:port,…"""
        return ",".join(broker.bootstrap for broker in self.brokers)

    def start(self) -> None:
        """Start those that do not run, and wait until all take connections.

        Raises `NotInstalled`, `BrokerFailed`.
        """
        with ThreadPoolExecutor(len(self.brokers)) as pool:
            for started in [pool.submit(broker.start) for broker in self.brokers]:
                started.result()

    def stop(self) -> None:
        """End all, as crashes would: a clean stop of the last ones would wait for the others."""
        for broker in self.brokers:
            broker.kill()
