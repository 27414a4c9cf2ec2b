"""The machine as an SVG of our own, laid out by hand for the width of a README.

Rule: places are for kinds of edges, not for edges. Openings run between the two live states, endings branch off a
trunk below each of them into the final states, and an edge that changes no state is a loop. Lanes are stacked as the
table has them, so a new edge of these kinds finds its place; one of another kind, or a text that does not fit,
raises `DiagramError`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from types import MappingProxyType
from typing import Final
from xml.sax.saxutils import escape

from lifecycle.diagram.style import STYLE, DiagramError, Line, Span, fill
from lifecycle.states import INITIAL, STEPS, TERMINAL, Edge, Policy, State

WIDTH: Final = 830
"""Width in pixels: what a README has. All text is 12 pixels or more at this width."""

_MARGIN: Final = 18
_BOX: Final = 112
_LEFT: Final = _MARGIN
_MIDDLE: Final = (WIDTH - _BOX) // 2
_RIGHT: Final = WIDTH - _MARGIN - _BOX
_TRUNK: Final = 18
_PAD: Final = 14
_LINE: Final = 17
_LANE_GAP: Final = 18
_ROW_GAP: Final = 16
_TOP: Final = 66

_LIVE: Final[Mapping[State, int]] = MappingProxyType({INITIAL: _LEFT, State.ACTIVE: _RIGHT})
"""Where the live states stand: their left edges."""
_FINAL: Final = (State.CLOSED, State.TIMED_OUT, State.ERROR)
"""The rows of the final states, from the top."""


@dataclass(frozen=True, slots=True)
class _Lane:
    """One edge with what stands above its line and below it."""

    edge: Edge
    above: Sequence[Line]
    below: Sequence[Line]


@dataclass(slots=True)
class _Sorted:
    """The edges by the kind of place they have."""

    loops: list[Edge] = field(default_factory=list)
    openings: list[Edge] = field(default_factory=list)
    endings: dict[tuple[State, State], list[Edge]] = field(default_factory=dict)


def _sort(edges: Sequence[Edge]) -> _Sorted:
    unplaced = [state for state in State if state not in _LIVE and state not in _FINAL]
    if unplaced:
        msg = f"the picture has no place for the state {', '.join(unplaced)}"
        raise DiagramError(msg)
    places = _Sorted()
    for edge in edges:
        if edge.internal and edge.source is State.ACTIVE and not places.loops:
            places.loops.append(edge)
        elif edge.source is INITIAL and edge.dest is State.ACTIVE:
            places.openings.append(edge)
        elif edge.source in _LIVE and edge.dest in _FINAL:
            places.endings.setdefault((edge.source, edge.dest), []).append(edge)
        else:
            msg = f"the picture has no place for the edge {edge.full_name}"
            raise DiagramError(msg)
    return places


def _lane(edge: Edge, width: float) -> _Lane:
    guards = [f"{guard}," for guard in edge.guards]
    if guards:
        guards = [f"[{guards[0]}", *guards[1:]]
        guards[-1] = f"{guards[-1][:-1]}]"
    above = fill([Span("event", edge.event), *(Span("guard", guard) for guard in guards)], width)
    steps = [f"{step} →" for step in edge.steps[:-1]] + list(edge.steps[-1:])
    below = [Span("steps", step) for step in steps] or [Span("quiet", _no_steps(edge))]
    return _Lane(edge, above, fill(below, width))


def _no_steps(edge: Edge) -> str:
    return "changes no state, has no steps" if edge.internal else "no steps"


_SVG: Final = f'width="{WIDTH}" role="img" aria-labelledby="title told"'
_TIP: Final = 'viewBox="0 0 10 10" refX="9" refY="5" markerWidth="6" markerHeight="6" orient="auto"'


def draw_svg(edges: Sequence[Edge]) -> str:
    """The whole picture.

    Raises:
        DiagramError: It has no place for an edge or a state, or a text does not fit.
    """
    body, height = _body(_sort(edges))
    title = "The lifecycle of a session"
    told = (
        f"States, and the {len(edges)} edges between them with their guards and steps; table.md has the same as text."
    )
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" {_SVG}>',
        "<!-- Drawn from the table in lifecycle/states.py by `python -m lifecycle.diagram`; do not edit. -->",
        f'<title id="title">{title}</title>',
        f'<desc id="told">{told}</desc>',
        f"<style>{STYLE}</style>",
        "<defs>",
        f'<marker id="tip" {_TIP}><path class="tip" d="M0 0.5L10 5L0 9.5L2.5 5z"/></marker>',
        "</defs>",
        f'<rect class="card" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="8"/>',
    ]
    return "\n".join([*head, *body, "</svg>"]) + "\n"


def _body(places: _Sorted) -> tuple[list[str], int]:
    out: list[str] = []
    y = _TOP
    start, width = _LEFT + _BOX, _RIGHT - _LEFT - _BOX
    for lane in [_lane(edge, width - _PAD - 8) for edge in places.openings]:
        line_y = y + _LINE * len(lane.above) + 2
        out += _edge(lane, f"M{start} {line_y}H{start + width}", start + _PAD, line_y)
        y = line_y + _LINE * len(lane.below) + _LANE_GAP
    bottom = max(y - _LANE_GAP + 10, _TOP + 60)
    out += _entry()
    for edge in places.loops:
        out += _loop(edge)
    y = bottom + _ROW_GAP + 6
    boxes = [_box(state, x, _TOP, bottom - _TOP) for state, x in _LIVE.items()]
    for dest in _FINAL:
        drawn, box, y = _row(places, dest, bottom, y)
        out += drawn
        boxes.append(box)
    legend, height = _legend(y + 4)
    return [*out, *boxes, *legend], height


def _row(places: _Sorted, dest: State, top: int, y: int) -> tuple[list[str], str, int]:
    """A final state with the endings that lead into it, those of one lane at one height on both sides."""
    room = _MIDDLE - _LEFT - _TRUNK - 2 * _PAD
    sides = [[_lane(edge, room) for edge in places.endings.get((source, dest), [])] for source in _LIVE]
    out: list[str] = []
    heights: list[int] = []
    for lanes in zip_longest(*sides):
        line_y = y + _LINE * max(len(lane.above) for lane in lanes if lane) + 2
        heights.append(line_y)
        for lane in filter(None, lanes):
            out += _ending(lane, top, line_y)
        y = line_y + _LINE * max(len(lane.below) for lane in lanes if lane) + _LANE_GAP
    if not heights:  # nothing leads here: the state is shown all the same
        heights, y = [y + 22], y + 60
    box = _box(dest, _MIDDLE, heights[0] - 22, heights[-1] - heights[0] + 44)
    return out, box, y + _ROW_GAP - _LANE_GAP // 2


def _ending(lane: _Lane, top: int, y: int) -> Iterator[str]:
    """A line down the trunk of its source and across into the final state."""
    if _LIVE[lane.edge.source] == _LEFT:
        trunk, turn, end, text = _LEFT + _TRUNK, 10, _MIDDLE, _LEFT + _TRUNK + _PAD
    else:
        trunk, turn, end = _RIGHT + _BOX - _TRUNK, -10, _MIDDLE + _BOX
        text = end + _PAD + 4
    yield from _edge(lane, f"M{trunk} {top}V{y - 10}Q{trunk} {y} {trunk + turn} {y}H{end}", text, y)


def _edge(lane: _Lane, path: str, x: int, y: int) -> Iterator[str]:
    name = lane.edge.full_name.replace('"', "'")
    yield f'<g class="edge" data-edge="{escape(name)}">'
    yield f'<path class="line" d="{path}" marker-end="url(#tip)"/>'
    for n, line in enumerate(reversed(lane.above)):
        yield _text(line, x, y - 7 - n * _LINE)
    for n, line in enumerate(lane.below):
        yield _text(line, x, y + 16 + n * _LINE)
    yield "</g>"


def _entry() -> Iterator[str]:
    """The point where a new session comes in."""
    x = _LEFT + _BOX // 2
    yield f'<circle class="tip" cx="{x}" cy="{_MARGIN + 8}" r="6"/>'
    yield f'<path class="line" d="M{x} {_MARGIN + 14}V{_TOP}" marker-end="url(#tip)"/>'


def _loop(edge: Edge) -> Iterator[str]:
    lane = _lane(edge, _RIGHT - _LEFT - _BOX - 40)
    x, y = _RIGHT + _BOX - 46, _TOP - 26
    path = f"M{x} {_TOP}V{y + 4}Q{x} {y - 8} {x + 12} {y - 8}H{x + 16}Q{x + 28} {y - 8} {x + 28} {y + 4}V{_TOP}"
    if len(lane.above) + len(lane.below) > 2:
        msg = f"the text of the loop {edge.name} does not fit in two lines"
        raise DiagramError(msg)
    yield f'<g class="edge" data-edge="{escape(edge.full_name)}">'
    yield f'<path class="line" d="{path}" marker-end="url(#tip)"/>'
    for n, line in enumerate([*lane.above, *lane.below]):
        yield _text(line, x - _PAD, _MARGIN + 12 + n * _LINE, anchor="end")
    yield "</g>"


def _box(state: State, x: int, y: int, height: int) -> str:
    middle = y + height / 2 + 5
    inner = ""
    if state in TERMINAL:
        inner = f'<rect x="{x + 4}" y="{y + 4}" width="{_BOX - 8}" height="{height - 8}" rx="5"/>'
    if Span("state", state).width > _BOX - 10:
        msg = f"the name of the state {state} does not fit in its box"
        raise DiagramError(msg)
    return (
        f'<g class="state {state}"><rect x="{x}" y="{y}" width="{_BOX}" height="{height}" rx="9"/>{inner}'
        f'<text class="state" x="{x + _BOX // 2}" y="{middle:g}" text-anchor="middle">{state}</text></g>'
    )


def _legend(y: int) -> tuple[list[str], int]:
    out = [f'<path class="rule" d="M{_MARGIN} {y}H{WIDTH - _MARGIN}"/>']
    y += 8
    for columns in _legend_rows():
        y += _LINE + 2
        out += [_text(line, x, y) for x, line in columns]
    return out, y + _MARGIN


def _legend_rows() -> Iterator[list[tuple[int, Line]]]:
    """Lines of text, each piece with the left edge of its column."""
    told = [
        [Span("event", "event"), Span("guard", "[guards, which all hold]"), *_words("stand above an arrow, its")],
        [Span("steps", "steps"), *_words("in order below it. A state with a double border is final.")],
        _words("In flight: the steps of an edge are running. The state changes when they are done."),
    ]
    for line in [*fill([*told[0], *told[1]], WIDTH - 2 * _MARGIN), *fill(told[2], WIDTH - 2 * _MARGIN)]:
        yield [(_MARGIN, line)]
    middle, right = _MARGIN + 100, _MARGIN + 268
    first = "If a step fails:"
    for policy, text in _WHEN_IT_FAILS.items():
        steps = [step for step, rule in STEPS.items() if rule.policy is policy]
        names = [Span("steps", f"{step},") for step in steps[:-1]] + [Span("steps", step) for step in steps[-1:]]
        (said,) = fill([Span("note", text)], right - middle - 6)  # a text of ours, which fits
        for n, line in enumerate(fill(names, WIDTH - _MARGIN - right)):
            lead = [(_MARGIN, (Span("note", first),))] if first else []
            yield [*lead, *([(middle, said)] if n == 0 else []), (right, line)]
            first = ""


_WHEN_IT_FAILS: Final = MappingProxyType(
    {
        Policy.DIVERT: "take the fail arrow",
        Policy.CARRY_ON: "carry on, tell the caller",
        Policy.RETRY: "retry, then end in error",
    }
)


def _words(text: str) -> list[Span]:
    return [Span("note", word) for word in text.split()]


def _text(line: Line, x: float, y: float, *, anchor: str = "") -> str:
    spans = " ".join(f'<tspan class="{span.style}">{escape(span.text)}</tspan>' for span in line)
    end = f' text-anchor="{anchor}"' if anchor else ""
    return f'<text x="{x}" y="{y}"{end}>{spans}</text>'
