"""What was worked, how often, and on whose word: I2, I5."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from holdfast.bus.port import Position
from holdfast.coordinator.engine import TASK_ENDS, TASK_TRANSITIONS
from holdfast.schemas.records import (
    Accepted,
    Ask,
    ControlAction,
    Event,
    EventType,
    Outcome,
    StepEntry,
    StepKind,
    Submission,
    TaskProgress,
    TaskResult,
    TaskRow,
    TaskState,
)
from holdfast.testing.evidence import BodyStart, EffectSeen, Evidence, Excused, PoisonSent
from holdfast.testing.history import Attempt, Decoded, History, Result
from holdfast.testing.invariants.rulings import rulings_hold
from holdfast.testing.invariants.verdict import Findings

__all__ = ["committed_causes", "once_each"]

HEADER_DEAD_LETTER = "holdfast-dead-letter"
"""On a result: its record could not be read; another record may speak of the same attempt."""

OF_NO_TASK = (ControlAction.DELETE_STATE, ControlAction.PAUSE, ControlAction.RESUME)
OPEN_STEPS = (StepKind.INTENT, StepKind.ASK)
"""Another record follows under the same key: the effect, or the answer."""
EXCUSED_AFTER_MS = 5_000
"""A process that was woken has so long to find out that it is not the owner any more."""


def excused(evidence: Evidence, start: BodyStart) -> bool:
    """Tell whether a body may have started late: its process was stopped before it.

    `Excused(process="*")` is for faults that make clocks useless.
    """
    return any(
        row.process in ("*", start.process)
        and row.from_ms <= start.at_ms <= row.to_ms + EXCUSED_AFTER_MS
        for row in evidence.of(Excused)
    )


def once_each(history: History, evidence: Evidence, found: Findings) -> None:
    """Each task has one accepted result, each step one journal record, and no body runs after it.

    A task's row follows the engine's table and has one end; a success says what its cause, the
    agent's result, says, or an operator's word that was accepted before. An attempt is answered
    once (a cancel that came after its end is answered too, each once). A step or effect is
    journaled once ever, an effect after its intent, and before any result tells of it; none of its
    bodies starts after that record, no handler after its attempt's result (by commit number where
    that is known, else by wall time of one machine; stopped processes are excused). At an outside
    ledger that honours idempotency keys no effect is applied twice. What a handler waits for is
    asked once and answered once at most.
    """
    for run_id, events in history.events_of.items():
        _task_rows(history, run_id, events, found)
        rulings_hold(run_id, events, found)
    _one_answer_each(history, found)
    _one_reply_per_ask(history, found)
    journaled = _one_record_per_step(history, found)
    _told_steps_are_journaled(history, journaled, found)
    _no_body_after(history, evidence, journaled, found)
    applied = Counter(
        row.idempotency_key for row in evidence.of(EffectSeen) if row.outcome == "applied"
    )
    found.looked("effects at the outside ledger", applied.total())
    for key, count in applied.items():
        if count > 1:
            found.violated(f"an effect was applied {count} times", key)


def _task_rows(
    history: History, run_id: str, events: Sequence[Decoded[Event]], found: Findings
) -> None:
    states: dict[str, TaskState] = {}
    for event in events:
        row = event.body.task
        if row is None:
            continue
        before = states.get(row.task_id, TaskState.PENDING)
        name = f"{run_id}/{row.task_id}"
        if before in TASK_ENDS:
            found.violated(f"{name}: {event.body.type} after its end ({before})", event.place)
        elif row.state is not before and row.state not in TASK_TRANSITIONS[before]:
            found.violated(f"{name} went from {before} to {row.state}", event.place)
        states[row.task_id] = row.state
        if event.body.type is EventType.TASK_SUCCEEDED:
            found.looked("successes")
            _same_as_its_cause(history, event, row, found)
    found.looked("tasks", len(states))


def _same_as_its_cause(
    history: History, event: Decoded[Event], row: TaskRow, found: Findings
) -> None:
    cause = event.body.cause
    if not row.attempt or cause is None or row.ruling is not None:
        return  # a map, taken over from another run, or an operator's: no agent's word
    given = history.input_at.get((cause.partition, cause.offset))
    if given is None:
        return  # I5 says so
    result = given.body.body
    if not (
        isinstance(result, TaskResult)
        and given.body.run_id == event.body.run_id
        and (result.task_id, result.attempt) == (row.task_id, row.attempt)
        and result.outcome is Outcome.SUCCEEDED
        and result.output == row.output
    ):
        found.violated(
            f"{event.body.run_id}/{row.task_id} succeeded by a record that says otherwise: "
            f"{given.place}",
            event.place,
        )


def _one_answer_each(history: History, found: Findings) -> None:
    for attempt, results in history.results.items():
        found.looked("answered attempts")
        if len(results) == 1:
            continue
        read = [r for r in results if not _unreadable(r)]
        ends = [r for r in read if r.body.outcome is not Outcome.CANCELLED]
        if len(ends) > 1:
            places = ", ".join(r.place for r in ends)
            found.violated(f"{attempt} was answered {len(ends)} times: {places}", ends[1].place)
        cancelled = len(read) - len(ends)
        asked = len(history.cancels.get(attempt, ()))
        if cancelled > max(asked, 1):
            found.violated(
                f"{attempt} was answered as cancelled {cancelled} times, asked for {asked} times",
                read[-1].place,
            )


def _unreadable(result: Result) -> bool:
    return any(name == HEADER_DEAD_LETTER for name, _ in result.received.headers)


StepName = tuple[str, str, int]
"""The agent, the journal key of the step, and the attempt with which its task was restarted."""


def _one_record_per_step(history: History, found: Findings) -> dict[StepName, Decoded[StepEntry]]:
    journaled: dict[StepName, Decoded[StepEntry]] = {}
    for agent in history.agents:
        whole = history.whole(history.topics.journal(agent))
        for entries in history.journal(agent).values():
            intents: set[str] = set()
            for entry in entries:
                body = entry.body
                if not isinstance(body, StepEntry):
                    continue
                if body.kind in OPEN_STEPS:
                    intents.add(entry.key)
                    continue
                found.looked("journaled steps")
                if body.kind is StepKind.EFFECT and whole and entry.key not in intents:
                    found.violated(f"{entry.key}: an effect without its intent", entry.place)
                if body.kind is StepKind.ANSWER and whole and entry.key not in intents:
                    found.violated(f"{entry.key}: an answer that nobody asked for", entry.place)
                run_id, task_id = entry.key.split("/", 2)[:2]
                name = (agent, entry.key, history.begun_anew(run_id, task_id, body.attempt))
                first = journaled.setdefault(name, Decoded(entry.received, body))
                if first.received is not entry.received:
                    found.violated(f"{entry.key} was journaled before: {first.place}", entry.place)
        if not whole:
            found.cannot(f"records of {agent!r}'s journal are missing: a step may be among them")
    return journaled


def _told_steps_are_journaled(
    history: History, journaled: dict[StepName, Decoded[StepEntry]], found: Findings
) -> None:
    if not history.whole(*(history.topics.journal(agent) for agent in history.agents)):
        return  # said above
    keys = {key for _, key, _ in journaled}
    for attempt, results in history.results.items():
        for result in results:
            for step in result.body.steps:
                found.looked("steps of results")
                key = f"{attempt.run_id}/{attempt.task_id}/step/{step.name}/{step.key}"
                if step.kind not in OPEN_STEPS and key not in keys:
                    found.violated(f"{key} is told of, and was never journaled", result.place)


def _no_body_after(
    history: History,
    evidence: Evidence,
    journaled: dict[StepName, Decoded[StepEntry]],
    found: Findings,
) -> None:
    by_key = {(key, begun): entry for (_, key, begun), entry in journaled.items()}
    for start in evidence.of(BodyStart):
        if start.step is None:
            found.looked("handler starts")
            ends = history.results.get(Attempt(start.run_id, start.task_id, start.attempt), [])
            record = ends[0].received if ends else None
        else:
            found.looked("step body starts")
            key = f"{start.run_id}/{start.task_id}/step/{start.step}/{start.key}"
            begun = history.begun_anew(start.run_id, start.task_id, start.attempt)
            entry = by_key.get((key, begun))
            record = None if entry is None else entry.received
        if record is None:
            continue
        if start.after_commit is not None and history.commits is not None:
            late = history.commit_at.get(record.position, len(history.commits)) < start.after_commit
        else:
            late = start.at_ms > record.timestamp_ms
        if late and not excused(evidence, start):
            what = "its handler" if start.step is None else f"step {start.step!r} ({start.key!r})"
            found.violated(
                f"{start.run_id}/{start.task_id} attempt {start.attempt}: a body of {what} started "
                f"at {start.at_ms} ms in {start.process}, after its end was committed",
                f"{record.topic}/{record.partition}/{record.offset}",
            )


def _asked(
    history: History, run_id: str, task_id: str, attempt: int, *step: str
) -> tuple[str, ...]:
    """Return what names an ask: a restarted task asks anew, under the same names."""
    begun = history.begun_anew(run_id, task_id, attempt)
    return (run_id, task_id, *step, *([f"restarted with attempt {begun}"] if begun else []))


def _one_reply_per_ask(history: History, found: Findings) -> None:
    asked: Counter[tuple[str, ...]] = Counter()
    for given in history.inputs:
        ask = given.body.body
        if isinstance(ask, Ask) and not history.misplaced(given.received):
            found.looked("asks")
            where = _asked(history, given.body.run_id, ask.task_id, ask.attempt, ask.name, ask.key)
            asked[where] += 1
            if asked[where] > 1:
                found.violated(f"{'/'.join(where)} was asked {asked[where]} times", given.place)
    answered: set[tuple[str, ...]] = set()
    whole = history.whole(history.topics.coordinator)
    for agent in history.agents:
        for control in history.control(agent):
            reply = control.body.reply
            if reply is None or history.misplaced(control.received):
                continue
            found.looked("answers to asks")
            told = control.body
            where = _asked(history, told.run_id, told.task_id, told.attempt, reply.name, reply.key)
            if where in answered:
                found.violated(f"{'/'.join(where)} was answered twice", control.place)
            if where not in asked and whole:
                found.violated(f"{'/'.join(where)} was answered, and never asked", control.place)
            answered.add(where)


# --- I5 ----------------------------------------------------------------------------------------


def committed_causes(history: History, evidence: Evidence, found: Findings) -> None:
    """Nothing acts on a record that was not committed: each effect has a committed cause.

    Every event's cause stands on the coordinator's topic, in the partition of the event, and is
    about its run; every task record has its `task.dispatched`; every word about a task has a run;
    every result, progress, acceptance and journaled step, and every body that started, has a task
    record of that attempt (a cancelled attempt: the cancel); a dead letter has its source. Where
    commits are known, no body started before its task record was visible.
    """
    _causes_of_events(history, found)
    _causes_of_tasks(history, evidence, found)
    _causes_of_answers(history, found)
    _causes_in_journals(history, found)
    _causes_of_bodies(history, evidence, found)
    _causes_of_letters(history, found)


def _causes_of_events(history: History, found: Findings) -> None:
    topic = history.topics.coordinator
    whole = history.whole(topic)
    for event in history.events:
        cause = event.body.cause
        if cause is None:
            continue
        found.looked("causes of events")
        given = history.input_at.get((cause.partition, cause.offset))
        if cause.partition != event.received.partition:
            found.violated(
                f"{event.body.type}: its cause is in partition {cause.partition}", event.place
            )
        elif given is None:
            if Position(topic, cause.partition, cause.offset) in history.unreadable_inputs:
                continue
            if whole:
                found.violated(
                    f"{event.body.type} of {event.body.run_id}: its cause at {cause.offset} is not "
                    "on the topic",
                    event.place,
                )
            else:
                found.cannot("records of the coordinator's topic are missing")
        elif given.body.run_id != event.body.run_id:
            found.violated(
                f"{event.body.type} of {event.body.run_id}: its cause is about {given.body.run_id}",
                event.place,
            )
        elif event.body.type is EventType.RUN_STARTED and not isinstance(
            given.body.body, Submission
        ):
            found.violated("a run was started by what is no submission", event.place)


def _causes_of_tasks(history: History, evidence: Evidence, found: Findings) -> None:
    dispatched = {
        Attempt(event.body.run_id, event.body.task.task_id, event.body.task.attempt)
        for event in history.events
        if event.body.type is EventType.TASK_DISPATCHED and event.body.task is not None
    }
    planted = {(row.topic, row.partition, row.offset) for row in evidence.of(PoisonSent)}
    whole = history.whole(history.topics.events)
    for attempt, tasks in history.attempts.items():
        for _, task in tasks:
            found.looked("task records")
            if attempt not in dispatched and whole and task.received.position not in planted:
                found.violated(f"{attempt} was sent without a task.dispatched", task.place)
        if len(tasks) > 1 and not any(t.received.position in planted for _, t in tasks):
            found.violated(f"{attempt} was sent {len(tasks)} times", tasks[1][1].place)
    for agent in history.agents:
        for control in history.control(agent):
            found.looked("words about tasks")
            if control.body.action in OF_NO_TASK:
                continue  # an operator's, about an agent or an order key
            if control.body.run_id not in history.events_of and whole:
                found.violated(f"a word about unknown run {control.body.run_id}", control.place)


def _causes_of_answers(history: History, found: Findings) -> None:
    whole = history.whole(*(history.topics.tasks(agent) for agent in history.agents))
    if not whole:
        found.cannot("records of a task topic are missing")
    for attempt, results in history.results.items():
        known = attempt in history.attempts or attempt in history.cancels
        for result in results:
            found.looked("results")
            if not known and whole and not _unreadable(result):
                found.violated(f"a result of {attempt}, which was never handed over", result.place)
    for given in history.inputs:
        body = given.body.body
        if isinstance(body, TaskProgress):
            found.looked("progress records")
            attempt = Attempt(given.body.run_id, body.task_id, body.attempt)
            if attempt not in history.attempts and whole:
                found.violated(f"progress of {attempt}, which was never handed over", given.place)


def _causes_in_journals(history: History, found: Findings) -> None:
    for agent in history.agents:
        topic = history.topics.tasks(agent)
        whole = history.whole(topic)
        by_offset = {
            (task.received.partition, task.received.offset): task for task in history.tasks(agent)
        }
        for number, entries in history.journal(agent).items():
            for entry in entries:
                body = entry.body
                if isinstance(body, Accepted):
                    found.looked("acceptances")
                    task = by_offset.get((number, body.input_offset))
                    if whole and (task is None or task.body != body.envelope):
                        found.violated(
                            f"{entry.key} was accepted from offset {body.input_offset}, where it "
                            "does not stand",
                            entry.place,
                        )
                elif isinstance(body, StepEntry):
                    found.looked("journaled steps")
                    run_id, task_id = entry.key.split("/", 2)[:2]
                    attempt = Attempt(run_id, task_id, body.attempt)
                    if whole and attempt not in history.attempts:
                        found.violated(f"a step of {attempt}, never handed over", entry.place)


def _causes_of_bodies(history: History, evidence: Evidence, found: Findings) -> None:
    whole = history.whole(*(history.topics.tasks(agent) for agent in history.agents))
    for start in evidence.of(BodyStart):
        found.looked("bodies")
        attempt = Attempt(start.run_id, start.task_id, start.attempt)
        tasks = history.attempts.get(attempt)
        if tasks is None:
            if whole:
                found.violated(f"a body of {attempt}, which was never handed over", start.process)
        elif start.after_commit is not None and history.commits is not None:
            visible = min(history.commit_at.get(t.received.position, -1) for _, t in tasks)
            if visible >= start.after_commit:
                found.violated(
                    f"a body of {attempt} before its task was visible", tasks[0][1].place
                )


def _causes_of_letters(history: History, found: Findings) -> None:
    for letter in history.dead_letters:
        source = letter.body.source
        if source is None:
            found.looked("dead letters of tasks")
            if letter.body.run_id not in history.events_of and history.whole(history.topics.events):
                found.violated(f"a dead letter of unknown run {letter.body.run_id}", letter.place)
            continue
        found.looked("dead letters of records")
        where = Position(source.topic, source.partition, source.offset)
        if history.at(where) is None and history.whole(source.topic):
            found.violated(
                f"its source {source.topic}/{source.partition}/{source.offset} is not there",
                letter.place,
            )
