"""The limits of a coordinator, by `HOLDFAST_COORDINATOR_*` variables."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from holdfast.coordinator.engine import EngineLimits

__all__ = ["CoordinatorSettings"]


class CoordinatorSettings(BaseSettings):
    """How a coordinator works; each field is a variable `HOLDFAST_COORDINATOR_<FIELD>`."""

    model_config = SettingsConfigDict(env_prefix="HOLDFAST_COORDINATOR_", frozen=True)

    grace_s: float = Field(default=60.0, gt=0, le=86_400)
    """How long a run that ends badly waits for its agents' answers."""
    dedupe_days: float = Field(default=7.0, gt=0, le=365)
    """How long the id of a closed run is remembered."""
    dedupe_runs: int = Field(default=50_000, ge=1, le=1_000_000)
    """How many closed runs each slot remembers."""
    batch_inputs: int = Field(default=256, ge=1, le=10_000)
    """At most this many inputs go into one commit."""
    batch_records: int = Field(default=2_000, ge=1, le=5_000)
    """No further input goes into a commit that has this many records."""
    queue_inputs: int = Field(default=2_000, ge=1, le=100_000)
    """With more inputs waiting, the slot reads no further."""
    schema_wait_s: float = Field(default=30.0, gt=0, le=3_600)
    """How long an unknown schema id is waited for."""
    purge_every_s: float = Field(default=15.0, gt=0, le=86_400)
    """How often consumed records are forgotten."""
    manifest_days: float = Field(default=7.0, gt=0, le=365)
    """How long an agent's instance may be silent before its manifest is removed."""
    stop_grace_s: float = Field(default=10.0, gt=0, le=300)
    """How long a stop lets what is under way finish."""

    def limits(self) -> EngineLimits:
        """Return the bounds of the engine."""
        return EngineLimits(
            grace_ms=round(self.grace_s * 1_000),
            marker_age_ms=round(self.dedupe_days * 86_400_000),
            markers_max=self.dedupe_runs,
        )
