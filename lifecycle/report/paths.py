"""The paths that sessions took, each once, lit on the state diagram.

Rule: the picture is the one of `lifecycle.diagram`; here parts of it are marked, and nothing is drawn.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final
from xml.sax.saxutils import escape

from lifecycle.diagram import DiagramError, render
from lifecycle.diagram.style import STYLE
from lifecycle.report.story import Move
from lifecycle.report.texts import plural, words
from lifecycle.states import EDGES, INITIAL

__all__ = ["DIAGRAM_STYLE", "Paths", "lit_picture"]

_DARK: Final = "@media (prefers-color-scheme:dark)"

# A dark page is printed light. Nested, since rules of the picture such as `text{}` are not meant for the page.
DIAGRAM_STYLE: Final = f".diagram{{{STYLE.replace(_DARK, '@media screen and (prefers-color-scheme:dark)')}}}"
"""The style of the picture, for the head of the page."""


class Paths:
    """Numbers paths in the order in which they come, and counts how many sessions took each."""

    def __init__(self) -> None:
        self._numbers: dict[frozenset[Move], int] = {}
        self._ways: list[Sequence[Move]] = []
        self._sessions: list[int] = []

    def add(self, way: Sequence[Move]) -> int:
        """Count a session that went this way; the number of its path, from 1."""
        number = self._numbers.setdefault(frozenset(way), len(self._ways) + 1)
        if number > len(self._ways):
            self._ways.append(way)
            self._sessions.append(0)
        self._sessions[number - 1] += 1
        return number

    def draw(self) -> Iterator[str]:
        """A part of the page for each path. The only one there is, is shown from the start."""
        opened = " open" if len(self._ways) == 1 else ""
        for number, (way, count) in enumerate(zip(self._ways, self._sessions, strict=True), 1):
            told = ", ".join(map(_told, way)) or "no edge was taken"
            name = f"<b>Path {number}</b> <span>{plural(count, 'session')}</span>"
            yield (
                f"<div class=path><details{opened}><summary>{name} {told}</summary></details>"
                f"<figure id=path-{number} tabindex=0 role=group "
                f'aria-label="Path {number} on the state diagram"><div class=diagram>{_lit(way, number)}</div></figure>'
                "</div>"
            )


_LIT: Final = """
g.edge,g.state{opacity:.42}
g.taken,g.left,g.reached{opacity:1}
.reached rect:first-child{stroke-width:3.5}
.taken .line{stroke:#1a7f37;stroke-width:3.5}
.left .line{stroke:#cf222e;stroke-width:2.5;stroke-dasharray:6 5}
"""


def lit_picture(way: Sequence[Move]) -> str:
    """The state diagram as a picture of its own, with one way lit on it."""
    return _marked(render("svg").replace("</style>", f"{_LIT}</style>"), way)


def _told(move: Move) -> str:
    edge = EDGES[move.edge]
    return f"{edge.event}: {words(edge.source)} → {words(edge.dest)}" + ("" if move.taken else " (given up)")


def _lit(way: Sequence[Move], number: int) -> str:
    return _marked(_bare(render("svg"), number), way)


def _marked(svg: str, way: Sequence[Move]) -> str:
    taken = {move.edge for move in way if move.taken}
    reached = {INITIAL, *(EDGES[n].dest for n in taken)}
    for n in {move.edge for move in way}:
        edge = EDGES[n]
        name = edge.full_name.replace('"', "'")
        svg = _mark(svg, f'<g class="edge" data-edge="{escape(name)}">', "edge", "taken" if n in taken else "left")
    for state in reached:
        svg = _mark(svg, f'<g class="state {state}">', "state", "reached")
    return svg


def _mark(svg: str, tag: str, kind: str, more: str) -> str:
    if svg.count(tag) != 1:
        msg = f"the picture has {svg.count(tag)} of {tag}, so it can't be marked"
        raise DiagramError(msg)
    return svg.replace(tag, tag.replace(f'"{kind}', f'"{more} {kind}'))


def _bare(svg: str, number: int) -> str:
    """The picture without its style, which the page has once, and with ids of its own."""
    svg = re.sub(r"<style>.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    return re.sub(r'\b(id="|url\(#|aria-labelledby=")(title|told|tip)( told)?', rf"\1d{number}-\2\3", svg).replace(
        f"d{number}-title told", f"d{number}-title d{number}-told"
    )
