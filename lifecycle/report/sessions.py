"""One session of the report: its row in the list, and below it the timeline and all that its records say.

Rule: the row is what the filters on the page look at, so each fact they go by is text in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from heapq import merge
from itertools import groupby
from typing import Final

from lifecycle.audit import Record, RecordKind, StepOutcome, StepResult
from lifecycle.report.story import Course, Lane, Mark, Story
from lifecycle.report.texts import attribute, clock, given, ms, span, stamp, words
from lifecycle.report.timeline import draw_timeline
from lifecycle.states import State

__all__ = ["COLUMNS", "draw_session"]

COLUMNS: Final = (
    "Session",
    "State",
    "Reason",
    "Started (UTC)",
    "Duration",
    "Slowest step",
    "Adapter",
    "Errors",
    "Labels",
)

_BAD: Final = frozenset({StepOutcome.FAILED, StepOutcome.TIMED_OUT, StepOutcome.CANCELLED})
_ENDS: Final = {
    RecordKind.COMMIT: "committed",
    RecordKind.DIVERTED: "given up",
    RecordKind.RECOVERED: "recovered",
    RecordKind.HOOKS: "done",
}


def draw_session(story: Story, path: int, *, opened: bool, kept: bool) -> str:
    """A session as a group of two rows.

    Args:
        story: The session.
        path: The number of the figure that shows its path.
        opened: True to show the timeline from the start.
        kept: True to keep what is below the row as text until the script of the page shows it. Where there is no
            script it is shown as any other.
    """
    body = _body(story, path)
    # With scripts at work a parser takes what is in <noscript> for text, and makes one node of it instead of a hundred.
    below = f"<noscript>{body}</noscript>" if kept else body
    name = story.row.name if story.row is not None else None
    known = story.session_id or f"no id ({story.main.attachment_id[:8]})"
    short = given(story.session_id[:8]) if story.session_id else "no id"
    head = f"<th title={attribute(known)}><details{' open' if opened else ''}><summary>{short}</summary></details>" + (
        f"<b>{given(name)}</b>" if name else ""
    )
    return (
        f'<tbody class="s {story.state}"><tr>{head}{"".join(f"<td{cell}" for cell in _cells(story))}'
        f"<tr class=b><td colspan={len(COLUMNS)}>{below}\n"
    )


def _cells(story: Story) -> Iterator[str]:
    """The cells after the first, each from the end of its opening tag on."""
    yield f">{words(story.state)}"
    yield f">{words(story.close_reason) if story.close_reason is not None else '-'}"
    yield f">{stamp(story.begin)}"
    yield f">{span(story.duration)}"
    slow = story.slowest
    yield f" data-ms={slow.ms:.10g}>{given(slow.step)} {ms(slow.ms)}" if slow is not None else ">-"
    yield f">{given(story.first.adapter)}"
    yield ">" + (" ".join(f"<code>{given(error)}</code>" for error in story.errors) or "-")
    yield ">" + (", ".join(f"{given(key)}={given(value)}" for key, value in _labels(story)) or "-")


def _labels(story: Story) -> Sequence[tuple[str, str]]:
    return sorted(story.main.records[-1].labels.items())


def _body(story: Story, path: int) -> str:
    known = given(story.session_id) if story.session_id else "without an id"
    facts = "".join(f"<dt>{name}<dd>{text}" for name, text in _facts(story, path))
    return (
        f"<h3>Session {known}</h3><dl>{facts}</dl>{draw_timeline(story)}"
        "<table class=t><thead><tr><th>Time (UTC)<th>Who<th>Event, step or hook<th>Outcome<th>Took<th>Share</thead>"
        f"{''.join(_lines(story))}</table>"
    )


def _facts(story: Story, path: int) -> Iterator[tuple[str, str]]:
    row, end = story.row, story.main.end
    if row is not None and row.name:
        yield "name", given(row.name)
    if labels := _labels(story):
        yield "labels", " ".join(f"<span class=label>{given(key)}={given(value)}</span>" for key, value in labels)
    reason = f", {words(story.close_reason)}" if story.close_reason is not None else ""
    at = f" at {stamp(end.at)} UTC" if end is not None else ", as of the last record"
    yield "state", f"{words(story.state)}{reason}{at}"
    if row is not None and row.error:
        yield "error", given(row.error)
    if row is not None and row.state is State.ERROR and not row.released:
        yield "released", "no: what it ran on may still be there"
    if row is not None:
        yield "limits", f"{row.timeout_minutes:g} min without use, {row.max_duration_minutes:g} min in all"
    yield "path", f"<a href=#path-{path}>path {path}</a>"
    for lane in story.lanes:
        yield lane.role, _who(lane)
    used = {key: value for r in story.main.records for key, value in r.counts.items()}
    told = ", ".join(f"{given(words(key))} {value:,}" for key, value in sorted(used.items()) if key not in _MOVES)
    if told:
        yield "counts", told


_MOVES: Final = ("seconds", "records")
"""Counts that belong to the records that they stand in."""


def _who(lane: Lane) -> str:
    first = lane.records[0]
    where = {f"process {r.pid} on {given(r.host)}": None for r in lane.records}
    return f"<code>{given(lane.attachment_id[:8])}</code> by {', '.join(where)}, on {given(first.adapter)}"


def _lines(story: Story) -> Iterator[str]:
    numbered = merge(
        ((course.number, course.begin, _course(course)) for course in story.courses),
        ((mark.number, mark.records[0].at, _mark(mark)) for mark in story.marks),
        key=lambda told: told[0],
    )
    day = story.begin.date()
    for _, at, line in numbered:
        if at.date() != day:
            day = at.date()
            yield f"<tbody><tr><th colspan=6 class=d>{day} UTC"
        yield line


def _course(course: Course) -> str:
    r = course.record
    hooks = r.kind is RecordKind.HOOKS
    what = f"<b>hooks after {r.event}</b>" if hooks else f"<b>{r.event}</b> {words(r.source)} → {words(r.dest)}"
    end = course.end
    outcome = _ENDS[end.kind] if end is not None else "no commit"
    bad = end is None or end.kind in (RecordKind.DIVERTED, RecordKind.RECOVERED)
    error = _error(r.error)
    took = ms(course.ms) if end is not None else "-"
    share = max(course.ms, sum(step.ms for step in course.steps), 0.001)
    head = f"<tbody{' class=bad' if bad else ''}><tr><td>{clock(course.begin)}<td>{course.lane.role}<th>{what}{_why(r)}"
    return f"{head}<td>{outcome}{error}<td>{took}<td>{''.join(_steps(course, share))}"


def _steps(course: Course, share: float) -> Iterator[str]:
    """A row for each step; those in a row that were skipped have one together."""
    at = 0.0
    for skipped, group in groupby(course.steps, lambda step: step.outcome is StepOutcome.SKIPPED):
        if skipped:
            told = (f"{given(step.step)}{f' ({given(step.note)})' if step.note else ''}" for step in group)
            yield f"<tr class=q><td colspan=3>{', '.join(told)}<td>skipped<td><td>"
            continue
        for step in group:
            yield _step(step, at / share * 100, step.ms / share * 100)
            at += step.ms


def _step(step: StepResult, begin: float, width: float) -> str:
    bad = " class=bad" if step.outcome in _BAD else ""
    times = f" <small>{step.attempts} attempts</small>" if step.attempts > 1 else ""
    note = f" <small>{given(step.note)}</small>" if step.note else ""
    bar = f"<svg role=none><rect x={begin:.3g}% width={max(width, 0.5):.3g}% /></svg>"
    return (
        f"<tr{bad}><td colspan=3>{given(step.step)}{times}{note}<td>{words(step.outcome)}{_error(step.error)}"
        f"<td>{ms(step.ms)}<td>{bar}"
    )


def _mark(mark: Mark) -> str:
    r = mark.records[0]
    number = len(mark.records)
    more = f" <small>{number:,} times, the last at {clock(mark.records[-1].at)}</small>" if number > 1 else ""
    return (
        f"<tbody class={'bad' if r.kind is RecordKind.REJECTED else 'q'}><tr><td>{clock(r.at)}<td>{mark.lane.role}"
        f"<th><svg class=k width=12 height=12 aria-hidden=true><use href=#m-{r.kind} x=6 y=6 /></svg>"
        f"<b>{r.event}</b> in {words(r.source)}{more}{_why(r)}<td>{r.kind}{_error(r.error)}<td><td>"
    )


def _error(error: str | None) -> str:
    return f" <code>{given(error)}</code>" if error else ""


def _why(r: Record) -> str:
    """The second line of an event: who or what sent it, and what more there is."""
    told = [f"by {given(r.cause)}" + (f" ({given(r.thread)})" if r.thread and r.thread != "supervisor" else "")]
    if r.close_reason is not None:
        told.append(words(r.close_reason))
    if r.in_flight != "nothing" and r.kind in (RecordKind.REJECTED, RecordKind.IGNORED, RecordKind.JOINED):
        told.append(f"while {r.in_flight} was in flight")
    if r.kind in (RecordKind.EXTENDED, RecordKind.HELD):
        told.append(f"{r.counts.get('seconds', 0) / 60:.3g} min")
    if r.kind is RecordKind.SPILLED:
        told.append(f"{r.counts.get('records', 0):,} records were written late")
    if r.said is not None:
        told.append(f"{r.said} to {r.dest}, said after its lease was lost")
    failed = [given(guard.guard) for guard in r.guards if not guard.held]
    if failed:
        told.append(f"not: {', '.join(failed)}")
    if r.note:
        told.append(given(r.note))
    return f"<small>{', '.join(told)}</small>"
