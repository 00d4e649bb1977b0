"""A schedule as its user writes it, and what is made of it: due times, run ids, inputs.

`Schedule` is the user's (Python, or a file); `ScheduleSpec` is what stands on the bus. Both are
checked by the same rules, since anybody can write to the bus.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from holdfast.schemas.errors import ScheduleError, did_you_mean
from holdfast.schemas.records import OverlapPolicy, ScheduleSpec
from holdfast.schemas.times import DueTimes, due_times, time_zone

__all__ = [
    "CATCH_UP_RUNS_MAX",
    "SCHEDULE_PREFIX",
    "Schedule",
    "bounded_after",
    "check_moment",
    "check_schedule_name",
    "check_spec",
    "jitter_ms",
    "next_times",
    "render_schedule_input",
    "scheduled_run_id",
    "spec_times",
]

SCHEDULE_PREFIX = "schedule/"
"""What stands before a schedule's name where a run's id stands otherwise: in envelopes, events."""
CATCH_UP_RUNS_MAX = 100
"""They are started in one event."""
CATCH_UP_MAX_S = 366 * 86_400
JITTER_MAX_S = 86_400
INPUT_CHARS_MAX = 65_536
LAST_MS = 221_845_392_000_000
"""The first second of the year 9000."""
_SECOND_MS = 1_000
_NAME = re.compile(r"[a-z0-9-]{1,64}")
_FIELD = re.compile(r"\$\$\{|\$\{([^}]*)\}")
_FIELDS = ("date", "ms", "name", "run_id", "time")


class Schedule(BaseModel):
    """When runs are started: by cron expressions in a time zone, or every so many seconds.

    `input` may be any JSON; in its texts `${schedule.time}` (ISO 8601, with the zone's offset),
    `.date`, `.ms` (since the epoch), `.name` and `.run_id` stand for those of the due time. Times
    without a zone (`start`, `end`) are of `timezone`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cron: tuple[str, ...] = ()
    """Five fields, or six with seconds before them; one text will do."""
    every_s: float | None = None
    """An interval instead, whole seconds; from `start` on, else from the epoch."""
    timezone: str = "UTC"
    input: Any = Field(default_factory=dict)
    overlap: OverlapPolicy = OverlapPolicy.SKIP
    catch_up_s: float = 60
    """Times that are older than this, after an outage or a pause, are missed."""
    catch_up_runs: int = CATCH_UP_RUNS_MAX
    """Of those that are not, so many of the newest are made good."""
    jitter_s: float = 0
    """Each time is put off by up to this; the same time always by the same."""
    start: datetime | None = None
    end: datetime | None = None
    order_key: str | None = None
    """Of the runs, instead of their plan's."""

    @field_validator("cron", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("overlap", mode="before")
    @classmethod
    def _dashes(cls, value: Any) -> Any:
        return value.replace("-", "_") if isinstance(value, str) else value

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Schedule:
        """Return a schedule from plain values; raises `ScheduleError` naming the field."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"]))
            said = first["msg"]
            if first["type"] == "extra_forbidden":
                said += did_you_mean(where, cls.model_fields)
            elif first["type"] == "enum":
                policies = (policy.value.replace("_", "-") for policy in OverlapPolicy)
                said = f"it is one of {', '.join(policies)}"
            raise ScheduleError(f"schedule: {where}: {said}") from None

    def spec(self, plan_name: str) -> ScheduleSpec:
        """Return it as it stands on the bus. Raises `ScheduleError`."""
        try:
            text = json.dumps(self.input, ensure_ascii=False, allow_nan=False, sort_keys=True)
        except (TypeError, ValueError, RecursionError) as error:
            raise ScheduleError(f"schedule: input: it cannot be written as JSON: {error}") from None
        every_s = self.every_s
        spec = ScheduleSpec(
            plan_name=plan_name,
            cron=list(self.cron),
            interval_ms=None if every_s is None else _milliseconds("every_s", every_s),
            timezone=self.timezone,
            input=text,
            overlap=self.overlap,
            catch_up_ms=_milliseconds("catch_up_s", self.catch_up_s),
            catch_up_runs=self.catch_up_runs,
            jitter_ms=_milliseconds("jitter_s", self.jitter_s),
            start_ms=self._instant("start", self.start),
            end_ms=self._instant("end", self.end),
            order_key=self.order_key,
        )
        check_spec(spec)
        return spec

    @classmethod
    def from_spec(cls, spec: ScheduleSpec) -> Schedule:
        """Return what a spec was made of."""
        interval, start, end = spec.interval_ms, spec.start_ms, spec.end_ms
        return cls(
            cron=tuple(spec.cron),
            every_s=None if interval is None else interval / _SECOND_MS,
            timezone=spec.timezone,
            input=json.loads(spec.input),
            overlap=spec.overlap,
            catch_up_s=spec.catch_up_ms / _SECOND_MS,
            catch_up_runs=spec.catch_up_runs,
            jitter_s=spec.jitter_ms / _SECOND_MS,
            start=None if start is None else _utc(start),
            end=None if end is None else _utc(end),
            order_key=spec.order_key,
        )

    def _instant(self, field: str, moment: datetime | None) -> int | None:
        if moment is None:
            return None
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=time_zone(self.timezone))
        try:
            return int(moment.timestamp()) * _SECOND_MS
        except (OverflowError, ValueError):
            raise ScheduleError(f"schedule: {field}: {moment} is out of range") from None


def check_schedule_name(name: str) -> str:
    """Return a schedule's name; raises `ScheduleError` for one that cannot be used."""
    if _NAME.fullmatch(name) is None:
        raise ScheduleError(
            f"schedule name {name!r} cannot be used: 1 to 64 small letters, digits and '-'"
        )
    return name


def check_spec(spec: ScheduleSpec) -> None:
    """Raise `ScheduleError` naming what of a spec cannot be used."""
    if spec.start_ms is not None:
        check_moment("start", spec.start_ms)
    spec_times(spec)
    bounds = (
        ("catch_up_s", spec.catch_up_ms, 1, CATCH_UP_MAX_S),
        ("jitter_s", spec.jitter_ms, 0, JITTER_MAX_S),
    )
    for field, value_ms, least_s, most_s in bounds:
        if value_ms % _SECOND_MS or not least_s <= value_ms // _SECOND_MS <= most_s:
            raise ScheduleError(
                f"schedule: {field}: {value_ms / _SECOND_MS:g} cannot be used: whole seconds, from"
                f" {least_s} to {most_s}"
            )
    if not 1 <= spec.catch_up_runs <= CATCH_UP_RUNS_MAX:
        raise ScheduleError(
            f"schedule: catch_up_runs: {spec.catch_up_runs} cannot be used: from 1 to"
            f" {CATCH_UP_RUNS_MAX}"
        )
    start, end = spec.start_ms, spec.end_ms
    if end is not None:
        check_moment("end", end)
    if start is not None and end is not None and end <= start:
        raise ScheduleError("schedule: end: it must be later than start")
    if len(spec.input) > INPUT_CHARS_MAX:
        raise ScheduleError(
            f"schedule: input: {len(spec.input)} characters of JSON; at most {INPUT_CHARS_MAX} are"
            " allowed: let a task read what is larger"
        )
    render_schedule_input(spec, "x", 0)


def check_moment(field: str, at_ms: int) -> None:
    """Raise `ScheduleError` for a moment that no calendar has."""
    if not 0 <= at_ms <= LAST_MS:
        raise ScheduleError(f"schedule: {field}: {at_ms} ms is no moment from 1970 to 9000")


def spec_times(spec: ScheduleSpec) -> DueTimes:
    """Return the due times of a spec, its bounds left out; raises `ScheduleError`."""
    return due_times(tuple(spec.cron), spec.interval_ms, spec.timezone, spec.start_ms)


def bounded_after(spec: ScheduleSpec, at_ms: int) -> int | None:
    """Return the first due time later than `at_ms` within the spec's bounds, or None."""
    if spec.start_ms is not None:
        at_ms = max(at_ms, spec.start_ms - 1)
    found = spec_times(spec).after(at_ms)
    if found is None or (spec.end_ms is not None and found >= spec.end_ms):
        return None
    return found


def next_times(spec: ScheduleSpec, after_ms: int, count: int) -> list[int]:
    """Return the next `count` due times within the spec's bounds, jitter left out."""
    found: list[int] = []
    while len(found) < count:
        following = bounded_after(spec, found[-1] if found else after_ms)
        if following is None:
            break
        found.append(following)
    return found


def jitter_ms(name: str, spec: ScheduleSpec, scheduled_ms: int) -> int:
    """Return by how much a time is put off: drawn from the schedule's name and the time alone."""
    if not spec.jitter_ms:
        return 0
    drawn = hashlib.sha256(f"{name}\0{scheduled_ms}".encode()).digest()[:8]
    return int.from_bytes(drawn) % (spec.jitter_ms + 1)


def scheduled_run_id(name: str, scheduled_ms: int) -> str:
    """Return the id of the run of a due time: `<name>-20261121t093000z`."""
    return f"{name}-{_utc(scheduled_ms):%Y%m%dt%H%M%Sz}"


def render_schedule_input(
    spec: ScheduleSpec, name: str, scheduled_ms: int, run_id: str = ""
) -> Any:
    """Return a run's input: the template with what is known of its due time put in.

    Raises `ScheduleError` for a template that is no JSON, or names a field that is none.
    """
    try:
        template = json.loads(spec.input)
    except (ValueError, RecursionError) as error:
        raise ScheduleError(f"schedule: input: this is no JSON: {error}") from None
    moment = _utc(scheduled_ms).astimezone(time_zone(spec.timezone))
    known = {
        "date": moment.date().isoformat(),
        "ms": str(scheduled_ms),
        "name": name,
        "run_id": run_id or scheduled_run_id(name, scheduled_ms),
        "time": moment.isoformat(),
    }
    return _rendered(template, known)


def _rendered(value: Any, known: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return _FIELD.sub(lambda match: _field(match, known), value) if "$" in value else value
    if isinstance(value, list):
        return [_rendered(each, known) for each in value]
    if isinstance(value, dict):
        return {key: _rendered(each, known) for key, each in value.items()}
    return value


def _field(match: re.Match[str], known: Mapping[str, str]) -> str:
    inside = match.group(1)
    if inside is None:
        return "${"
    root, _, field = inside.strip().partition(".")
    if root != "schedule" or field not in known:
        names = [f"schedule.{each}" for each in _FIELDS]
        raise ScheduleError(
            f"schedule: input: unknown name {inside!r}{did_you_mean(inside, names)}; it is one of"
            f" {', '.join(names)}; write $${{ for a text that holds ${{"
        )
    return known[field]


def _milliseconds(field: str, seconds: float) -> int:
    try:
        return round(seconds * _SECOND_MS)
    except (ValueError, OverflowError):
        raise ScheduleError(f"schedule: {field}: {seconds} is no length of time") from None


def _utc(at_ms: int) -> datetime:
    return datetime.fromtimestamp(at_ms / _SECOND_MS, UTC)
