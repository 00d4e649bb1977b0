"""Makes aiokafka's clients from the settings, starts them with retries, ends them in time."""
# ruff: noqa: SLF001 - the insides of aiokafka that are used are held by tests/unit/kafka

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable, Collection
from typing import Any, TypeVar

import aiokafka
from aiokafka import errors as kafka_errors
from aiokafka.client import AIOKafkaClient
from aiokafka.conn import create_conn
from aiokafka.producer import sender
from aiokafka.record import default_records
from tenacity import (
    AsyncRetrying,
    RetryError,
    retry_if_exception_type,
    stop_after_delay,
    wait_exponential,
)

from holdfast.bus.errors import BusUnavailable
from holdfast.bus.kafka.pipeline import pipelined
from holdfast.bus.kafka.quiet import quieten
from holdfast.bus.settings import KafkaSettings
from holdfast.schemas.errors import ConfigurationError

__all__ = [
    "TRANSACTION_BACKOFF_MS",
    "check_installation",
    "client_options",
    "describe_error",
    "drop",
    "keep_asking",
    "shared_client",
    "started",
    "track_topics",
    "transactional_producer",
]

T = TypeVar("T")

TRANSACTION_BACKOFF_MS = 2
"""For transactional producers only. After each commit the broker still writes markers, and answers
CONCURRENT_TRANSACTIONS until it has: at aiokafka's 20 and 100 ms a commit takes p50 25 ms."""
DROP_TIMEOUT_S = 2.0
"""`stop()` of a client whose broker is gone hangs."""
METADATA_RETRY_S = 0.2
MAX_BATCH_BYTES = 900_000
"""Below the broker's default limit of a batch (1,048,588)."""

sender.BACKOFF_OVERRIDE = TRANSACTION_BACKOFF_MS / 1000
"""A constant of the module; only `AddPartitionsToTxn`, thus only transactions, use it."""


def check_installation() -> None:
    """Raise `ConfigurationError` where this interpreter cannot run the adapter rightly.

    Without its C extension aiokafka is eight times slower. Under `-O` its state errors, which are
    assertions, would pass unseen: a dead producer would go on.
    """
    if default_records.DefaultRecordBatchBuilder is default_records._DefaultRecordBatchBuilderPy:
        raise ConfigurationError(
            f"aiokafka {aiokafka.__version__} is installed without its C extension, which makes "
            "it eight times slower: install a wheel for this platform "
            "(and unset AIOKAFKA_NO_EXTENSIONS)"
        )
    if not __debug__:
        raise ConfigurationError(
            "the Kafka bus must not run under python -O or PYTHONOPTIMIZE: "
            "aiokafka tells its state errors by assertions"
        )


def client_options(settings: KafkaSettings) -> dict[str, Any]:
    """Return what all of aiokafka's clients take alike."""
    options: dict[str, Any] = {
        "bootstrap_servers": list(settings.bootstrap),
        "client_id": settings.client_id,
        "request_timeout_ms": int(settings.request_timeout_s * 1000),
        "metadata_max_age_ms": int(settings.metadata_max_age_s * 1000),
        "connections_max_idle_ms": int(settings.connections_max_idle_s * 1000),
    }
    if settings.tls:
        options["ssl_context"] = _ssl_context(settings)
    if settings.sasl_mechanism is None:
        options["security_protocol"] = "SSL" if settings.tls else "PLAINTEXT"
    else:
        options["security_protocol"] = "SASL_SSL" if settings.tls else "SASL_PLAINTEXT"
        options["sasl_mechanism"] = settings.sasl_mechanism
        options["sasl_plain_username"] = settings.sasl_username
        options["sasl_plain_password"] = settings.sasl_password
    return options


def _ssl_context(settings: KafkaSettings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=settings.tls_ca and str(settings.tls_ca))
        context.check_hostname = settings.tls_check_hostname
        if settings.tls_cert is not None:
            context.load_cert_chain(settings.tls_cert, settings.tls_key, settings.tls_key_password)
    except (OSError, ssl.SSLError):
        # "from None": the exception's frames hold the password of the key.
        raise ConfigurationError(
            f"the TLS files of {settings.url} cannot be used: tls_ca={settings.tls_ca}, "
            f"tls_cert={settings.tls_cert}, tls_key={settings.tls_key} "
            "(is each PEM, and the variable named by tls_key_password_env right?)"
        ) from None
    return context


def shared_client(settings: KafkaSettings) -> AIOKafkaClient:
    """Return the client (not started) that administration and restoring share."""
    return keep_asking(AIOKafkaClient(**client_options(settings)))


def transactional_producer(settings: KafkaSettings, transactional_id: str) -> Any:
    """Return the producer (not started) of one slot."""
    producer = aiokafka.AIOKafkaProducer(
        **client_options(settings),
        transactional_id=transactional_id,
        transaction_timeout_ms=int(settings.transaction_timeout_s * 1000),
        retry_backoff_ms=TRANSACTION_BACKOFF_MS,
        max_batch_size=MAX_BATCH_BYTES,
    )
    return keep_asking(pipelined(producer))


def track_topics(client: Any, topics: Collection[str]) -> None:
    """Have `client` ask for these topics whenever it asks for metadata.

    From its start it knows all topics of the cluster, but tracks none: the first one that it has
    to ask for makes it forget the others, and batches that wait for them would wait for ever.
    """
    client._topics.update(topics)


