"""The picture of a session: a lane for each attachment on one axis of time, to scale.

Rule: places across are percentages and everything else is pixels, so a picture is as wide as its place and its text
keeps its size. Nothing in it is told by colour alone, and all of it is in the table below it as text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from lifecycle.audit import Record, RecordKind
from lifecycle.report.story import Course, Lane, Story
from lifecycle.report.texts import attribute, span, words
from lifecycle.states import State

if TYPE_CHECKING:
    from datetime import datetime

__all__ = ["SHAPES", "draw_timeline", "legend"]

_AXIS: Final = 20
_LANE: Final = 60
_APART: Final = 14
"""Per cent of the width that the name of an edge takes at most, on the narrowest screen."""

_MARKS: Final = 300
"""Marks of a lane that are drawn; the table has all."""

_SHAPES: Final = {
    RecordKind.REJECTED: '<path d="M-4-4L4 4M4-4L-4 4"/>',
    RecordKind.IGNORED: '<circle r="4"/>',
    RecordKind.JOINED: '<path d="M0-5L5 0L0 5L-5 0z"/>',
    RecordKind.EXTENDED: '<path d="M-4-5L5 0L-4 5z"/>',
    RecordKind.HELD: '<path d="M-3-5V5M3-5V5"/>',
    RecordKind.SPILLED: '<path d="M-4-4H4V4H-4z"/>',
    RecordKind.STALE: '<path d="M-5 0H5M-3-4L3 4"/>',
}

SHAPES: Final = (
    "<svg class=off aria-hidden=true><defs><pattern id=hatch width=5 height=5 patternUnits=userSpaceOnUse "
    'patternTransform=rotate(45)><rect width=5 height=5 /><path d="M0 0V5"/></pattern>'
    + "".join(f'<g id=m-{kind} class="m {kind}">{shape}</g>' for kind, shape in _SHAPES.items())
    + '<g id=m-end class="m end"><path d="M0-9V9"/></g></defs></svg>'
)
"""What the pictures of a page have in common; once on each page."""


def legend() -> str:
    """What the shapes mean."""
    sign = "<svg class=k width=16 height=16 aria-hidden=true>"
    shapes = "".join(f"<li>{sign}<use href=#m-{kind} x=8 y=8 /></svg>{kind}" for kind in _SHAPES)
    return (
        f"<ul class=legend><li>{sign}<rect class=e x=1 y=2 width=14 /></svg>from intent to commit"
        f'<li>{sign}<rect class="e bad" x=1 y=2 width=14 /></svg>given up, or without a commit'
        f"<li>{sign}<rect class=live x=0 y=6 width=16 /></svg>active"
        f"<li>{sign}<use href=#m-end x=8 y=8 /></svg>the end{shapes}</ul>"
    )


def draw_timeline(story: Story) -> str:
    """The picture of one session."""
    total = max((story.last - story.begin).total_seconds(), 0.001)

    def place(at: datetime) -> float:
        return min(max((at - story.begin).total_seconds() / total * 100, 0.0), 100.0)

    height = _AXIS + _LANE * len(story.lanes)
    told = "; ".join(f"{lane.role} {' to '.join(map(words, _states(lane)))}" for lane in story.lanes)
    parts = [f"<svg class=l height={height} role=img aria-label={attribute(f'Timeline of {span(total)}: {told}')}>"]
    for at, text in _ticks(total):
        parts.append(f"<rect class=g x={at:.4g}% /><text x={at:.4g}% y=11{_anchor(at)}>{text}</text>")
    for n, lane in enumerate(story.lanes):
        parts += [f"<svg y={_AXIS + _LANE * n}>", *_lane(story, lane, place), "</svg>"]
    parts.append("</svg>")
    return "".join(parts)


def _anchor(at: float) -> str:
    """Keeps the text at a place inside of the picture."""
    return " text-anchor=end" if at > 100 - _APART / 2 else " text-anchor=middle" if at > _APART / 2 else ""


def _lane(story: Story, lane: Lane, place: Callable[[datetime], float]) -> Iterator[str]:
    yield f"<text y=12 class=w>{lane.role}: {' → '.join(map(words, _states(lane)))}</text>"
    begun = next((r.at for r in lane.records if _reaches(r) and r.dest is State.ACTIVE), None)
    over = lane.end
    if begun is not None:
        since, until = place(begun), place(over.at if over is not None else story.last)
        yield f"<rect class=live x={since:.4g}% width={max(until - since, 0):.4g}% />"
    free = 0.0
    for course in story.courses:
        if course.lane is lane and course.intent is not None:
            begin, end = place(course.begin), place(course.end.at if course.end is not None else story.last)
            yield _bar(course, begin, end)
            if begin >= free:
                yield f"<text x={begin:.4g}% y=52{' text-anchor=end' if begin > 100 - _APART else ''}>"
                yield f"{course.record.event}</text>"
                free = begin + _APART
    shown = [mark.records[0] for mark in story.marks if mark.lane is lane]
    for r in shown[:_MARKS]:
        yield f"<use href=#m-{r.kind} x={place(r.at):.4g}% y=30><title>{r.kind} {r.event}</title></use>"
    if over is not None:
        yield f"<use href=#m-end x={place(over.at):.4g}% y=30 />"


def _bar(course: Course, begin: float, end: float) -> str:
    """The bar of one edge with its steps in it; a bar that would be too thin to see has a border that is not."""
    kind = '"e bad"' if course.end is None or course.end.kind is RecordKind.DIVERTED else "e"
    bar = f"<rect class={kind} x={begin:.4g}% width={max(end - begin, 0):.4g}% />"
    if end - begin > 3:  # per cent: below that a step is thinner than the border
        at, total = begin, max(course.ms, sum(step.ms for step in course.steps), 0.001)
        for step in course.steps:
            at += step.ms / total * (end - begin)
            if begin + 0.5 < at < end - 0.5:
                bar += f"<rect class=s x={at:.4g}% />"
    return bar


def _states(lane: Lane) -> Sequence[State]:
    """The states that a lane went through."""
    return [State.NOT_STARTED, *(r.dest for r in lane.records if _reaches(r) and r.dest is not r.source)]


def _reaches(r: Record) -> bool:
    return r.kind in (RecordKind.COMMIT, RecordKind.RECOVERED)


def _ticks(total: float) -> Iterator[tuple[float, str]]:
    """Round times on the axis, at most five: where, in per cent, and what stands there."""
    unit, sign = _unit(total)
    steps = (n * power for power in (0.001, 0.01, 0.1, 1, 10, 100, 1000, 10000) for n in (1, 2, 5))
    if unit in (60, 3600):
        steps = (n * power for power in (1, 60, 3600, 86400, 864000) for n in (1, 2, 5, 10, 15, 20, 30))
        step = next((s / unit for s in steps if total / s <= 4), total / unit / 4)
    else:
        step = next((s for s in steps if total / unit / s <= 4), total / unit / 4)
    n = 0
    while n * step * unit <= total:
        yield n * step * unit / total * 100, f"+{n * step:g} {sign}" if n else "0"
        n += 1


def _unit(total: float) -> tuple[float, str]:
    if total < 1:
        return 0.001, "ms"
    if total < 120:
        return 1, "s"
    return (60, "min") if total < 7200 else (3600, "h")
