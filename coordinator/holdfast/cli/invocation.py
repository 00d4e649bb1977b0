"""One invocation of the command line: its settings, and how its work is run and answered for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from holdfast.cli.failures import BadInput

if TYPE_CHECKING:
    from holdfast.bus.port import Environment
    from holdfast.bus.settings import BusSettings
    from holdfast.cli.settings import Settings
    from holdfast.client import Client

__all__ = ["Invocation", "invocation_of"]

T = TypeVar("T")

CONNECT_TIMEOUT_S = 10.0
"""A person who waits for a broker that is not there is told so sooner than a service."""


@dataclass(frozen=True)
class Invocation:
    """What the flags before the command say; None: not given."""

    flags: dict[str, Any] = field(default_factory=dict)
    debug: bool = False

    @cached_property
    def settings(self) -> Settings:
        """The settings; read at their first use, so that `--help` and `version` always work."""
        from holdfast.cli.settings import load_settings

        return load_settings(**self.flags)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a command's work to its end."""
        return asyncio.run(work)

    @asynccontextmanager
    async def environment(
        self, *, create: bool = False, patient: bool = False
    ) -> AsyncIterator[Environment]:
        """The bus, open. Raises `BadInput` naming the address if it is not there.

        `create`: an embedded bus is begun where there is none. `patient`: a broker that is not
        there is waited for as long as a service may.
        """
        from holdfast.bus.connect import open_bus
        from holdfast.bus.errors import BusUnavailable
        from holdfast.bus.port import Environment
        from holdfast.bus.settings import parse_bus_url

        bus_settings = parse_bus_url(self.settings.bus)
        _check_file(self.settings, create=create)
        # What it finds is in our message; without a handler Python would print each try's besides.
        logging.getLogger("aiokafka").addHandler(logging.NullHandler())
        bus = open_bus(bus_settings if patient else _impatient(bus_settings))
        try:
            await bus.start()
        except BusUnavailable as error:
            await bus.close()
            why = str(error).rstrip(".") + ("" if str(error).endswith("?") else ".")
            raise BadInput(
                f"the bus {bus.url} is not there: {why} Start it, or name another "
                "(--bus, HOLDFAST_BUS)"
            ) from error
        try:
            yield Environment(bus)
        finally:
            await bus.close()

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        """A client, connected."""
        from holdfast.client import Client

        async with (
            self.environment() as environment,
            Client(settings=self.settings, environment=environment) as client,
        ):
            yield client


def invocation_of(context: typer.Context) -> Invocation:
    """Return the invocation that a command belongs to."""
    found = context.find_object(Invocation)
    return found if found is not None else Invocation()


def _check_file(settings: Settings, *, create: bool) -> None:
    """See to the file of an embedded bus: one that is only read must be there.

    The default folder is made; any other must be there too: a mistake in a path would begin an
    empty bus. Raises `BadInput`.
    """
    from holdfast.cli.settings import HOME

    path = settings.bus_file
    if path is None or path.is_file():
        return
    if not create:
        raise BadInput(
            f"there is no bus {settings.bus} yet: start `holdfast dev MODULE` here, or name "
            "another (--bus, HOLDFAST_BUS)"
        )
    if path.exists():
        raise BadInput(f"the bus {settings.bus} is no file: name another")
    if path.parent.is_dir():
        return
    if path.parent != HOME:
        raise BadInput(f"the folder of the bus {settings.bus} does not exist: create {path.parent}")
    try:
        path.parent.mkdir()
    except OSError as error:
        raise BadInput(f"cannot make the folder {path.parent}: {error.strerror or error}") from None


def _impatient(settings: BusSettings) -> BusSettings:
    from holdfast.bus.settings import KafkaSettings

    if not isinstance(settings, KafkaSettings):
        return settings
    return replace(settings, connect_timeout_s=min(CONNECT_TIMEOUT_S, settings.connect_timeout_s))