def keep_asking(client: T) -> T:
    """Have `client` (of any kind) ask again soon when no broker answered, or is known; return it.

    Left alone it asks next when `metadata_max_age_ms` have passed (300 s). One lost connection
    while a group is joined and its leader knows no topic: it assigns nothing to anybody till then.
    """
    transport = _transport(client)
    update = transport._metadata_update

    def ask() -> None:
        task = transport._sync_task
        if task is not None and not task.done():
            transport.force_metadata_update()

    async def updated(cluster: Any, topics: Any) -> bool:
        answered: bool = await update(cluster, topics)
        if not answered and cluster is transport.cluster:
            asyncio.get_running_loop().call_later(METADATA_RETRY_S, ask)
        return answered

    transport._metadata_update = updated
    transport.coordinator_lookup = _once_brokers_are_known(transport)
    return client


def _once_brokers_are_known(transport: Any) -> Callable[[Any, str], Any]:
    """Return its look-up of a coordinator, with an error that its callers wait and ask again for.

    It asserts that it knows a broker. It knows none after an answer of a cluster whose brokers are
    all fenced: one that starts, or whose only broker was too slow to keep its session.
    """
    look_up = transport.coordinator_lookup

    async def looked_up(kind: Any, key: str) -> Any:
        if transport.get_random_node() is None:
            raise kafka_errors.NodeNotReadyError("the cluster names no broker")
        return await look_up(kind, key)

    return looked_up


def describe_error(error: BaseException) -> str:
    """Return one line that names the kind of `error` and what it says."""
    text = str(error).strip()
    name = type(error).__name__
    if not text or text == name:
        return name
    return text if name in text else f"{name}: {text}"


async def started(
    settings: KafkaSettings, make: Callable[[], T], start: Callable[[T], Any], *, within_s: float
) -> T:
    """Return what `make` makes, started; tries again until `within_s` have passed.

    Raises:
        BusUnavailable: names the brokers, the last error and the remedy.
    """
    quieten()
    deadline = asyncio.get_running_loop().time() + within_s
    retrying = AsyncRetrying(
        stop=stop_after_delay(within_s),
        wait=wait_exponential(multiplier=0.05, max=1.0),
        retry=retry_if_exception_type((kafka_errors.KafkaError, OSError, TimeoutError)),
    )
    try:
        async for attempt in retrying:
            with attempt:
                return await _attempt(settings, make, start, deadline)
    except RetryError as failed:
        cause = failed.last_attempt.exception()
        raise BusUnavailable(
            f"no answer from Kafka at {', '.join(settings.bootstrap)} within {within_s:g} s "
            f"({describe_error(cause) if cause else 'no error'}): "
            "is the broker running, and HOLDFAST_BUS right?"
        ) from cause
    raise AssertionError("tenacity ends by a return or an error")


async def _attempt(
    settings: KafkaSettings, make: Callable[[], T], start: Callable[[T], Any], deadline: float
) -> T:
    client = make()
    try:
        async with asyncio.timeout_at(deadline):
            await start(client)
    except kafka_errors.KafkaConnectionError:
        await drop(client)
        await _explain(settings)
        raise
    except BaseException:
        await drop(client)
        raise
    return client


async def _explain(settings: KafkaSettings) -> None:
    """Raise `BusUnavailable` if the broker is there but does not let us in: trying again is vain.

    The client's own bootstrap hides why it failed.
    """
    options = client_options(settings)
    host, _, port = options.pop("bootstrap_servers")[0].rpartition(":")
    for unused in ("metadata_max_age_ms", "connections_max_idle_ms"):
        del options[unused]
    refused = ""
    try:
        connection = await create_conn(host.strip("[]"), int(port), **options)
        connection.close()
    except ssl.SSLError as error:
        refused = f"TLS failed ({error.reason or error}): check tls, tls_ca and tls_check_hostname"
    except kafka_errors.KafkaError as error:
        text = f"{type(error).__name__} {error}"
        if "auth" in text.lower() or "Sasl" in text:
            refused = (
                "it refuses our name or password: check sasl_mechanism and the variables with both"
            )
    except (OSError, TimeoutError):
        return
    if refused:
        raise BusUnavailable(f"Kafka at {host}:{port} is there, but {refused}")


async def drop(client: Any) -> None:
    """Stop a client within `DROP_TIMEOUT_S`; never raises.

    What it still holds is closed by force then: a broker that is away would keep `stop` for ever.
    """
    if isinstance(client, AIOKafkaClient):
        stopping = asyncio.ensure_future(client.close())
    else:
        stopping = asyncio.ensure_future(client.stop())
    done, _ = await asyncio.wait({stopping}, timeout=DROP_TIMEOUT_S)
    if done:
        with contextlib.suppress(BaseException):
            stopping.result()
        return
    await _force(client, stopping)


async def _force(client: Any, stopping: asyncio.Future[Any]) -> None:
    """Cancel every task of the client, twice (the sender's answer to the first is to wait on)."""
    accumulator = getattr(client, "_message_accumulator", None)
    if accumulator is not None:
        accumulator.fail_all(kafka_errors.ProducerClosed())  # else its flush waits for ever
    owners = (
        client,
        *(getattr(client, name, None) for name in ("_sender", "_coordinator", "_fetcher")),
    )
    names = (
        "_sender_task",
        "_coordination_task",
        "_heartbeat_task",
        "_commit_refresh_task",
        "_fetch_task",
    )
    tasks = {task for owner in owners for name in names if (task := getattr(owner, name, None))}
    tasks.add(stopping)
    for _ in range(2):
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=DROP_TIMEOUT_S / 2)
    for task in tasks:
        if task.done() and not task.cancelled():
            task.exception()  # seen: else it is logged as never retrieved
    with contextlib.suppress(Exception):
        async with asyncio.timeout(DROP_TIMEOUT_S):
            await _transport(client).close()


def _transport(client: Any) -> Any:
    """Return what a producer or a consumer sends over, or the client itself."""
    return getattr(client, "client", None) or getattr(client, "_client", None) or client
