"""What commands say beside their name: the JSON objects in `Command.arguments`."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, ValidationError

__all__ = ["CancelArguments", "PauseArguments"]


class CancelArguments(BaseModel):
    """How a run is to be cancelled.

    `compensate`: whether what has succeeded is undone first (None: as its plan says);
    `compensate_from`: only this task is, and what came of it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    compensate: bool | None = None
    compensate_from: str | None = None

    @classmethod
    def of(cls, arguments: str) -> CancelArguments:
        """Read a command's arguments; raises `ValueError`, whose message names the field."""
        try:
            said = cls.model_validate_json(arguments or "{}")
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise ValueError(f"{where}: {first['msg']}" if where else first["msg"]) from None
        if said.compensate_from is None or said.compensate:
            return said
        if said.compensate is not None:
            raise ValueError("compensate_from names what to undo, and compensate says not to")
        return said.model_copy(update={"compensate": True})

    def to_json(self) -> str:
        """Return the arguments as a command carries them."""
        return self.model_dump_json(exclude_none=True)


class PauseArguments(BaseModel):
    """What of an agent is to be paused, or resumed. `order_key`: one order key; None: all of it."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    order_key: str | None = Field(default=None, min_length=1)

    @classmethod
    def of(cls, arguments: str) -> PauseArguments:
        """Read a command's arguments; raises `ValueError`, whose message names the field."""
        try:
            return cls.model_validate_json(arguments or "{}")
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise ValueError(f"{where}: {first['msg']}" if where else first["msg"]) from None

    def to_json(self) -> str:
        """Return the arguments as a command carries them."""
        return self.model_dump_json(exclude_none=True)
