"""The transition log and lists of sessions as tables.

Rule: a table is readable at 80 columns and uses more where there are more; the same one serves every command. Below
`WIDE` columns what belongs together is stacked in one cell, above it each has a column of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich import box
from rich.table import Table
from rich.text import Text

from lifecycle.audit import RecordKind, StepOutcome
from lifecycle.cli.terminal import Marks, long_time, marks, short_id, span
from lifecycle.states import EDGES, State, Step

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import date

    from rich.console import Console

    from lifecycle.attachment import SessionStatus
    from lifecycle.audit import Record, StepResult
    from lifecycle.audit.stats import Stats

__all__ = ["record_line", "records_table", "sessions_table", "state_style", "stats_tables"]

ROOMY: Final = 100
"""From so many columns on, there is more room between the columns."""

WIDE: Final = 160
"""From so many columns on, each part of a record has a column, and ids are shown whole."""

_ALIGNED: Final = max(len(f"{edge.source} > {edge.dest}") for edge in EDGES)
"""Letters of the longest transition."""

_STATES: Final = {
    State.NOT_STARTED: "dim",
    State.ACTIVE: "green",
    State.CLOSED: "blue",
    State.ERROR: "red",
    State.TIMED_OUT: "yellow",
}

_KINDS: Final = {
    RecordKind.INTENT: "dim",
    RecordKind.COMMIT: "bold",
    RecordKind.DIVERTED: "red",
    RecordKind.REJECTED: "yellow",
    RecordKind.RECOVERED: "yellow",
}

_OUTCOMES: Final = {
    StepOutcome.DONE: "dim",
    StepOutcome.FAILED: "red",
    StepOutcome.TIMED_OUT: "red",
    StepOutcome.CANCELLED: "yellow",
}

_COUNTS: Final = {
    Step.READ_COOKIES: (("cookies_unreadable", "unreadable"),),
    Step.LOAD_COOKIES: (("cookies_loaded", "loaded"), ("cookies_rejected", "refused")),
    Step.SAVE_COOKIES: (("cookies_saved", "saved"), ("cookie_conflicts", "in conflict")),
}
"""Which counts of a record belong to which of its steps."""


def state_style(state: State) -> str:
    """The colour of a state."""
    return _STATES[state]


def records_table(records: Sequence[Record], console: Console) -> Table:
    """The transition log, one row a record, in the order given.

    Steps that had nothing to do are left out; the record itself has them.
    """
    signs = marks(console)
    wide = console.width >= WIDE
    table = _table(console)
    table.add_column("time (UTC)", no_wrap=True, style="dim")
    for column in ("session", "event", "record"):
        table.add_column(column, no_wrap=True)
    if wide:
        table.add_column("transition", no_wrap=True)
        table.add_column("why", no_wrap=True)
        table.add_column("steps in ms", overflow="fold")
    else:
        table.add_column("transition and why, steps in ms", overflow="fold")
    last = {record.session_id: index for index, record in enumerate(records)}
    day: date | None = None
    for index, record in enumerate(records):
        if record.at.date() != day:
            day = record.at.date()
            table.add_row(str(day))
        when = record.at.strftime("%H:%M:%S.%f")[:-3]
        transition, why, steps = _transition(record, signs), _why(record), _steps(record, signs)
        if not wide:
            transition.pad_right(_ALIGNED - transition.cell_len if console.width >= ROOMY else 0)
            parts = [Text("\n").join(part for part in (transition.append("  ").append_text(why), steps) if part)]
        else:
            parts = [transition, why, steps]
        style = _KINDS.get(record.kind, "")
        table.add_row(when, short_id(record.session_id), record.event, Text(record.kind, style=style), *parts)
        if last[record.session_id] == index:
            table.add_section()
    return table


def record_line(record: Record, signs: Marks) -> str:
    """A record in one line, for a log that is followed."""
    when = record.at.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    parts = [_transition(record, signs), _why(record), _steps(record, signs)]
    told = "  ".join(" ".join(part.plain.split()) for part in parts if part)
    return f"{when} {short_id(record.session_id):<8} {record.event:<7} {record.kind:<9} {told}"


def stats_tables(stats: Stats, console: Console) -> Iterator[Table]:
    """The numbers of a log: its states, steps, endings and failures, each as a table."""
    states = _table(console)
    states.add_column(f"state ({stats.records} records)", no_wrap=True)
    for column in ("entered", "left", "median", "95 % within", "longest"):
        states.add_column(column, no_wrap=True, justify="right")
    for state in stats.states:
        times = state.seconds
        told = [str(times.count), span(times.p50), span(times.p95), span(times.max)] if times else ["-"] * 4
        states.add_row(Text(state.state, style=_STATES[state.state]), str(state.entered), *told)
    yield states
    if stats.steps:
        steps = _table(console)
        steps.add_column("step, in ms", no_wrap=True)
        for column in ("ran", "median", "95 % within", "longest"):
            steps.add_column(column, no_wrap=True, justify="right")
        steps.add_column("failures", overflow="fold")
        for step in stats.steps:
            ms = step.ms
            told = [str(ms.count), *(f"{value:.1f}" for value in (ms.p50, ms.p95, ms.max))] if ms else ["0", *"---"]
            failures = ", ".join(f"{name} {count}" for name, count in step.failures.items())
            steps.add_row(step.step, *told, Text(failures, style="red"))
        yield steps
    if stats.endings:
        endings = _table(console)
        for column in ("ended as", "reason"):
            endings.add_column(column, no_wrap=True)
        endings.add_column("attachments", no_wrap=True, justify="right")
        for ending in stats.endings:
            endings.add_row(
                Text(ending.state, style=_STATES[ending.state]), ending.close_reason or "-", str(ending.count)
            )
        yield endings
    if stats.failures:
        failed = _table(console)
        for column in ("failed by", "error"):
            failed.add_column(column, no_wrap=True)
        failed.add_column("attachments", no_wrap=True, justify="right")
        for failure in stats.failures:
            failed.add_row(failure.cause, Text(failure.error or "-", style="red"), str(failure.count))
        yield failed


def _table(console: Console) -> Table:
    gap = 1 if console.width >= ROOMY else 0  # the box has a blank of its own between columns
    return Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, gap, 0, 0), header_style="bold")


_STAYS: Final = (
    RecordKind.REJECTED,
    RecordKind.IGNORED,
    RecordKind.JOINED,
    RecordKind.EXTENDED,
    RecordKind.HELD,
    RecordKind.SPILLED,
    RecordKind.STALE,
)
"""Kinds of records in which no state is left."""


def _transition(record: Record, signs: Marks) -> Text:
    source = Text().append(record.source, style=_STATES[record.source])
    if record.kind in _STAYS:
        return source
    reached = record.kind in (RecordKind.COMMIT, RecordKind.RECOVERED)
    dest = Text(record.dest, style=_STATES[record.dest] if reached else "dim")
    return Text(f" {signs.arrow} ").join([source, dest])


def _why(record: Record) -> Text:
    # A deadline is named by the reason that it gives.
    words = [record.cause] if record.cause != "deadline" or record.close_reason is None else []
    why = Text(": ".join([*words, *([record.close_reason] if record.close_reason is not None else [])]))
    if record.kind in (RecordKind.EXTENDED, RecordKind.HELD):
        why.append(f" {record.counts.get('seconds', 0) / 60:.3g} min")
    if record.kind is RecordKind.SPILLED:
        why.append(f" {record.counts.get('records', 0)} records, written late")
    if record.said is not None:
        why.append(f" {record.said} to {record.dest}, after its lease was lost")
    if record.note is not None:
        why.append(f" {record.note}")
    if record.error is not None:
        why.append(" ").append(record.error, style="red")
    failed = [guard.guard for guard in record.guards if not guard.held]
    if failed:
        why.append(f" (not: {', '.join(failed)})", style="yellow")
    return why


def _steps(record: Record, signs: Marks) -> Text:
    told = [step for step in record.steps if step.outcome is not StepOutcome.SKIPPED or "gone" in (step.note or "")]
    return Text(", ").join(_step(step, record, signs) for step in told)


def _step(step: StepResult, record: Record, signs: Marks) -> Text:
    if step.outcome is StepOutcome.SKIPPED:
        return Text(f"{step.step} skipped: {step.note}", style="yellow")
    # No blank between the two: a line is never broken there.
    text = Text(f"{step.step}={step.ms:.1f}", style=_OUTCOMES.get(step.outcome, ""))
    if step.attempts > 1:
        text.append(f"{signs.times}{step.attempts}")
    if step.outcome is not StepOutcome.DONE:
        text.append(f" {step.error or step.outcome}")
    counts = _COUNTS.get(Step(step.step), ()) if step.step in set(Step) else ()
    told = [f"{record.counts[name]} {word}" for name, word in counts if record.counts.get(name)]
    if told:
        text.append(f" ({', '.join(told)})", style="cyan")
    return text


def sessions_table(rows: Iterable[tuple[SessionStatus, str]], console: Console) -> Table:
    """Sessions, one row each; with each status goes a remark, such as that its owner has ended."""
    table = _table(console)
    for column in ("session", "status", "reason", "created (UTC)"):
        table.add_column(column, no_wrap=True)
    table.add_column("duration", no_wrap=True, justify="right")
    if console.width >= ROOMY:
        table.add_column("adapter", no_wrap=True)
    table.add_column("name, labels", overflow="fold")
    for status, remark in rows:
        known_as = [status.name, *(f"{key}={value}" for key, value in sorted(status.labels.items()))]
        table.add_row(
            (status.session_id or "-") if console.width >= WIDE else short_id(status.session_id),
            Text(status.status, style=_STATES[status.status]),
            Text(remark or status.close_reason or "-", style="yellow" if remark else ""),
            long_time(status.created_at),
            span(status.duration),
            *([status.adapter] if console.width >= ROOMY else []),
            Text(" ".join(word for word in known_as if word)),
        )
    return table
