"""`schedules create|list|show|pause|resume|trigger|backfill|update|delete`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli.failures import BadInput, ExitCode, NotThere
from holdfast.cli.inputs import parse_input
from holdfast.cli.invocation import Invocation, invocation_of
from holdfast.cli.printing import clip, moment, print_json, print_lines, print_table

if TYPE_CHECKING:
    from holdfast.client import ScheduleReceipt, Schedules
    from holdfast.coordinator.projection import ScheduleView
    from holdfast.schemas import PlanDocument, ScheduleRow, ScheduleSpec

__all__ = ["register"]

NEXT_TIMES = 5

Name = Annotated[str, typer.Argument(metavar="NAME", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Reason = Annotated[str, typer.Option(help="Why, for the audit trail.")]
PlanFile = Annotated[Path | None, typer.Argument(metavar="PLAN", help="A plan: YAML or JSON.")]
TaskName = Annotated[str | None, typer.Option(metavar="AGENT.TASK", help="A lone task.")]
Cron = Annotated[
    list[str] | None,
    typer.Option(help="Five fields, or six with seconds before them; may be repeated."),
]
Every = Annotated[
    float | None, typer.Option(metavar="SECONDS", help="An interval instead of --cron.")
]
Zone = Annotated[str | None, typer.Option("--tz", help="Time zone of --cron; default UTC.")]
Input = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=VALUE|JSON|@FILE", help="May hold ${schedule.time} and others."),
]
Overlap = Annotated[
    str | None, typer.Option(help="skip (the default), queue, allow or cancel-previous.")
]
CatchUp = Annotated[
    float | None, typer.Option(metavar="SECONDS", help="Older times are missed; default 60.")
]
CatchUpRuns = Annotated[int | None, typer.Option(help="At most so many at once; default 100.")]
Jitter = Annotated[
    float | None, typer.Option(metavar="SECONDS", help="Each time is put off by up to this.")
]
Start = Annotated[datetime | None, typer.Option(help="No time before it counts.")]
End = Annotated[datetime | None, typer.Option(help="No time from it on counts.")]
OrderKey = Annotated[str | None, typer.Option(help="Of the runs, instead of their plan's.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(help="Runs that are started by the clock.", no_args_is_help=True)
    group.command()(create)
    group.command("list")(list_all)
    group.command()(show)
    group.command()(pause)
    group.command()(resume)
    group.command()(trigger)
    group.command()(backfill)
    group.command()(update)
    group.command()(delete)
    app.add_typer(group, name="schedules")


def create(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(metavar="NAME", show_default=False)] = None,
    plan: PlanFile = None,
    task: TaskName = None,
    file: Annotated[
        Path | None, typer.Option(help="All of it from a file, YAML or JSON, instead.")
    ] = None,
    cron: Cron = None,
    every: Every = None,
    tz: Zone = None,
    input: Input = None,  # noqa: A002 - the flag's name
    overlap: Overlap = None,
    catch_up: CatchUp = None,
    catch_up_runs: CatchUpRuns = None,
    jitter: Jitter = None,
    start: Start = None,
    end: End = None,
    order_key: OrderKey = None,
    paused: Annotated[bool, typer.Option(help="It begins paused.")] = False,
    reason: Reason = "",
    json: AsJson = False,
) -> int:
    """Let a plan, or a lone task, be run by the clock."""
    from holdfast.schemas import Schedule, load_schedule

    times = (cron, every, tz, input, overlap, catch_up, catch_up_runs, jitter, start, end)
    given = _given(*times, order_key)
    if file is not None:
        if plan is not None or task is not None or given:
            raise BadInput("--file says all of it: leave PLAN, --task and the times out")
        found = load_schedule(file)
        if name not in (None, found.name):
            raise BadInput(f"the file is of schedule {found.name!r}, not {name!r}")
        name, work, schedule = found.name, found.work, found.schedule
    else:
        if name is None:
            raise BadInput("name the schedule: holdfast schedules create NAME PLAN --cron …")
        work, schedule = _work(plan, task), Schedule.of(given)
    named = name

    async def send(schedules: Schedules) -> ScheduleReceipt:
        return await schedules.create(named, work, schedule, paused=paused, reason=reason)

    return _send(context, named, send, json=json)


def update(
    context: typer.Context,
    name: Name,
    plan: PlanFile = None,
    task: TaskName = None,
    cron: Cron = None,
    every: Every = None,
    tz: Zone = None,
    input: Input = None,  # noqa: A002 - the flag's name
    overlap: Overlap = None,
    catch_up: CatchUp = None,
    catch_up_runs: CatchUpRuns = None,
    jitter: Jitter = None,
    start: Start = None,
    end: End = None,
    order_key: OrderKey = None,
    revision: Annotated[
        int | None, typer.Option(help="Refused unless it is at this one; default: as read now.")
    ] = None,
    reason: Reason = "",
    json: AsJson = False,
) -> int:
    """Change what is named; all else stays as it is. The plan is resolved anew if it is named."""
    from holdfast.schemas import Schedule

    times = (cron, every, tz, input, overlap, catch_up, catch_up_runs, jitter, start, end)
    given = _given(*times, order_key)
    work = None if plan is None and task is None else _work(plan, task)
    if not given and work is None:
        raise BadInput("name what is to be changed: see holdfast schedules update --help")

    async def send(schedules: Schedules) -> ScheduleReceipt:
        row = await schedules.get(name)
        before = Schedule.from_spec(row.spec).model_dump()
        if "cron" in given:
            before["every_s"] = None
        elif "every_s" in given:
            before["cron"] = ()
        changed = Schedule.of({**before, **given})
        at = row.revision if revision is None else revision
        return await schedules.update(name, changed, work=work, revision=at, reason=reason)

    return _send(context, name, send, json=json)


def _given(*values: Any) -> dict[str, Any]:
    """Return what was given, by the names of `Schedule`."""
    names = (
        "cron",
        "every_s",
        "timezone",
        "input",
        "overlap",
        "catch_up_s",
        "catch_up_runs",
        "jitter_s",
        "start",
        "end",
        "order_key",
    )
    given = dict(zip(names, values, strict=True))
    if given["input"] is not None:
        given["input"] = parse_input(given["input"])
    return {name: value for name, value in given.items() if value is not None}


def _work(plan: Path | None, task: str | None) -> PlanDocument | str:
    if (plan is None) == (task is None):
        raise BadInput("name a plan file, or a task by --task AGENT.TASK; not both")
    if plan is None:
        return str(task)
    from holdfast.schemas import load_plan

    return load_plan(plan)


# --- reading -----------------------------------------------------------------------------------


def list_all(
    context: typer.Context,
    deleted: Annotated[bool, typer.Option("--all", help="Those that were deleted too.")] = False,
    json: AsJson = False,
) -> int:
    """List schedules."""
    from holdfast.cli.reading import reading
    from holdfast.coordinator.projection import list_schedules

    invocation = invocation_of(context)

    async def execute() -> int:
        async with reading(invocation) as opened:
            found = await opened.ask(lambda c: list_schedules(c, deleted=deleted))
        if json:
            from holdfast.cli.documents import schedule_document

            print_json({"schedules": [schedule_document(row) for row in found]})
            return ExitCode.OK
        headers = ("SCHEDULE", "PLAN", "STATE", "WHEN", "NEXT", "OPEN", "LAST", "")
        print_table(headers, [_listed(row) for row in found], "No schedules.")
        return ExitCode.OK

    return invocation.run(execute())


def _listed(row: ScheduleRow) -> tuple[str, ...]:
    return (
        row.name,
        row.spec.plan_name,
        row.state.value,
        _when(row.spec),
        moment(row.next_ms) if row.state == "active" else "-",
        str(row.open_runs),
        row.firings[-1].outcome.value if row.firings else "-",
        clip(row.note, 60),
    )


def _when(spec: ScheduleSpec) -> str:
    if spec.interval_ms is not None:
        return f"every {spec.interval_ms / 1_000:g} s"
    return f"{', '.join(spec.cron)} ({spec.timezone})"


def show(context: typer.Context, name: Name, json: AsJson = False) -> int:
    """Show a schedule: its next times, and what became of the newest."""
    from holdfast.cli.reading import reading
    from holdfast.coordinator.projection import find_schedule
    from holdfast.schemas import next_times

    invocation = invocation_of(context)

    async def execute() -> int:
        async with reading(invocation) as opened:
            found = await opened.ask(lambda c: find_schedule(c, name))
            now_ms = opened.now_ms
        if found is None:
            raise NotThere(f"no schedule {name!r} on this bus and namespace; see `schedules list`")
        row = found.row
        times = [] if row.state == "deleted" else next_times(row.spec, now_ms, NEXT_TIMES)
        if json:
            print_json(_whole(found, times))
        else:
            _print(row, times)
        return ExitCode.OK

    return invocation.run(execute())


def _whole(found: ScheduleView, times: list[int]) -> dict[str, Any]:
    from holdfast.cli.documents import schedule_document

    document = schedule_document(found.row)
    return {**document, "next_times_ms": times, "resolved_plan": found.plan}


def _print(row: ScheduleRow, times: list[int]) -> None:
    from zoneinfo import ZoneInfo

    spec = row.spec
    zone = ZoneInfo(spec.timezone)
    lines = [
        f"schedule  {row.name} ({spec.plan_name}), revision {row.revision}",
        f"state     {row.state.value}" + (f": {row.note}" if row.note else ""),
        f"when      {_when(spec)}",
        f"overlap   {spec.overlap.value.replace('_', '-')}, {row.open_runs} runs open",
        f"catch up  {spec.catch_up_ms / 1_000:g} s, at most {spec.catch_up_runs} runs",
        f"input     {clip(spec.input)}",
        f"so far    {row.fired} fired, {row.skipped} skipped, {row.missed} missed",
        f"changed   {moment(row.changed_ms)} by {row.changed_by}",
    ]
    label = "next" if row.state == "active" else "would be"
    for index, at in enumerate(times):
        told = datetime.fromtimestamp(at / 1_000, zone).isoformat(" ")
        lines.append(f"{label if index == 0 else '':<9} {told}")
    print_lines(*lines, "")
    rows = [
        (moment(f.scheduled_ms), f.run_id, f.cause.value, f.outcome.value, clip(f.message, 60))
        for f in row.firings
    ]
    print_table(("DUE", "RUN", "BY", "OUTCOME", ""), rows, "Nothing was due yet.")


# --- steering ----------------------------------------------------------------------------------


def pause(context: typer.Context, name: Name, reason: Reason = "", json: AsJson = False) -> int:
    """Start no more runs; those that are open go on. The reason is shown as its note."""
    return _send(context, name, lambda s: s.pause(name, reason=reason), json=json)


def resume(context: typer.Context, name: Name, reason: Reason = "", json: AsJson = False) -> int:
    """Go on after a pause; times of the last --catch-up seconds are made good."""
    return _send(context, name, lambda s: s.resume(name, reason=reason), json=json)


def delete(context: typer.Context, name: Name, reason: Reason = "", json: AsJson = False) -> int:
    """Forget a schedule; runs that it has started go on."""
    return _send(context, name, lambda s: s.delete(name, reason=reason), json=json)


def trigger(
    context: typer.Context,
    name: Name,
    overlap: Annotated[
        str | None, typer.Option(help="Instead of its own policy: skip, queue, allow, …")
    ] = None,
    trigger_id: Annotated[
        str | None, typer.Option(help="Repeat the command with it as often as you like.")
    ] = None,
    reason: Reason = "",
    json: AsJson = False,
) -> int:
    """Start a run now."""
    from holdfast.schemas import OverlapPolicy, did_you_mean

    known = {policy.value.replace("_", "-"): policy for policy in OverlapPolicy}
    if overlap is not None and overlap not in known:
        raise BadInput(f"--overlap {overlap!r} is none{did_you_mean(overlap, known)}")
    policy = None if overlap is None else known[overlap]

    async def send(schedules: Schedules) -> ScheduleReceipt:
        return await schedules.trigger(name, overlap=policy, trigger_id=trigger_id, reason=reason)

    return _send(context, name, send, json=json)


def backfill(
    context: typer.Context,
    name: Name,
    start: Annotated[datetime, typer.Option("--from", help="The first time; its own zone.")],
    end: Annotated[datetime, typer.Option("--to", help="The end, which is left out.")],
    parallel: Annotated[int, typer.Option(min=1, max=50, help="Runs at once.")] = 1,
    reason: Reason = "",
    json: AsJson = False,
) -> int:
    """Start the runs of times that have passed; those that have run do not run again."""

    async def send(schedules: Schedules) -> ScheduleReceipt:
        return await schedules.backfill(name, start, end, parallel=parallel, reason=reason)

    return _send(context, name, send, json=json)


def _send(
    context: typer.Context,
    name: str,
    send: Callable[[Schedules], Awaitable[ScheduleReceipt]],
    *,
    json: bool,
) -> int:
    async def execute(invocation: Invocation) -> int:
        async with invocation.client() as client:
            receipt = await send(client.schedules)
        _print_receipt(name, receipt, json=json)
        return ExitCode.OK

    invocation = invocation_of(context)
    return invocation.run(execute(invocation))


def _print_receipt(name: str, receipt: ScheduleReceipt, *, json: bool) -> None:
    if not json:
        print_lines(receipt.message)
        return
    position = {"partition": receipt.position.partition, "offset": receipt.position.offset}
    print_json(
        {
            "schedule": name,
            "command_id": receipt.command_id,
            "position": position,
            "revision": receipt.row.revision,
            "state": receipt.row.state.value,
            "next_ms": receipt.row.next_ms,
            "run_id": receipt.run_id,
            "message": receipt.message,
        }
    )
