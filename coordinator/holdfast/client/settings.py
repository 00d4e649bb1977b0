"""Where a client finds the bus.

Read, the first that is set winning, from: what the code gives, `HOLDFAST_*` variables, the
`[tool.holdfast]` table of the `pyproject.toml` in the current folder, defaults.
"""

from __future__ import annotations

import os
import tomllib
from typing import Any, TypeVar

from pydantic import ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    PyprojectTomlConfigSettingsSource,
    SettingsConfigDict,
)

from holdfast.bus.settings import parse_bus_url
from holdfast.bus.topics import Topics
from holdfast.schemas.errors import ConfigurationError, did_you_mean

__all__ = ["DEFAULT_BUS", "ClientSettings", "load"]

DEFAULT_BUS = "sqlite:///.holdfast/bus.db"

S = TypeVar("S", bound="ClientSettings")


class ClientSettings(BaseSettings):
    """What everything that speaks to the bus knows; immutable."""

    model_config = SettingsConfigDict(
        env_prefix="HOLDFAST_",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        pyproject_toml_table_header=("tool", "holdfast"),
        # A pyproject.toml of a parent folder is another project's.
        pyproject_toml_depth=0,
    )

    bus: str = DEFAULT_BUS
    """`sqlite:///path` or `kafka://host:port,host:port`; options follow a `?`."""
    namespace: str = "holdfast"
    """The prefix of all topics and groups."""
    blobs: str | None = None
    """Where payloads above 512 KiB stand: `file:///folder`; unset: on SQLite the bus itself."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - pydantic's signature
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Code, then variables, then the table; no `.env`, no secret files."""
        return init_settings, env_settings, PyprojectTomlConfigSettingsSource(settings_cls)

    @field_validator("bus")
    @classmethod
    def _check_bus(cls, url: str) -> str:
        parse_bus_url(url)
        return url

    @field_validator("namespace")
    @classmethod
    def _check_namespace(cls, namespace: str) -> str:
        Topics(namespace)
        return namespace

    @property
    def topics(self) -> Topics:
        """The names of this namespace's topics."""
        return Topics(self.namespace)


def load(kind: type[S], given: dict[str, Any]) -> S:
    """Return the settings; what is None in `given` counts as not given.

    Raises:
        ConfigurationError: naming the setting, where it was set, and what would be right.
    """
    known = {name: value for name, value in given.items() if value is not None}
    try:
        return kind(**known)
    except ValidationError as error:
        raise _explain(kind, error, known) from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"pyproject.toml cannot be read: {error}") from None
    except OSError as error:
        raise ConfigurationError(
            f"pyproject.toml cannot be read: {error.strerror or error}"
        ) from None


def _explain(
    kind: type[ClientSettings], error: ValidationError, given: dict[str, Any]
) -> ConfigurationError:
    first = error.errors(include_url=False)[0]
    name = str(first["loc"][0]) if first["loc"] else "settings"
    if first["type"] == "extra_forbidden":
        return ConfigurationError(
            f"pyproject.toml, [tool.holdfast]: unknown setting {name!r}"
            f"{did_you_mean(name, kind.model_fields)}"
        )
    return ConfigurationError(f"{_place(name, given)}: {first['msg']}")


def _place(name: str, given: dict[str, Any]) -> str:
    if name in given:
        return f"--{name.replace('_', '-')}"
    variable = f"HOLDFAST_{name.upper()}"
    if any(known.upper() == variable for known in os.environ):
        return f"variable {variable}"
    return f"pyproject.toml, [tool.holdfast] {name}"
